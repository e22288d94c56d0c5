"""``axon config``."""

from __future__ import annotations

import argparse

from axon.commands import Verbs, named_path, verb


def add(verbs: Verbs) -> None:
    config = verb(verbs, "config", "check a configuration", "Check a configuration and print it with every default.")
    config.add_argument("file", type=named_path)
    config.set_defaults(verb=_config)


def _config(arguments: argparse.Namespace) -> None:
    from axon.config import Config

    config = Config.load(arguments.file)
    print(f"# fingerprint {config.fingerprint()}\n{config.to_yaml()}", end="")
