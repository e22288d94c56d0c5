from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.real_films import Look, enclosed, main
from tests.support.referenced import referenced_model
from tests.support.small_model import write_films


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
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert "[XRAY_MISSING]" in capsys.readouterr().err


def test_lungs_that_no_adult_has_are_not_plausible() -> None:
    shares = {"lung": 0.3, "fat": 0.1, "soft": 0.4, "bone": 0.05}
    assert Look("film", "`volume`", 4.0, shares, 0.1, 0.9).plausible
    assert not Look("film", "`volume`", 1.0, shares, 0.1, 0.9).plausible
    assert not Look("film", "`volume`", 4.0, {**shares, "soft": 0.05}, 0.1, 0.9).plausible


@pytest.mark.slow
def test_every_film_is_measured_with_references_and_without_and_is_in_the_picture(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    frontal, lateral = write_films(films)
    lateral.unlink()
    (films / "damaged.png").write_bytes(frontal.read_bytes()[:200])
    out = tmp_path / "out"
    main([str(films), "--model", str(referenced_model(tmp_path / "model")), "--out", str(out)])
    text = (out / "films.md").read_text()
    assert "damaged.png: [" in text and "References came to look like 1 of 1 films." in text
    rows = [line for line in text.splitlines() if line.startswith("| frontal |")]
    assert [row.split(" | ")[1] for row in rows] == ["networks alone", "`volume`", "`sample`"]
    assert len({row.split(" | ")[2] for row in rows}) == 3
    picture = Image.open(out / "films.webp")
    assert picture.width > picture.height and np.asarray(picture.convert("L"))[20:140, 7 * 130 :].std() > 5
