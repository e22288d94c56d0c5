"""Coverage-guided fuzzing of everything that reads what somebody else wrote: ``make fuzz``.

Anything but an AxonError is a finding, and ends the run; it then becomes a line of `tests.support.hostile`.

Needs the extra ``fuzz`` (atheris). The first byte of an input chooses the reader; a corpus of whole files and of every
line of the table of hostile inputs is written on the first run. A fixed run: ``-runs=N -seed=1``.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["axon", "pydicom"]):
    from axon.data.packed import COLUMNS, read_rows
    from axon.data.verify import check_dataset
    from axon.dicom.ct import read_ct_series
    from axon.pretrained import verify
    from axon.readers.archives import Bounds, unpack_here
    from axon.readers.films import read_here as read_film_here
    from axon.readers.layouts import survey
    from axon.readers.layouts.patient_table import apply_table
    from axon.readers.volumes import read_here

import torch

from axon.config import CtConfig
from axon.errors import AxonError
from axon.files import Scratch
from axon.geometry.mend import Mend
from axon.training.checkpoints import load_newest
from tests.support.ct_series import write_enhanced
from tests.support.hostile import HOSTILE, gipl, mgh, mha, nifti, nrrd, vtk
from tests.support.mutations import write_bases

SCRATCH = Scratch("fuzz").again()
BASES = SCRATCH / "bases"
LARGEST = 2**20


def film(data: bytes) -> None:
    read_film_here([written("case", data)], Mend())


def dicom_slice(data: bytes) -> None:
    """The third slice of a series that is otherwise whole."""
    read_ct_series([*sorted((BASES / "ct_native").iterdir())[:2], written("case", data)])


def enhanced(data: bytes) -> None:
    """A series in one file of many frames."""
    read_ct_series([written("case", data)])


def header(suffix: str) -> Callable[[bytes], None]:
    """A header whose voxels would lie beside it."""
    rules = CtConfig(assumed_axes="LPS")
    return lambda data: void(read_here([written(f"detached/x{suffix}", data)], rules))


def folder(data: bytes) -> None:
    """What lies in a folder, of which one file is from somebody else."""
    written("folder/x.bin", data)
    survey(SCRATCH / "folder")


def volume(suffix: str) -> Callable[[bytes], None]:
    # Of a header that says nothing of the patient, all the rest is to be reached, too.
    rules = CtConfig(assumed_axes="LPS", time_point=2)
    return lambda data: void(read_here([written(f"case{suffix}", data)], rules))


def manifest(data: bytes) -> None:
    """The table of a packed dataset without a case."""
    written("packed/splits.json", b'{"patients": {}, "version": 1}')
    written("packed/manifest.csv", data)
    if not check_dataset(SCRATCH / "packed")[1]:
        read_rows(SCRATCH / "packed" / "manifest.csv")


def model(data: bytes) -> None:
    """The list of checksums of a model folder."""
    written("model/model_index.json", b"{}")
    written("model/SHA256SUMS", data)
    verify(SCRATCH / "model")


def checkpoint(data: bytes) -> None:
    """The state of the only checkpoint."""
    written("checkpoint/step-00000001/state.safetensors", b"")
    written("checkpoint/step-00000001/state.json", data)
    network = torch.nn.Linear(1, 1)
    load_newest(SCRATCH / "checkpoint", {}, network, network, torch.optim.AdamW(network.parameters()))


def archive(data: bytes) -> None:
    with TemporaryDirectory(dir=SCRATCH) as folder:
        unpack_here([written("case.zip", data)], Bounds(folder, LARGEST, 100))


def patients(data: bytes) -> None:
    """A user's table of patients, of a folder without a CT."""
    apply_table([], SCRATCH, written("patients.csv", data), True)


def void(_: object) -> None:
    """Drops a result."""


def written(name: str, data: bytes) -> Path:
    path = SCRATCH / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


READERS: tuple[Callable[[bytes], None], ...] = (
    film, dicom_slice, volume(".nii"), volume(".nii.gz"), volume(".mha"), volume(".nrrd"), manifest, model, checkpoint,
    volume(".mgh"), volume(".gipl"), volume(".vtk"), archive, patients, enhanced,
    header(".mhd"), header(".nhdr"), header(".hdr"), folder,
)  # fmt: skip
FIRST = {"film": b"\0", "enhanced": b"\x0e"}
"""Readers of bases that are no slice."""
OF_SUFFIX = {".jpg": 0, ".dcm": 0, ".nii": 2, ".gz": 3, ".mha": 4, ".nrrd": 5, ".mgh": 9, ".gipl": 10, ".vtk": 11}
OF_SUFFIX |= {".csv": 6, "": 7, ".zip": 12, ".tar": 12}


def one(data: bytes) -> None:
    """One input: its first byte is the reader's number."""
    with contextlib.suppress(AxonError):
        READERS[data[0] % len(READERS) if data else 0](data[1:])


def write_corpus(corpus: Path) -> None:
    """A whole file of each kind, and what each small line of the table has its reader read."""
    for base in sorted(BASES.iterdir()):
        path = sorted(base.iterdir())[-1]
        first = FIRST.get(base.name.partition("_")[0], b"\1")
        (corpus / base.name).write_bytes(first + path.read_bytes())
    whole = {"nifti": b"\2" + nifti(), "mha": b"\4" + mha()["x.mha"], "nrrd": b"\5" + nrrd()["x.nrrd"]}
    whole |= {"mgh": b"\x09" + mgh()["x.mgh"], "gipl": b"\x0a" + gipl()["x.gipl"], "vtk": b"\x0b" + vtk()["x.vtk"]}
    whole |= {"mhd": b"\x0f" + mha()["x.mha"], "nhdr": b"\x10" + nrrd()["x.nrrd"], "hdr": b"\x11" + nifti()[:348]}
    rows = ",".join(COLUMNS) + "\n" + ",".join("a" for _ in COLUMNS) + "\n"
    whole |= {"manifest-nul": b"\6" + rows.replace("a,a,a,a", "a,a,a,a\0b", 1).encode()}
    whole |= {"manifest": b"\6" + rows.encode(), "sums": b"\7" + b"0" * 64 + b"  x\n", "state": b'\x08{"step": 1}'}
    whole |= {"patients": b"\x0dfile,patient,split\na.nii,p,train\n"} | archives()
    for name, content in whole.items():
        (corpus / f"whole-{name}").write_bytes(content)
    for number, write in enumerate(HOSTILE.values()):
        name, content = next(iter(write().items()))
        if len(content) <= LARGEST and Path(name).suffix in OF_SUFFIX:
            (corpus / f"hostile-{number:03d}").write_bytes(bytes([OF_SUFFIX[Path(name).suffix]]) + content)


def archives() -> dict[str, bytes]:
    """A zip and a tar of one file."""
    packed, taped = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        zipped.writestr("a/b.txt", "b")
    with tarfile.open(fileobj=taped, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a/b.txt"))
    return {"zip": b"\x0c" + packed.getvalue(), "tar": b"\x0c" + taped.getvalue()}


def main() -> None:
    corpus = next((Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")), None)
    BASES.mkdir()
    write_bases(BASES)
    write_enhanced(BASES / "enhanced", sorted((BASES / "ct_native").iterdir()))
    if corpus and not any(corpus.iterdir()):
        write_corpus(corpus)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
