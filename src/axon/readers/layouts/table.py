"""The layouts, in the order in which they are asked; the first one that knows a file names it."""

from __future__ import annotations

from axon.readers.layouts import (
    bids,
    ct_rate,
    generic,
    luna16,
    medical_decathlon,
    nnunet,
    segmented_covid,
    total_segmentator,
)
from axon.readers.layouts.rule import Layout

LAYOUTS: tuple[Layout, ...] = (
    luna16.LAYOUT,
    total_segmentator.LAYOUT,
    ct_rate.LAYOUT,
    segmented_covid.LAYOUT,
    nnunet.LAYOUT,
    medical_decathlon.LAYOUT,
    bids.LAYOUT,
    *generic.FALLBACKS,
)
