"""CT-RATE: ``train_P_S_R.nii.gz`` is patient P, scan S, reconstruction R; all of a patient's are one patient's."""

from __future__ import annotations

import re

from axon.readers.layouts.rule import Image, Layout, Named

_STEM = re.compile(r"(((?:train|valid)_\d+)_[a-z]+)_\d+")


def _name(image: Image) -> Named | None:
    found = _STEM.fullmatch(image.stem)
    return Named(image.stem, found[2], scan=found[1]) if found else None


LAYOUT = Layout("CT-RATE", _name)
