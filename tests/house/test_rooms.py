"""The house: every room says what lives in it, tests mirror it, and a result names the code that it depends on."""

import ast
import functools
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import axon
from axon.metrics.catalogue import METRICS
from axon.provenance import PREPARING, REGISTERED, TRAINING, TRAINING_BASELINES, code_digest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/axon"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
# They are loaded with the training, and no weight depends on them.
NO_WEIGHT = ("__init__.py", "config_rules.py", "data/__init__.py", "data/dataset_card.py", "provenance.py")


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Nobody changes it."""
    return ast.parse(path.read_text())


def sources(*folders: str) -> list[Path]:
    """The Python files of these folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_a_few_lines_what_lives_there(room: str) -> None:
    text = importlib.import_module(f"axon.{room}").__doc__
    assert text is not None and 3 <= len([line for line in text.splitlines() if line]) <= 8


def test_every_room_has_its_tests() -> None:
    assert set(ROOMS) - {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")} == set()


def test_no_two_modules_have_one_name() -> None:
    exempt = ("commands", "__init__")  # a verb's file is called like its verb
    names = [path.stem for path in PACKAGE.rglob("*.py") if not {path.parent.name, path.stem} & {*exempt}]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_no_two_classes_have_one_name() -> None:
    trees = [parsed(path) for path in sources("src/axon", "pipelines", "components", "benchmarks")]
    names = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    named = [node.targets[0] for tree in trees for node in tree.body if isinstance(node, ast.Assign)]
    # An alias of a type is written as a class is.
    names += [name.id for name in named if isinstance(name, ast.Name) and re.match("[A-Z].*[a-z]", name.id)]
    assert {name for name in names if names.count(name) > 1} == set()


def test_a_metric_is_named_where_it_is_measured_and_nowhere_else() -> None:
    measuring = {PACKAGE / f"evaluation/{name}.py" for name in ("measures", "evaluate", "folder")}
    measuring |= set((PACKAGE / "metrics").iterdir())
    keys = re.compile("|".join(f"\\b{re.escape(key)}\\b" for key in METRICS))
    others = [path for kind in ("*.py", "*.j2") for path in PACKAGE.rglob(kind) if path not in measuring]
    assert [(path.name, *found) for path in others if (found := keys.findall(path.read_text()))] == []


LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
CODE = ("src/axon", "components", "pipelines", "benchmarks", "docs")


def within(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a statement; the statements inside of it are others."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            yield child
            yield from within(child)


def depth(node: ast.AST) -> int:
    """How many comprehensions are one inside the other."""
    inside = (depth(child) for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt))
    return max(inside, default=0) + isinstance(node, LOOPS)


def stacked(statement: ast.AST) -> list[str]:
    """What makes a statement, or a comprehension of it, hard to read."""
    parts = list(within(statement))
    loops = [part for part in parts if isinstance(part, LOOPS)]
    choices = [part for part in parts if isinstance(part, ast.IfExp)]
    too_much = {
        "more than two comprehensions": len(loops) > 2,
        "a comprehension inside one that is inside another": depth(statement) > 2,
        "more than two conditional expressions": len(choices) > 2,
        "a conditional expression inside another": any(isinstance(p, ast.IfExp) for c in choices for p in within(c)),
        **long_loops(loops),
    }
    return [what for what, found in too_much.items() if found]


def long_loops(loops: Iterable[Any]) -> dict[str, bool]:
    conditions = [[condition for turn in loop.generators for condition in turn.ifs] for loop in loops]
    return {
        "a comprehension of more than two loops": any(len(loop.generators) > 2 for loop in loops),
        "a comprehension of more than one condition": any(len(of_loop) > 1 for of_loop in conditions),
    }


def statements(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """A file's statements and where each is."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.stmt):
            yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_no_statement_stacks_comprehensions_or_conditionals() -> None:
    of_files = [statements(path) for path in sources(*CODE)]
    assert [(place, *why) for found in of_files for place, node in found if (why := stacked(node))] == []


def test_no_comprehension_of_a_test_has_more_than_two_loops_or_one_condition() -> None:
    """A table of tests may hold as many as it has lines."""
    parts = [(path, part) for path in sources("tests") for part in ast.walk(parsed(path))]
    loops = [(path, part) for path, part in parts if isinstance(part, LOOPS)]
    assert [f"{path}:{loop.lineno}" for path, loop in loops if any(long_loops([loop]).values())] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x = [[a for a in b] for b in [c for c in d]]", ["more than two comprehensions"]),
        ("x = [a for a in (b for b in c)], 1 if d else 2, 3 if e else 4", []),
        ("x = 1 if a else 2, 3 if b else 4, 5 if c else 6", ["more than two conditional expressions"]),
        ("x = a if b else c if d else e", ["a conditional expression inside another"]),
        ("x = [d for a in b for c in a for d in c]", ["a comprehension of more than two loops"]),
        ("x = {c for a in b if a for c in a if c}", ["a comprehension of more than one condition"]),
    ],
)
def test_what_stacks_is_seen(code: str, found: list[str]) -> None:
    assert stacked(ast.parse(code).body[0]) == found


def imported(path: Path) -> list[str]:
    """What a file imports, by whole names: of ``from a import b`` both ``a`` and ``a.b``, which may be a module."""
    names: list[str] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return names


def file_of(name: str) -> Path | None:
    """The file or the package of ours that an import names."""
    base = (PACKAGE.parent if name.split(".")[0] == "axon" else ROOT) / name.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base) if path.exists()), None)


def found(name: str) -> bool:
    """Whether a name is a file or a package of ours, or a word in one's text."""
    above, _, last = name.rpartition(".")
    if file_of(name) or not above or (file := file_of(above)) is None:
        return file_of(name) is not None
    text = file.read_text() if file.is_file() else "".join(p.read_text() for p in file.glob("__init__.py"))
    return re.search(rf"\b{last}\b", text) is not None


def test_no_test_imports_another() -> None:
    others = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for name in imported(path)
        if re.search(r"(^|\.)test_\w+$", name) and (file_of(name) or "." not in name)
    ]
    assert others == []


def test_what_tests_and_benchmarks_import_is_there() -> None:
    names = [(path, name) for path in sources("tests", "benchmarks") for name in imported(path)]
    ours = [(path, name) for path, name in names if name.split(".")[0] in ("axon", "benchmarks", "tests")]
    assert [f"{path.relative_to(ROOT)} imports {name}" for path, name in ours if not found(name)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "named"), [("training.train", TRAINING), ("baselines.train_all", TRAINING_BASELINES)]
)
def test_training_loads_no_other_room_than_those_that_its_checkpoints_name(module: str, named: tuple[str, ...]) -> None:
    code = (
        f"import sys, axon.{module}, axon; from pathlib import Path;"
        "here = Path(axon.__file__).parent;"
        "print(*sorted(str(Path(m.__file__).relative_to(here)) for n, m in sys.modules.items()"
        " if n.split('.')[0] == 'axon' and getattr(m, '__file__', None)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    rooms = tuple(f"{room}/" for room in named if not room.endswith(".py"))
    strangers = [file for file in loaded if not file.startswith(rooms) and file not in (*named, *NO_WEIGHT)]
    assert strangers == []
    assert {room for room in named if not any(file == room or file.startswith(f"{room}/") for file in loaded)} == set()


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("serve/app.py", set()),
        ("orchestration/alert.py", set()),
        ("metrics/protocols.py", {"registered"}),
        ("evaluation/evaluate.py", {"registered"}),
        ("evaluation/report.html.j2", {"registered"}),
        ("evaluation/page.js", {"registered"}),
        ("orchestration/steps.py", {"registered"}),
        ("orchestration/launch.py", {"registered"}),
        ("orchestration/changes.py", {"registered"}),
        ("tracking/runs.py", {"registered"}),
        ("provenance.py", {"registered"}),
        ("__init__.py", {"registered"}),
        ("readers/volumes.py", {"prepared", "registered"}),
        ("baselines/regression.py", {"baseline", "registered"}),
        ("models/unet.py", {"trained", "baseline", "registered"}),
        ("geometry/projection.py", {"prepared", "trained", "baseline", "registered"}),
    ],
)
def test_an_edit_changes_the_digests_of_what_depends_on_it_alone(
    edited: str, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = {"trained": TRAINING, "baseline": TRAINING_BASELINES, "prepared": PREPARING, "registered": REGISTERED}
    copy = shutil.copytree(PACKAGE, tmp_path / "axon", ignore=shutil.ignore_patterns("axon-small", "static", "*.pyc"))
    monkeypatch.setattr(axon, "__file__", str(copy / "__init__.py"))
    before = {use: code_digest(rooms) for use, rooms in uses.items()}
    (copy / edited).write_text((copy / edited).read_text() + "\n# Another comment.\n")
    assert {use for use, rooms in uses.items() if code_digest(rooms) != before[use]} == changed


def test_a_room_that_is_not_there_has_no_digest() -> None:
    assert all((PACKAGE / room).exists() for room in (*PREPARING, *TRAINING_BASELINES, *REGISTERED))
    with pytest.raises(FileNotFoundError, match="no_such_room"):
        code_digest(("no_such_room",))
