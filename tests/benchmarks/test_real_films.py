from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_films import enclosed


def test_a_hole_in_the_chest_wall_does_not_lose_the_lung() -> None:
    hu = np.full((4, 20, 20), -1000.0)
    hu[:, 4:16, 4:16] = 40
    hu[:, 6:14, 6:14] = -700
    hu[:, 14:16, 9:11] = -1000
    body = enclosed(hu)
    assert body[:, 6:14, 6:14].all() and not body[:, :4].any() and not body[:, :, :4].any()


def test_air_alone_encloses_nothing() -> None:
    assert not enclosed(np.full((2, 5, 5), -1000.0)).any()


def test_a_folder_without_films_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.real_films import main

    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert "[XRAY_MISSING]" in capsys.readouterr().out
