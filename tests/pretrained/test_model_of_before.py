"""A model that version 0.1 packaged, and one that it registered, load and give the same volume.

``model_of_0_1.zip`` was written by the code of that version: a registered model (its own ``pyfunc_model.py`` in it, and
the packaged model that this reads, tiny, with random weights), two films of a phantom, and what that code made of them.
Version 0.1 took films as they lie, and so they are taken here: a random network finds another height for any.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axon import pretrained

ARCHIVE = Path(__file__).with_name("model_of_0_1.zip")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def same(one: np.ndarray, made_before: np.ndarray, within_hu: float = 0.01) -> bool:
    """Not to the last bit: threads, processors and the corrections by the films, which are matrix products now, add in
    another order. On the processor of then that is 0.002 HU.
    """
    return np.allclose(one, made_before, rtol=0, atol=within_hu)


@pytest.mark.parametrize("view", ["bi", "mono"])
def test_a_packaged_model_gives_the_same_volume_and_the_same_standard_deviation(before: Path, view: str) -> None:
    pipeline = pretrained.load(str(before / "registered/artifacts/model")).pipeline
    images = [np.asarray(Image.open(before / f"{name}.png"), np.float32) for name in ("frontal", "lateral")]
    films = [image.reshape(16, 6, 16, 6).mean(axis=(1, 3)) / 255 for image in images]
    found = pipeline(*films[: 2 if view == "bi" else 1], seed=3, num_samples=2, scales=())
    then = np.load(before / "volumes.npz")
    assert found.std_DHW is not None
    assert same(found.volume.hu_DHW, then[f"{view}_volume"])
    assert same(found.std_DHW, then[f"{view}_std"])
    assert not same(found.volume.hu_DHW + 1, then[f"{view}_volume"])


def test_a_registered_model_runs_its_own_code_and_answers_the_same(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axon.reconstruct.Films.scales", lambda _: ())
    import nibabel
    import pandas
    from mlflow import pyfunc

    films = {name: (before / f"{name}.png").read_bytes() for name in ("frontal", "lateral")}
    answer = (
        pyfunc.load_model(str(before / "registered")).predict(pandas.DataFrame([films]), params={"seed": 3}).iloc[0]
    )
    assert answer["error"] == ""
    (before / "now.nii.gz").write_bytes(answer["ct_nifti_gz"])
    now, then = (nibabel.load(before / f"{name}.nii.gz") for name in ("now", "answer"))
    assert np.array_equal(now.affine, then.affine)
    assert same(now.get_fdata(), then.get_fdata(), within_hu=1.0)  # whole HU
