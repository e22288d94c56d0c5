"""Each writer of a folder, interleaved with another one of the same folder: the second is refused, and what lies there
is the first one's, whole.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from axon import pretrained
from axon.config import Config
from axon.data.fetch import fetch
from axon.data.ingest import ingest
from axon.data.pack import pack
from axon.errors import AxonError
from axon.evaluation.folder import EvaluationAsked, evaluate_folder
from axon.files import sha256_file
from axon.reconstruct import read_films, reconstruct
from axon.registry.exports import export
from tests.support.small_model import small_pipeline, write_films
from tests.support.trees import chest, nifti

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    """Two folders of a CT, two of films, and a model."""
    root = tmp_path_factory.mktemp("work")
    for number in (0, 1):
        nifti(root / f"cts{number}/p{number}_a.nii", chest(number))
        (root / f"films{number}").mkdir()
        write_films(root / f"films{number}", number)
    small_pipeline(tiny_config).save_pretrained(root / "model", safe_serialization=True)
    pretrained.seal(root / "model")
    shutil.copytree(root / "model", root / "model1")
    (root / "model1" / pretrained.SUMS).unlink()
    return root


def reconstructed(work: Path, number: int, out: Path) -> None:
    films = read_films(work / f"films{number}/frontal.png", work / f"films{number}/lateral.png")
    reconstruct(films, pretrained.load(str(work / "model")), out)


def packed(work: Path, number: int, out: Path) -> None:
    pack(work / f"cts{number}", out, "CC0 1.0", "phantoms", Config())


def fetched(work: Path, number: int, out: Path) -> None:
    fetch(out, 1, folder=str(work / f"cts{number}"))


def ingested(work: Path, number: int, out: Path) -> None:
    ingest(work / f"cts{number}", 0, 1, Config.load(Path(__file__).parents[1] / "tiny.yaml"), out)


def evaluated(work: Path, number: int, out: Path) -> None:
    model = pretrained.load(str(work / "model"))
    evaluate_folder(model, work / "model", work / f"cts{number}", out, EvaluationAsked(views=("mono",), samples=2))


def exported(work: Path, number: int, out: Path) -> None:
    export(str(work / ("model1" if number else "model")), out, "diffusers")


WRITERS = {
    "axon.reconstruct": reconstructed,
    "axon.data.pack": packed,
    "axon.data.fetch": fetched,
    "axon.data.ingest": ingested,
    "axon.evaluation.folder": evaluated,
    "axon.registry.exports": exported,
}


@pytest.mark.parametrize("module", WRITERS)
def test_two_writers_of_a_folder_leave_one_result_and_the_other_knows(
    module: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, home, out = WRITERS[module], importlib.import_module(module), tmp_path / "out"
    whole_folder: Callable[[Path], contextlib.AbstractContextManager[Path]] = home.whole_folder
    written: list[dict[str, str]] = []

    @contextlib.contextmanager
    def interrupted(folder: Path) -> Iterator[Path]:
        """Everything is written and nothing is in its place when the other writer comes."""
        with whole_folder(folder) as part:
            yield part
            monkeypatch.setattr(home, "whole_folder", whole_folder)
            written.append(contents(part))
            with pytest.raises(AxonError) as error:
                write(work, 1, out)
            assert error.value.code == "OUT_BUSY"

    monkeypatch.setattr(home, "whole_folder", interrupted)
    write(work, 0, out)
    assert written == [contents(out)] and written[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}
