"""The dry run of the benchmark of cold starts."""

import sys

import pytest

from benchmarks import cold


@pytest.mark.slow
def test_each_kind_of_call_has_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert cold.main(["--times", "1", "--only", "0", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `axon") or "small" in line]
    assert len(rows) == 2
    for row in rows:
        least, median, greatest, peak = map(float, row.split("|")[2:6])
        assert least == median == greatest
        assert peak > 5


@pytest.mark.slow
def test_a_call_that_fails_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="nothing to see"):
        cold.measured([sys.executable, "-c", "raise SystemExit('nothing to see')"])
