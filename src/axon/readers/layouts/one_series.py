"""One series of each scan: of thin and thick, soft and sharp reconstructions, the one that shows soft tissue best."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from axon.config import CtConfig
from axon.dicom.ct import first_header
from axon.errors import AxonError
from axon.readers.layouts.rule import Study
from axon.readers.volumes import ITK, NIFTI, read_grid, suffix_of


@dataclass(frozen=True)
class _Series:
    """A series by its headers: height and step in mm along the slices' normal."""

    study: Study
    height_mm: float
    step_mm: float
    sharp: bool


def one_of_each_scan(studies: list[Study], rules: CtConfig) -> tuple[list[Study], list[str]]:
    """The thinnest soft-tissue series of each scan; the thinnest of all where each has a kernel for lungs or bones.

    Args:
        studies: As found. A scan is what shares StudyInstanceUID and FrameOfReferenceUID, or a public layout's name.
        rules: As of `axon.readers.volumes.read_ct`.

    Returns:
        tuple: The studies without the others, and notes. One whose headers cannot be read stays, to be rejected.
    """
    scans: dict[str, list[Study]] = defaultdict(list)
    for study in studies:
        if study.scan:
            scans[study.scan].append(study)
    left_out: set[str] = set()
    notes = []
    for found in scans.values():
        known = [series for study in found if (series := _series(study, rules))]
        if len(known) < 2:
            continue
        highest = max(series.height_mm for series in known)
        whole = [series for series in known if series.height_mm >= rules.min_series_share * highest]
        best = min(whole, key=lambda series: (series.sharp, round(series.step_mm, 2), series.study.case_id))
        left_out |= {series.study.case_id for series in known} - {best.study.case_id}
        notes.append(f"{best.study.case_id} is taken of {len(known)} series of a scan: {best.step_mm:.3g} mm a slice")
    return [study for study in studies if study.case_id not in left_out], notes


def _series(study: Study, rules: CtConfig) -> _Series | None:
    try:
        shape, spacing, _ = read_grid(study.files, rules)
        sharp = not suffix_of(study.files[0], NIFTI + ITK) and first_header(study.files[0]).sharp
    except AxonError:
        return None
    return _Series(study, shape[0] * spacing[2], spacing[2], sharp)
