"""Exported models: loaded by the library that the layout is made for, and equal to the model they came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from axon import pretrained
from axon.cli import main
from axon.config import Config
from axon.geometry.level import ANY_SCALE, SAME_SCALE
from axon.inference import AxonPipeline
from axon.reconstruct import read_films, sample
from axon.registry.exports import BundleNetwork
from tests.support.films import dicom_film
from tests.support.small_model import small_pipeline, write_films

pytestmark = pytest.mark.slow

# What the bundle specification makes mandatory (mb_specification.rst). MONAI's own schema is a download, SCHEMA in
# exports.py.
TENSOR = [
    "type",
    "format",
    "modality",
    "num_channels",
    "spatial_shape",
    "dtype",
    "value_range",
    "is_patch_data",
    "channel_def",
]
MANDATORY = [
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
]
MANDATORY += ["authors", "copyright", "network_data_format"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    small_pipeline(Config.load(Path(__file__).parents[1] / "tiny.yaml")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "axon"
    assert main(["model", "export", str(model), str(out), "--format", "monai"]) == 0
    return out


def test_diffusers_folder_is_the_model_and_sealed(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["model", "export", str(model), str(tmp_path / "out"), "--format", "diffusers"]) == 0
    read = read_films(*films)
    volumes = [
        sample(read, AxonPipeline.from_pretrained(folder), seed=3).output.volume.hu_DHW
        for folder in (model, tmp_path / "out")
    ]
    np.testing.assert_array_equal(*volumes)
    assert (tmp_path / "out" / pretrained.SUMS).is_file()


def test_no_export_over_a_folder_and_none_of_a_damaged_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, out, code in ((model, tmp_path, "OUT_EXISTS"), (tmp_path / "none", tmp_path / "out", "MODEL_MISSING")):
        with pytest.raises(SystemExit):
            main(["model", "export", str(source), str(out), "--format", "monai"])
        assert capsys.readouterr().err.startswith(f"[{code}]")
    assert list(tmp_path.iterdir()) == []


def test_monai_finds_the_metadata_valid(bundle: Path, tmp_path: Path) -> None:
    from monai.bundle import verify_metadata

    tensors = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "object", "required": TENSOR}}
    network = {
        "type": "object",
        "required": ["inputs", "outputs"],
        "properties": {"inputs": tensors, "outputs": tensors},
    }
    schema = {"type": "object", "required": MANDATORY, "properties": {"network_data_format": network}}
    # Where the file is there, MONAI downloads nothing.
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(tmp_path / "schema.json"))
    broken = json.loads((bundle / "configs" / "metadata.json").read_text())
    del broken["network_data_format"]["inputs"]["image"]["channel_def"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(tmp_path / "schema.json"))


def test_monai_finds_inputs_and_outputs_as_described(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.bundle import verify_net_in_out

    monkeypatch.chdir(bundle)
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    verify_net_in_out("network_def", device="cpu", **files)
    with pytest.raises(ValueError, match="channel number"):
        verify_net_in_out(
            "network_def", device="cpu", **files, **{"_meta_#network_data_format#outputs#pred#num_channels": 2}
        )


@pytest.mark.parametrize("views", [1, 2])
def test_the_bundle_gives_what_the_pipeline_gives(
    bundle: Path, model: Path, films: tuple[Path, Path], tmp_path: Path, views: int
) -> None:
    given = [str(film) for film in films[:views]]
    options = [item for name, film in zip(("frontal", "lateral"), given, strict=False) for item in (f"--{name}", film)]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", *options]
    subprocess.run(
        [*command, "--seed", "5", "--output", str(tmp_path / "ct.nii.gz")], cwd=bundle, check=True, capture_output=True
    )
    expected = sample(
        read_films(*map(Path, given), *[None] * (2 - views)), AxonPipeline.from_pretrained(model), seed=5
    ).output.volume  # type: ignore[call-arg]
    written = nib.load(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(written.get_fdata().transpose(2, 1, 0), np.rint(expected.hu_DHW))
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ written.affine, expected.affine)


def test_the_bundle_holds_no_pickle(bundle: Path) -> None:
    names = [path.name for path in bundle.rglob("*") if path.is_file()]
    assert {"metadata.json", "inference.json", "README.md", "LICENSE", pretrained.SUMS} <= set(names)
    assert not [name for name in names if name.endswith((".pt", ".pkl", ".bin", ".ts"))]


def test_a_bundle_scales_films_whose_pixels_nobody_knows_and_no_others(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = BundleNetwork(str(bundle / "models" / "axon"))
    asked: list[object] = []
    monkeypatch.setattr(network.pipeline, "level_of", lambda _films, _trust, scales: asked.append(scales))
    pictures, headers = write_films(tmp_path), (tmp_path / "frontal.dcm", tmp_path / "lateral.dcm")
    for picture, path in zip(pictures, headers, strict=True):
        dicom_film(path, np.asarray(Image.open(picture)), PixelSpacing=[2.0, 2.0])
    for frontal, lateral in (pictures, headers):
        network(network.read(str(frontal), str(lateral), trust_views=True))
    assert asked == [ANY_SCALE, SAME_SCALE]
