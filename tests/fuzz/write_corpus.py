"""The committed corpus, a small whole file of every kind that is read: ``python -m tests.fuzz.write_corpus``.

The first byte of an input says who reads it. A file that was a find is added to the folder by hand.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch

from axon.data.listing import LIST, write_listing
from axon.data.packed import COLUMNS, write_nifti
from axon.geometry.volume import Volume
from axon.readers.layouts import Study
from axon.training.checkpoints import Progress, save_checkpoint
from tests.fuzz.bases import MODEL, PACKED, PREPARED, write_model, write_packed, write_prepared
from tests.support.ct_series import write_enhanced, write_series
from tests.support.films import chest_like, write_film
from tests.support.hostile import chest, film_nrrd, gipl, mgh, mha, nrrd, vtk
from tests.support.mutations import write_bases

CORPUS = Path(__file__).with_name("corpus")
READERS = (
    "film", "slice", ".nii", ".nii.gz", ".mha", ".nrrd", "manifest", "model", "checkpoint", ".mgh", ".gipl", ".vtk",
    "archive", "patients", "enhanced", ".mhd", ".nhdr", ".hdr", "folder", "part", "packed", "prepared", "studies",
)  # fmt: skip
"""By number; those with a dot read a volume of that name, the last three of them without its voxels. A part of a model
and a file of a dataset begin with their number in `tests.fuzz.bases`.
"""
SPLIT = b"\n\0\n"
"""Between a checkpoint's state and its tensors."""
_SIDE = 10


def seeds() -> dict[str, list[bytes]]:
    """Whole files of a few kilobytes, by their reader."""
    hu_DHW = np.ascontiguousarray(chest().hu_DHW[::3, ::3, ::3])
    little, big, sizes = hu_DHW.astype("<i2").tobytes(), hu_DHW.astype(">i2").tobytes(), " ".join([str(_SIDE)] * 3)
    metaimage, nearly = mha(little, DimSize=sizes)["x.mha"], nrrd(little, sizes=sizes)["x.nrrd"]
    gipl_file = bytearray(gipl(big)["x.gipl"])
    struct.pack_into(">3H", gipl_file, 0, *[_SIDE] * 3)
    nifti = _nifti(hu_DHW)
    rows = ",".join(COLUMNS) + "\n" + ",".join("a" for _ in COLUMNS) + "\n"
    return {
        **_dicom(),
        ".nii": [nifti],
        ".nii.gz": [gzip.compress(nifti, mtime=0)],
        ".mha": [metaimage],
        ".nrrd": [nearly, nrrd(gzip.compress(little, mtime=0), sizes=sizes, encoding="gzip")["x.nrrd"]],
        "manifest": [rows.encode(), rows.replace("a,a,a,a", "a,a,a,a\0b", 1).encode()],
        "model": [b"0" * 64 + b"  x\n"],
        "checkpoint": [_checkpoint()],
        ".mgh": [mgh(big, width=_SIDE, height=_SIDE, depth=_SIDE)["x.mgh"]],
        ".gipl": [bytes(gipl_file)],
        ".vtk": [vtk(big, DIMENSIONS=sizes, POINT_DATA=str(_SIDE**3))["x.vtk"]],
        "archive": _archives(),
        "patients": [b"file,patient,split\na.nii,p,train\n"],
        ".mhd": [metaimage[:400]],
        ".nhdr": [nearly[:400]],
        ".hdr": [nifti[:348]],
        "folder": [nifti[:348], metaimage[:400]],
        "part": _numbered(write_model, MODEL),
        "packed": _numbered(write_packed, PACKED),
        "prepared": _numbered(write_prepared, PREPARED),
        "studies": [_studies()],
    }


def _numbered(write: Callable[[Path], None], names: tuple[str, ...]) -> list[bytes]:
    """Files of what is written, the number of each before it."""
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch) / "base")
        return [bytes([number]) + (Path(scratch) / "base" / name).read_bytes() for number, name in enumerate(names)]


def _studies() -> bytes:
    """The list of a fetched folder of the one file ``x.nii``."""
    study = Study("c", "p", "x", (Path("/x.nii"),))
    with tempfile.TemporaryDirectory() as scratch:
        write_listing([study], Path("/"), Path(scratch))
        return (Path(scratch) / LIST).read_bytes()


def _nifti(hu_DHW: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        write_nifti(Path(scratch) / "x.nii", Volume(hu_DHW, np.diag([12.0, 12.0, 12.0, 1.0])))
        return (Path(scratch) / "x.nii").read_bytes()


def _dicom() -> dict[str, list[bytes]]:
    """Slices and films in several encodings, films of pictures, NRRD and NIfTI too, and a CT of frames."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_bases(folder / "bases")
        found = {base.name: sorted(base.iterdir())[-1].read_bytes() for base in (folder / "bases").iterdir()}
        write_film(folder / "x.dcm", chest_like(shape=(64, 64)))
        few = Volume(np.zeros((3, 12, 12), np.int16), np.diag([1.5, 0.75, 2.0, 1.0]))
        frames = write_enhanced(folder / "enhanced", write_series(folder / "few", few)).read_bytes()
        small = (4095 * chest_like(shape=(64, 64))).astype("<i2")
        films = [found["film_png"], found["film_jpeg"], found["film_j2k"], (folder / "x.dcm").read_bytes()]
        films.append(film_nrrd(lambda _: gzip.compress(small.tobytes(), mtime=0), sizes="64 64")["x.png"])
        films.append(nibabel.Nifti1Image(small.T, np.diag([-1.4, -1.4, 1, 1])).to_bytes())
        slices = [content for name, content in sorted(found.items()) if name.startswith("ct_")]
        return {"film": films, "slice": slices, "enhanced": [frames]}


def network() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Whose checkpoint is read."""
    net = torch.nn.Linear(1, 1)
    return net, torch.optim.AdamW(net.parameters())


def _checkpoint() -> bytes:
    net, optimizer = network()
    net(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as scratch:
        save_checkpoint(Path(scratch), {}, Progress(1, [(1, 0.5, 0.25)], [0.5]), net, network()[0], optimizer)
        (made,) = Path(scratch).glob("step-*")
        facts = json.loads((made / "state.json").read_text())
        kept = {key: facts[key] for key in ("identity", "step", "curve", "losses")}
        return json.dumps(kept).encode() + SPLIT + (made / "state.safetensors").read_bytes()


def _archives() -> list[bytes]:
    """A zip and a tar of one file."""
    packed, taped = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        zipped.writestr(zipfile.ZipInfo("a/b.txt"), "b")
    with tarfile.open(fileobj=taped, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a/b.txt"))
    return [packed.getvalue(), gzip.compress(taped.getvalue(), mtime=0)]


def main() -> None:
    """Write the corpus anew; finds, which are named so, stay."""
    CORPUS.mkdir(exist_ok=True)
    for old in CORPUS.glob("whole-*"):
        old.unlink()
    for name, contents in seeds().items():
        for number, content in enumerate(contents):
            path = CORPUS / f"whole-{name.strip('.').replace('.', '-')}-{number}"
            path.write_bytes(bytes([READERS.index(name)]) + content)


if __name__ == "__main__":
    main()
