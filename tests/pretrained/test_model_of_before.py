"""A model that version 0.1 packaged, and one that it registered, load and give the same volume.

``model_of_0_1.zip`` was written by the code of that version: a registered model (its own ``pyfunc_model.py`` in it, and
the packaged model that this reads, tiny, with random weights), two films of a phantom, and what that code made of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from axon import pretrained

ARCHIVE = Path(__file__).with_name("model_of_0_1.zip")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As then: several add in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(one: np.ndarray, made_before: np.ndarray, kernel: np.ndarray) -> bool:
    """To the last bit on a processor that convolves as the one of then; another's kernels add in another order, which
    may cost half a HU.
    """
    generator = torch.Generator().manual_seed(15)
    sizes: Sequence[tuple[int, ...]] = ((1, 8, 16, 16, 16), (8, 8, 3, 3, 3))
    field, weight = (torch.randn(size, generator=generator) for size in sizes)
    here = torch.nn.functional.conv3d(field, weight, padding=1)[0, :, ::4, ::4, ::4]
    if np.array_equal(here.numpy(), kernel):
        return np.array_equal(one, made_before)
    return np.allclose(one, made_before, rtol=0, atol=0.5)


@pytest.mark.parametrize("view", ["bi", "mono"])
def test_a_packaged_model_gives_the_same_volume_and_the_same_standard_deviation(before: Path, view: str) -> None:
    pipeline = pretrained.load(str(before / "registered/artifacts/model")).pipeline
    images = [np.asarray(Image.open(before / f"{name}.png"), np.float32) for name in ("frontal", "lateral")]
    films = [image.reshape(16, 6, 16, 6).mean(axis=(1, 3)) / 255 for image in images]
    found = pipeline(*films[: 2 if view == "bi" else 1], seed=3, num_samples=2)
    then = np.load(before / "volumes.npz")
    assert found.std_DHW is not None
    assert same(found.volume.hu_DHW, then[f"{view}_volume"], then["kernel"])
    assert same(found.std_DHW, then[f"{view}_std"], then["kernel"])
    assert not same(found.volume.hu_DHW + 1, then[f"{view}_volume"], then["kernel"])


def test_a_registered_model_runs_its_own_code_and_answers_the_same(before: Path) -> None:
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
    assert same(now.get_fdata(), then.get_fdata(), np.load(before / "volumes.npz")["kernel"])
