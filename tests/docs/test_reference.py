"""docs/reference is what the code says, and nothing that a user can meet is missing from it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import generate
from docs.generators import configuration, errors

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_pages_are_up_to_date_and_made_without_torch() -> None:
    script = """
import sys
from docs import generate
sys.argv = ["generate", "--check"]
code = generate.main()
print("torch" in sys.modules)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["docs/reference is up to date", "False"]


def test_a_stale_page_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate"])
    assert generate.main() == 0
    page = tmp_path / "errors.md"
    page.write_text(page.read_text().replace("XRAY_FLAT", "XRAY_ROUND"))
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    assert generate.main() == 1
    assert "errors.md" in capsys.readouterr().out and "XRAY_ROUND" in page.read_text()


def test_every_code_that_a_docstring_promises_is_listed() -> None:
    known = {raised.code for raised in errors.every_error()}
    promised = set()
    for path in errors.sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (told := ast.get_docstring(node)):
                raises = re.findall(r"(?:Raises:|Raises AxonError).*", told, re.DOTALL)
                promised |= {code for text in raises for code in re.findall(r"``([A-Z][A-Z0-9_]{2,})``", text)}
    assert len(promised) > 60
    assert promised <= known


def test_messages_read_as_a_person_sees_them() -> None:
    found = {(raised.code, raised.message, raised.fix) for raised in errors.every_error()}
    assert ("XRAY_TOO_SMALL", "the film has {rows} x {columns} pixels", "give 64 or more a side") in found
    assert {code for code, _, _ in found if code.endswith("_SYNTAX")} == {"CT_SYNTAX", "XRAY_SYNTAX"}


def test_a_code_lists_its_own_messages_and_no_others() -> None:
    told = """
def two(a, b):
    message, fix = "first", "usual"
    if a:
        raise AxonError("ONE", message, fix)
    if b:
        message = "second"
    else:
        message = why(b)
    raise AxonError("TWO", message, "mend")
def why(b) -> str:
    return f"third {b}" if b else "fourth"
def passed(message, fix):
    return AxonError("THREE", message, fix)
passed("fifth", "do this")
passed("sixth", fix="do that")
"""
    source = errors._Source(ast.parse(told))
    calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call) and len(node.args) == 3)
    found = {way for call in calls for way in source.ways(call.args)}
    assert ("ONE", "first", "usual") in found and ("THREE", "fifth", "do this") in found
    assert {message for code, message, _ in found if code == "TWO"} == {"second", "third {b}", "fourth"}
    assert len(found) == 1 + 3 + 2
    known = {(raised.code, raised.message) for raised in errors.every_error()}
    grid = {message for code, message in known if code == "REFERENCE_GRID"}
    assert len(grid) == 2 and all(message.startswith("a reference ") for message in grid)
    assert not [code for code, message in known if message == "{source}"]


def test_every_key_of_the_configuration_is_explained() -> None:
    page = configuration.page()
    keys = re.findall(r"^\| `([\w.]+)` \| .+ \| .+ \| (.*) \|$", page, re.MULTILINE)
    assert len(keys) > 50 and all(meaning.strip() for _, meaning in keys)
    assert "calibrated error to expect" in dict(keys)["evaluation.samples"], "as page, files and report call it"
    assert (
        "`bridge.max_var` | number | `0.01`" in page
        and "`training.STAGE.steps` | whole number | `100`; refiner: `60`" in page
    )
