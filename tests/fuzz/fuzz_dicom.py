"""Coverage-guided fuzzing of everything that reads what somebody else wrote: ``make fuzz``.

Anything but an AxonError is a finding, and ends the run; it then becomes a line of `tests.support.hostile`.

Needs the extra ``fuzz`` (atheris). The first byte of an input chooses the reader. Into one folder, if it is empty, the
committed corpus and every line of the table of hostile inputs are written. A fixed run over the committed corpus alone:
``FOLDER tests/fuzz/corpus -runs=N -seed=1``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["axon", "pydicom"]):
    from axon import pretrained
    from axon.data.cases import Case
    from axon.data.listing import LIST, read_listing
    from axon.data.packed import read_rows
    from axon.data.packed_films import load_film, packed_films
    from axon.data.patients import read_patients
    from axon.data.prepared import PreparedDataset
    from axon.data.verify import check_dataset
    from axon.dicom.ct import read_ct_series
    from axon.readers.archives import Bounds, unpack_here
    from axon.readers.films import read_here as read_film_here
    from axon.readers.layouts import survey
    from axon.readers.layouts.patient_table import apply_table
    from axon.readers.volumes import read_here
    from axon.references.library import load_library
    from axon.registry.reproduce import makings

from axon.config import CtConfig
from axon.errors import AxonError
from axon.files import Scratch
from axon.geometry.mend import Mend
from axon.training.checkpoints import _sum_of, load_newest
from tests.fuzz.bases import MODEL, PACKED, PREPARED, write_model, write_packed, write_prepared
from tests.fuzz.write_corpus import CORPUS, READERS, SPLIT, network
from tests.support.hostile import HOSTILE
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
    written("empty/splits.json", b'{"patients": {}, "version": 1}')
    written("empty/manifest.csv", data)
    if not check_dataset(SCRATCH / "empty")[1]:
        read_rows(SCRATCH / "empty" / "manifest.csv")


def model(data: bytes) -> None:
    """The list of checksums of a model folder."""
    written("model/model_index.json", b"{}")
    written("model/SHA256SUMS", data)
    pretrained.verify(SCRATCH / "model")


def part(data: bytes) -> None:
    """A file of a model folder that is otherwise whole."""
    readers = {
        "provenance.json": lambda folder: [making.commands(folder) for making in makings(folder)],
        "patients.json": read_patients,
        "references/references.json": load_library,
        "references/references.safetensors": load_library,
    }
    with swapped("model", MODEL, data) as (folder, name):
        readers.get(name, lambda folder: pretrained.load(str(folder)))(folder)


def packed(data: bytes) -> None:
    """A table of a packed dataset that is otherwise whole, or a film."""
    with swapped("packed", PACKED, data) as (folder, name):
        if name.endswith(".safetensors"):
            load_film(folder / name)
        elif not check_dataset(folder)[1]:
            read_rows(folder / "manifest.csv")
            packed_films(folder)


def prepared(data: bytes) -> None:
    """The same of a prepared one, or a case."""
    with swapped("prepared", PREPARED, data) as (folder, name):
        if name.endswith(".safetensors"):
            Case.load(folder / name)
        elif not check_dataset(folder)[1]:
            PreparedDataset(folder).load("train")


def studies(data: bytes) -> None:
    """The list of a fetched folder of one file."""
    written("fetched/x.nii", b"")
    written(f"fetched/{LIST}", data)
    read_listing(SCRATCH / "fetched")


@contextlib.contextmanager
def swapped(base: str, names: tuple[str, ...], data: bytes) -> Iterator[tuple[Path, str]]:
    """The folder in which one of the named files, chosen by the first byte, holds the others; and its name."""
    name = names[data[0] % len(names) if data else 0]
    path = BASES / base / name
    whole = path.read_bytes()
    path.write_bytes(data[1:])
    try:
        yield BASES / base, name
    finally:
        path.write_bytes(whole)


def checkpoint(data: bytes) -> None:
    """The only checkpoint, its state and its tensors; their sums are made right, or nothing would come past them."""
    text, _, payload = data.partition(SPLIT)
    shutil.rmtree(SCRATCH / "checkpoint", ignore_errors=True)
    name = "step-00000001"
    with contextlib.suppress(ValueError, RecursionError):
        facts = json.loads(text)
        if isinstance(facts, dict):
            facts |= {"sha256": hashlib.sha256(payload).hexdigest()}
            facts.pop("state_sha256", None)
            text = json.dumps(facts | {"state_sha256": _sum_of(facts)}).encode()
            step = facts.get("step")
            name = f"step-{step:08d}" if isinstance(step, int) and 0 <= step < 10**8 else name
    written(f"checkpoint/{name}/state.safetensors", payload)
    written(f"checkpoint/{name}/state.json", text)
    net, optimizer = network()
    load_newest(SCRATCH / "checkpoint", {}, net, net, optimizer)


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


TARGETS: tuple[Callable[[bytes], None], ...] = (
    film, dicom_slice, volume(".nii"), volume(".nii.gz"), volume(".mha"), volume(".nrrd"), manifest, model, checkpoint,
    volume(".mgh"), volume(".gipl"), volume(".vtk"), archive, patients, enhanced,
    header(".mhd"), header(".nhdr"), header(".hdr"), folder, part, packed, prepared, studies,
)  # fmt: skip
OF_SUFFIX = {
    ".jpg": 0,
    ".png": 0,
    ".dcm": 0,
    ".nii": 2,
    ".gz": 3,
    ".mha": 4,
    ".nrrd": 5,
    ".mgh": 9,
    ".gipl": 10,
    ".vtk": 11,
}
OF_SUFFIX |= {".csv": 6, "": 7, ".zip": 12, ".tar": 12}


def one(data: bytes) -> None:
    """One input: its first byte is the reader's number."""
    with contextlib.suppress(AxonError):
        TARGETS[data[0] % len(TARGETS) if data else 0](data[1:])


def fill(corpus: Path) -> None:
    """Write the committed corpus, and what each small line of the table has its reader read."""
    for seed in CORPUS.iterdir():
        (corpus / seed.name).write_bytes(seed.read_bytes())
    for number, write in enumerate(HOSTILE.values()):
        name, content = next(iter(write().items()))
        if len(content) <= LARGEST and Path(name).suffix in OF_SUFFIX:
            (corpus / f"hostile-{number:03d}").write_bytes(bytes([OF_SUFFIX[Path(name).suffix]]) + content)


def main() -> None:
    assert len(TARGETS) == len(READERS)
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    BASES.mkdir()
    write_bases(BASES)
    for name, write in (("model", write_model), ("packed", write_packed), ("prepared", write_prepared)):
        write(BASES / name)
    if len(folders) == 1 and not any(folders[0].iterdir()):
        fill(folders[0])
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
