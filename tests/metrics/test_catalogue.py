"""The table of metrics: one line a key."""

import pytest

from axon.metrics.catalogue import METRICS, by_key


def test_two_lines_of_one_key_are_an_error_of_the_table() -> None:
    lines = list(METRICS.values())
    assert by_key(lines) == METRICS
    with pytest.raises(ValueError, match="axon/psnr"):
        by_key([*lines, lines[0]])
