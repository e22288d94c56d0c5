"""Patient data planted in every kind of element, to be searched for in everything that is written."""

from __future__ import annotations

import pydicom
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

CANARY = "ZXCANARY"


def plant(ds: pydicom.Dataset) -> None:
    """Three canaries in every kind of text: at the top, nested, and private; and in raw bytes."""
    inner = pydicom.Dataset()
    private = ds.private_block(0x0011, f"{CANARY}-creator", create=True)
    for number, vr in enumerate(TEXT_VRS):
        tags = [
            tag
            for tag, entry in DicomDictionary.items()
            if entry[0] == vr and tag >> 16 > 4 and tag >> 16 < 0x5000 and entry[4] not in READ and not entry[3]
        ]
        for tag in tags[:3]:
            _put(ds, tag, vr)
            _put(inner, tag, vr)
        _put(ds, private.get_tag(number + 1), vr)
    private.add_new(0x80, "UN", f"{CANARY}-UN".encode())
    private.add_new(0x81, "OB", f"{CANARY}-OB".encode())
    private.add_new(0x82, "SQ", [inner])
    ds.PatientID = f"{CANARY}-id"
    ds.PatientName = f"{CANARY}^{CANARY}"
    ds.ReferencedPatientSequence = [inner]


TEXT_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")


READ = {
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "BodyPartExamined",
}


def _put(ds: pydicom.Dataset, tag: int, vr: str) -> None:
    """An element with the canary as its bytes, which its kind may not allow."""
    value = f"{CANARY}--{vr}".encode()
    ds[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
