"""A model in other people's layouts: a plain diffusers folder, or a MONAI bundle. Neither holds a pickle.

Shape legend: B batch, V the two views, U/V film rows and columns, D/H/W voxels towards head/back/left.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from axon import DISCLAIMER, __version__
from axon.errors import AxonError
from axon.files import whole_folder, write_json
from axon.geometry.level import ANY_SCALE
from axon.geometry.volume import Volume, cube_affine
from axon.pretrained import SUMS, folder_of, load, seal
from axon.reconstruct import nifti_bytes, on_detector, read_films
from axon.references.library import ATTRIBUTION, FOLDER
from axon.registry.model_card import CARD

Format = Literal["diffusers", "monai"]
FORMATS = ("diffusers", "monai")
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
MODEL = "models/axon"


def export(source: str | None, out: Path, layout: Format, tracking_uri: str | None = None) -> None:
    """Write a model to the new folder ``out``, which appears whole or not at all.

    Args:
        source: As of `axon.pretrained.load`.
        out: New folder.
        layout: ``diffusers`` loads with `AxonPipeline.from_pretrained`, ``monai`` runs with ``python -m monai.bundle
            run``.
        tracking_uri: Where the registry is; only for ``models:/``.

    Raises:
        AxonError: ``OUT_EXISTS``, or those of `axon.pretrained.load`.
    """
    if out.exists():
        raise AxonError("OUT_EXISTS", f"{out} exists", "name a new folder")
    with folder_of(source, tracking_uri) as (folder, name, number), whole_folder(out) as part:
        # Loaded, to export nothing that cannot be.
        model = load(str(folder))
        copied = part / MODEL if layout == "monai" else part
        shutil.copytree(folder, copied, dirs_exist_ok=True)
        if not (copied / SUMS).is_file():
            seal(copied)
        if layout == "monai":
            _write_bundle(part, model.pipeline.config, BundleNetwork(str(copied)), name, number or model.version)


class BundleNetwork(nn.Module):
    """`AxonPipeline` as one network for MONAI: films on the detector in, HU out.

    Args:
        folder: The model's folder.
        seed: Of every volume; the same seed gives what the pipeline gives.
    """

    def __init__(self, folder: str, seed: int = 0) -> None:
        super().__init__()
        self.pipeline = load(folder).pipeline
        self.seed = seed
        # Of the films that `read` read last; of any others nobody knows the pixels' sizes.
        self.scales: tuple[float, ...] = ANY_SCALE
        # Registered, so that they move to a device with the network.
        self.networks = nn.ModuleDict(
            {name: part for name, part in self.pipeline.components.items() if isinstance(part, nn.Module)}
        )

    def forward(self, films_BVUV: Tensor) -> Tensor:
        """Volumes in HU, shape (B, 1, D, H, W), of films of shape (B, 2, U, V): frontal, lateral; a film of one value
        is an absent one.
        """
        volumes = [self._volume(films_VUV.float().cpu().numpy()) for films_VUV in films_BVUV]
        return torch.stack(volumes)[:, None].to(films_BVUV.device)

    def _volume(self, films_VUV: np.ndarray) -> Tensor:
        frontal, lateral = (film_UV if np.ptp(film_UV) > 0 else None for film_UV in films_VUV)
        scales, self.scales = self.scales, ANY_SCALE
        made = self.pipeline(frontal, lateral, num_samples=0, seed=self.seed, scales=scales)
        return torch.from_numpy(made.volume.hu_DHW)

    def read(self, frontal: str, lateral: str, trust_views: bool = False) -> Tensor:
        """Films from files as the network takes them, shape (1, 2, U, V); ``lateral`` may be empty."""
        films = read_films(Path(frontal), Path(lateral) if lateral else None, trust_views)
        films_UV, self.scales = on_detector(films, self.pipeline), films.scales()
        absent_UV = np.zeros_like(films_UV["frontal"])
        return torch.from_numpy(np.stack([films_UV["frontal"], films_UV.get("lateral", absent_UV)])[None])

    def save(self, pred_B1DHW: Tensor, path: str) -> None:
        """Write the first volume as NIfTI."""
        affine = cube_affine(np.zeros(3), pred_B1DHW.shape[-1], self.pipeline.config.extent_mm)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(nifti_bytes(Volume(pred_B1DHW[0, 0].cpu().numpy(), affine)))


_LICENCE = f"""Code and weights: Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0
CTs in {MODEL}/{FOLDER}, where there are some: each its own licence, see {MODEL}/{FOLDER}/{ATTRIBUTION}
"""


def _write_bundle(part: Path, config: Any, network: BundleNetwork, name: str, number: str) -> None:
    (part / "configs").mkdir()
    (part / "docs").mkdir()
    side, size = network.pipeline.film_px, network.pipeline.size
    write_json(part / "configs" / "metadata.json", _metadata(name, number, side, size, list(config.hu_window)))
    # MONAI runs the entries in order, so they are not sorted.
    (part / "configs" / "inference.json").write_text(json.dumps(_inference(), indent=1) + "\n")
    card = part / MODEL / CARD
    text = card.read_text() if card.is_file() else f"# {name} {number}\n\n{DISCLAIMER}\n"
    (part / "docs" / "README.md").write_text(text)
    (part / "LICENSE").write_text(_LICENCE)


def _inference() -> dict[str, Any]:
    return {
        "bundle_root": ".",
        "frontal": "frontal.png",
        "lateral": "",
        "output": "$@bundle_root + '/eval/ct.nii.gz'",
        "seed": 0,
        "trust_views": False,
        "device": "$__import__('torch').device('cuda' if __import__('torch').cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "axon.registry.exports.BundleNetwork",
            "folder": f"$@bundle_root + '/{MODEL}'",
            "seed": "@seed",
        },
        "network": "$@network_def.to(@device).eval()",
        "image": "$@network.read(@frontal, @lateral, @trust_views).to(@device)",
        "pred": "$@network(@image)",
        "run": ["$@network.save(@pred, @output)"],
    }


def _metadata(name: str, number: str, side: int, size: int, hu_window: list[float]) -> dict[str, Any]:
    """What MONAI's bundle specification asks for."""
    films = {
        "type": "image",
        "format": "magnitude",
        "modality": "CR",
        "num_channels": 2,
        "spatial_shape": [side, side],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {
            "0": "frontal film, bone bright",
            "1": "left lateral film; one value throughout where there is none",
        },
    }
    volume = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": 1,
        "spatial_shape": [size, size, size],
        "dtype": "float32",
        "value_range": hu_window,
        "is_patch_data": False,
        "channel_def": {"0": "HU"},
    }
    return {
        "schema": SCHEMA,
        "version": number,
        "changelog": {number: "exported"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "axon-ct": __version__,
            "diffusers": version("diffusers"),
            "nibabel": version("nibabel"),
        },
        "name": name,
        "task": "Chest CT from one or two chest X-rays",
        "description": f"Brownian-bridge diffusion, ControlNet refinement and super-resolution. {DISCLAIMER}",
        "authors": "The AXON developers",
        "copyright": "Apache-2.0",
        "intended_use": DISCLAIMER,
        "references": ["Conditional Diffusion for 3D CT Volume Reconstruction from 2D X-rays, arXiv 2603.26509"],
        "network_data_format": {"inputs": {"image": films}, "outputs": {"pred": volume}},
    }
