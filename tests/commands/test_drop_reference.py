"""`axon model drop-reference`, on a model folder with a library."""

from pathlib import Path

import numpy as np
import pytest

from axon import pretrained
from axon.cli import main
from axon.config import Config
from axon.data.phantoms import make_phantom
from axon.references.library import Candidate, build_library, read_facts
from tests.support.small_model import small_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    pipeline = small_pipeline(Config.load(Path(__file__).parents[1] / "tiny.yaml"))
    pipeline.register_to_config(output_size=32)
    pipeline.save_pretrained(folder)
    phantoms = [make_phantom(seed, size=64, spacing_mm=5.6) for seed in (1, 4)]
    candidates = (
        Candidate(f"patient-{n}", "phantom", volume, volume.center_mm, "CC BY 4.0", "doi:10.0/x")
        for n, volume in enumerate(phantoms)
    )
    built = build_library(folder, candidates, 2, size=32, extent_mm=320.0)
    assert len(built.ids) == 2, built.left_out
    pretrained.seal(folder)
    return folder


def test_a_folder_of_one_s_own_is_changed_and_stays_whole(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (fact["id"] for fact in read_facts(model))
    assert main(["model", "drop-reference", str(model), first]) == 0
    assert f"1 references left: {second}" in capsys.readouterr().out
    assert [fact["id"] for fact in read_facts(model)] == [second]
    assert len(pretrained.load(str(model)).pipeline.library) == 1


def test_the_packaged_model_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["model", "drop-reference", "axon-small", "p0123456789ab"])
    assert capsys.readouterr().err.startswith("[PARAMETER]")


def test_a_loaded_model_saves_its_references_again(model: Path, tmp_path: Path) -> None:
    pipeline = pretrained.load(str(model)).pipeline
    pipeline.save_pretrained(tmp_path / "again")
    kept = sorted((model / "references").iterdir())
    assert kept and all((tmp_path / "again/references" / path.name).read_bytes() == path.read_bytes() for path in kept)
    assert np.isfinite(pipeline.library.references[0].hu_DHW).all()
