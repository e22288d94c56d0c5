"""The frames of an enhanced CT (PS3.3 A.38) as slices: what functional groups say of a frame, under a slice's names."""

from __future__ import annotations

from pydicom.dataset import Dataset

from axon.dicom.slices import OF_A_SLICE
from axon.errors import require

GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
_RENAMED = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionTime",
}
"""What an enhanced CT calls otherwise than a classic one."""
MAX_FRAMES = 10_000


def frames_of(ds: Dataset, traits: list[str]) -> list[Dataset]:
    """Each frame's elements as a classic slice has them; a file of one frame without groups is its own only frame.

    Args:
        ds: A file, parsed with `GROUPS`.
        traits: Keywords that are taken out of the groups beside those of a slice's geometry and rescale.

    Raises:
        AxonError: ``CT_MULTIFRAME`` where several frames have no groups, or not one each.
    """
    count = int(ds.get("NumberOfFrames") or 1)
    shared, own = (ds.get(key) for key in GROUPS)
    if count == 1 and not own:
        return [ds]
    described = count <= MAX_FRAMES and bool(own) and len(own) == count
    require(described, "CT_MULTIFRAME", "a file's frames lack functional groups", "export one file a slice")
    keys = {*OF_A_SLICE, *traits, *_RENAMED}
    common = {**_top(ds), **(_elements(shared[0], keys) if shared else {})}
    return [_frame({**common, **_elements(group, keys)}) for group in own]


def _top(ds: Dataset) -> dict[str, object]:
    """The elements of the file itself, which a group's override."""
    return {key: ds[key].value for key in ds.dir() if key not in GROUPS}


def _elements(groups: Dataset, keys: set[str]) -> dict[str, object]:
    """The allow-listed elements of the first item of each functional group of a frame."""
    found: dict[str, object] = {}
    for element in groups:
        if element.VR == "SQ" and element.value:
            item = element.value[0]
            found.update({_RENAMED.get(key, key): item[key].value for key in item.dir() if key in keys})
    return found


def _frame(elements: dict[str, object]) -> Dataset:
    frame = Dataset()
    for key, value in elements.items():
        setattr(frame, key, value)
    return frame
