"""What a volume's header says beside its voxels: the file that holds them, and whether they are labels."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from axon.errors import AxonError, require

_MOST_BYTES = 2**16
_META = re.compile(rb"^\s*(\w+)\s*=[ \t]*(.*?)\s*$")
_NRRD = re.compile(rb"^([^:#=]+):=?[ \t]*(.*?)\s*$")
_META_DATA = "elementdatafile"
_INSIDE = ("", "local")
_FIX = "give the header one plain file of voxels, in its own folder"


def text_header(path: Path) -> dict[str, str]:
    """The fields of a MetaImage or NRRD header, keys in small letters without blanks.

    Raises:
        AxonError: ``CT_UNREADABLE`` where the header has no end in its first 64 KiB.
    """
    meta = path.suffix.lower() in (".mha", ".mhd")
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        head = file.read(_MOST_BYTES)
    lines = head.split(b"\n")
    for number, line in enumerate(lines):
        if found := (_META if meta else _NRRD).match(line):
            key = found[1].decode("ascii", "replace").lower().replace(" ", "")
            fields[key] = found[2].decode("utf-8", "surrogateescape")
        if _META_DATA in fields or (not meta and not line.strip()):
            return fields
        # A detached header may end with its file.
        if number == len(lines) - 1 and len(head) < _MOST_BYTES:
            return fields
    raise AxonError("CT_UNREADABLE", "the header of a volume has no end", "export it again")


def data_files(path: Path) -> tuple[Path, ...]:
    """The file that holds the voxels of a header, none where the header's own file does.

    Args:
        path: A volume file of any format.

    Raises:
        AxonError: ``CT_DATA_FILE`` where it is not one plain file beside the header; see also `text_header`.
    """
    suffix = path.suffix.lower()
    if suffix == ".hdr":
        found = [path.with_suffix(end) for end in (".img", ".img.gz", ".IMG") if path.with_suffix(end).is_file()]
        require(bool(found), "CT_DATA_FILE", f"{path.name} has no .img beside it", "add it, under the same name")
        return (found[0],)
    if suffix not in (".mha", ".mhd", ".nrrd", ".nhdr"):
        return ()
    header = text_header(path)
    name = next((header[key] for key in (_META_DATA, "datafile") if key in header), "")
    if name.lower() in _INSIDE:
        return ()
    # A list, a pattern or a path would make the header say what else is opened.
    plain = not re.search(r"[/\\%\0]|^LIST\b|^\.", name)
    require(plain, "CT_DATA_FILE", f"{path.name} does not name one plain file beside it for its voxels", _FIX)
    data = path.with_name(name)
    require(data.is_file(), "CT_DATA_FILE", f"the voxels of {path.name} are in a file that is not beside it", _FIX)
    return (data,)


def intent(path: Path) -> int:
    """The intent code of a NIfTI header, gzipped or not; -1 for a file that has none.

    NIfTI-1.1 and NIfTI-2: ``sizeof_hdr`` comes first and tells both the version and the order of bytes.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        head = (gzip.GzipFile(fileobj=file) if packed else file).read(540)
    for order in ("little", "big"):
        size = int.from_bytes(head[:4], order)  # type: ignore[arg-type]
        if size in (348, 540):
            at, length = (68, 2) if size == 348 else (504, 4)
            return int.from_bytes(head[at : at + length], order)  # type: ignore[arg-type]
    return -1
