"""Coverage-guided fuzzing of the readers by hand: ``make fuzz``. Anything but an AxonError is a finding, and ends the
run.

Needs the extra ``fuzz`` (atheris). The first bytes choose the reader; a corpus of whole files is written on the first
run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["axon", "pydicom"]):
    from axon.dicom.ct import read_ct_series
    from axon.dicom.xray import read_xray


from axon.errors import AxonError
from tests.support.mutations import write_bases

SCRATCH = Path(tempfile.mkdtemp(prefix="axon-fuzz-"))
BASES = SCRATCH / "bases"


def one(data: bytes) -> None:
    """A film, or the third slice of a series that is otherwise whole."""
    path = SCRATCH / "case"
    path.write_bytes(data[1:])
    try:
        if data[:1] < b"\x80":
            read_xray(path)
        else:
            read_ct_series([*sorted((BASES / "ct_native").iterdir())[:2], path])
    except AxonError:
        pass


def main() -> None:
    corpus = next((Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")), None)
    BASES.mkdir()
    write_bases(BASES)
    if corpus and not any(corpus.iterdir()):
        for base in sorted(BASES.iterdir()):
            path = sorted(base.iterdir())[-1]
            first = b"\x00" if base.name.startswith("film") else b"\xff"
            (corpus / base.name).write_bytes(first + path.read_bytes())
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
