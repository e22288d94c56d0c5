"""``axon completion``."""

from __future__ import annotations

import argparse

from axon.commands import Verbs, named_path, parsers, verb

EPILOG = """examples:
  source <(axon completion bash)                                                for this shell
  axon completion bash > ~/.local/share/bash-completion/completions/axon        for every bash to come
  axon completion zsh > ~/.zfunc/_axon                                          with ~/.zfunc in $fpath, before compinit
  axon completion fish > ~/.config/fish/completions/axon.fish                   for every fish to come
"""


def add(verbs: Verbs) -> None:
    about = "Print a script that lets the shell complete verbs, options and file names of `axon` when you press Tab."
    parser = verb(verbs, "completion", "a script for your shell's Tab key", about, EPILOG)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.set_defaults(verb=_completion)


def _completion(arguments: argparse.Namespace) -> None:
    import shtab

    from axon.commands.pipeline import unfold

    top = unfold(arguments.parser())
    for each in parsers(top):
        for action in each._actions:
            if action.type is named_path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # how shtab is told
    print(shtab.complete(top, arguments.shell))
