"""COVID-19-CT-Seg: ``coronacases_org_001``, ``radiopaedia_org_..._0``; the whole name is the patient."""

from __future__ import annotations

import re

from axon.readers.layouts.rule import Image, Layout, Named

_STEM = re.compile(r"coronacases_(org_)?\d+|radiopaedia_.*\d")


def _name(image: Image) -> Named | None:
    return Named(image.stem, image.stem) if _STEM.fullmatch(image.stem) else None


LAYOUT = Layout("COVID-19-CT-Seg", _name)
