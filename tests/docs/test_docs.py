"""Every link in the documentation leads somewhere, and every command in it is one that can be called."""

import argparse
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from unittest import mock

import pytest

from axon import __version__
from axon.cli import parser
from axon.commands.pipeline import unfold

ROOT = Path(__file__).parents[2]
# What follows the language says how tests/e2e/test_docs_run.py runs the block.
FENCE = re.compile(r"^```(\w*)(?: [^\n]*)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELL = ("sh", "console", "bash", "")
MAKEFILE = (ROOT / "Makefile").read_text()


def pages() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / name for name in sorted(set(listed)) if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def axon() -> argparse.ArgumentParser:
    with mock.patch.dict(os.environ, MLFLOW_TRACKING_URI="sqlite:///mlflow.db"):
        return unfold(parser())


def prose(text: str) -> str:
    return FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


def long_lines(text: str) -> list[str]:
    """Lines of prose and blocks over 120 characters: no table, no HTML, and not a picture or a link on a line of its
    own.
    """
    unbroken = re.compile(r"^\s*(\||<|!?\[[^\]]*\]\([^)]*\)\S?$)")
    return [line for line in text.splitlines() if len(line) > 120 and not unbroken.match(line)]


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    return broken


def calls(line: str) -> list[list[str]]:
    """The calls of ``axon`` and ``make`` in a line of a shell block, as words; what follows two spaces is a remark."""
    line = re.split(r"\s{2,}", line.strip().removeprefix("$ "))[0]
    if not re.search(r"\b(axon|make)\b", line):
        return []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            found[-1].append(word)
    named = [words[2:] if words[:2] == ["python", "-m"] else words for words in found]
    return [
        [words[0].removeprefix(".venv/bin/"), *words[1:]]
        for words in named
        if words and re.fullmatch(r"(\.venv/bin/)?axon|make", words[0])
    ]


def shell_calls(text: str) -> list[list[str]]:
    blocks = [block.replace("\\\n", " ") for language, block in FENCE.findall(text) if language in SHELL]
    lines = [line for block in blocks for line in block.splitlines()]
    return [call for line in lines for call in calls(line)]


def fault(axon: argparse.ArgumentParser, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with a call; empty where nothing is."""
    if words[0] == "make":
        return make_fault(words[1:])
    try:
        axon.parse_args(words[1:])
    except SystemExit as ended:
        said = capsys.readouterr().err.strip().splitlines()
        return f"{shlex.join(words)}: {said[-1]}" if ended.code else ""
    return ""


def make_fault(words: list[str]) -> str:
    for word in words:
        name, given, _ = word.partition("=")
        known = (
            re.search(rf"\b{name}\b *[?:]?=|\$\({name}\)", MAKEFILE)
            if given
            else re.search(rf"^{re.escape(name)}:", MAKEFILE, re.MULTILINE)
        )
        if not known:
            return f"make {' '.join(words)}: {word}"
    return ""


def inline_fault(axon: argparse.ArgumentParser, code: str) -> str:
    """The same for a command in a sentence, which may be cut short: its verbs and options exist."""
    words = [word.strip(",") for word in code.split()]
    if words[0] == "make":
        return make_fault([word for word in words[1:] if word != "..."])
    at: argparse.ArgumentParser = axon
    for word in words[1:]:
        verbs = next((action.choices for action in at._actions if isinstance(action, argparse._SubParsersAction)), None)
        if word.startswith("--"):
            if word.partition("=")[0] not in at._option_string_actions:
                return f"{code}: {word}"
        elif verbs is not None and word[0].isalpha() and word.islower():
            if word not in verbs:
                return f"{code}: {word}"
            # "axon pipeline submit, status": what follows a comma is a verb beside, not below.
            at = at if f"{word}," in code else verbs[word]
    return ""


@pytest.mark.parametrize("name", ["CITATION.cff", "README.md", "containers/images.yaml", "docs/serve.md"])
def test_the_version_is_the_package_s(name: str) -> None:
    found = re.findall(r"(?:axon_ct-|axon/[\w-]+:|^version: )(\d[\d.]*\d)", (ROOT / name).read_text(), re.MULTILINE)
    assert found and set(found) == {__version__}


def test_no_other_page_names_a_version_of_wheel_or_image() -> None:
    named = {page for page in pages() if re.search(r"axon_ct-\d|axon/[\w-]+:\d", page.read_text())}
    assert named == {ROOT / "README.md", ROOT / "docs/serve.md"}


def test_there_are_pages_and_commands() -> None:
    assert {"README.md", "docs/tutorial.md", "docs/reference/cli.md"} <= {
        str(page.relative_to(ROOT)) for page in pages()
    }
    assert len([call for page in pages() for call in shell_calls(page.read_text())]) > 60


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_and_blocks_keep_to_120_characters(page: Path) -> None:
    """So that a change shows what changed."""
    assert page.parent.name == "axon-small" or long_lines(page.read_text()) == []


def test_the_tour_keeps_to_120_characters() -> None:
    cells = ["".join(cell["source"]) for cell in json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]]
    assert [line for cell in cells for line in long_lines(cell)] == []


def listed(*patterns: str) -> list[tuple[str, str]]:
    """The lines of the checkout's files of these names, each with its file."""
    command = ["git", "ls-files", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [(name, line) for name in names for line in (ROOT / name).read_text().splitlines()]


def test_lines_keep_to_120_characters_where_ruff_does_not_look() -> None:
    """Those of the pages and the Makefile all; of other files the comments."""
    lines = listed("Makefile", "*.html", "*.js", "*.css", "*.j2", ":!*/vendor/*")
    assert len({name for name, _ in lines}) >= 7
    lines += [
        each for each in listed("*.yaml", "*.yml", "*.toml", "*.sh", "*Containerfile*", ".ci/*") if "#" in each[1]
    ]
    made = "pipelines/axon_pipeline.yaml"
    # Ruff passes over a comment for it and a line without blanks; the recipe's text is in the data that it names.
    lines += [each for each in listed("*.py") if each[0] != "src/axon/data/default_recipe.py"]
    assert [(name, line) for name, line in lines if len(line) > 120 and name != made] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_called(page: Path, axon: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    faults = [fault(axon, call, capsys) for call in shell_calls(page.read_text())]
    codes = re.findall(r"`((?:axon|make)(?: [^`\n]+)?)`", prose(page.read_text()))
    faults += [inline_fault(axon, code) for code in codes]
    assert [found for found in faults if found] == []


@pytest.mark.slow
def test_codes_and_variables_exist() -> None:
    """What looks like an error code or an environment variable occurs in the product."""
    names = subprocess.run(
        ["git", "ls-files", "*.py", "Makefile", "*.yaml", ".ci/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    product = (
        " ".join((ROOT / name).read_text() for name in names.stdout.split())
        + (ROOT / "docs/reference/errors.md").read_text()
    )
    told = {code for page in pages() for code in re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)\b", page.read_text())}
    assert len(told) > 60
    assert sorted(code for code in told if code not in product) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("$ axon reconstruct a.png -o out  # two spaces", ""),
        ("AXON_X=1 axon config configs/smoke.yaml && make demo DATA=x", ""),
        ("source <(axon completion bash)", ""),
        ("axon reconstruct a.png -o out --smaples 3", "--smaples"),
        ("axon modle list", "modle"),
        ("axon pipeline run --folder x --revision y", "not allowed"),
        ("make deom", "deom"),
        ("make demo DTAA=x", "DTAA"),
    ],
)
def test_a_wrong_command_is_found(
    line: str, wrong: str, axon: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = [fault(axon, call, capsys) for call in calls(line)]
    assert faults and (wrong in "".join(faults)) and bool("".join(faults)) == bool(wrong)


def test_a_long_line_is_found() -> None:
    long = "word " * 30
    allowed = f"| {long} |\n<p>{long}</p>\n![{long}](a.png)\n"
    assert long_lines(allowed) == []
    assert long_lines(f"{allowed}```sh\n{long}\n```\n> {long}\n- {long}\n[a](b.md) {long}\n") == [
        long,
        f"> {long}",
        f"- {long}",
        f"[a](b.md) {long}",
    ]


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n[a](#a-title) [b](#b-title) [c](page.md#a-title) [d](gone.md) [e](https://example.org)\n"
        "```\n[f](gone.md)\n```\n"
    )
    assert broken_links(page) == ["#b-title", "gone.md"]
