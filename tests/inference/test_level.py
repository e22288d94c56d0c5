"""Two films of one patient that do not lie at one height."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from axon import inference, pretrained, reconstruct
from axon.cli import main
from axon.geometry.level import Level, _moved
from axon.inference import AxonPipeline
from axon.reconstruct import Films, read_films, sample

EXAMPLE = Path(inference.__file__).parent / "serve" / "static" / "example"


@pytest.fixture(scope="module")
def packaged() -> AxonPipeline:
    return pretrained.pipeline()


@pytest.fixture(scope="module")
def films_UV(packaged: AxonPipeline) -> tuple[np.ndarray, np.ndarray]:
    from axon.reconstruct import on_detector

    read = on_detector(read_films(EXAMPLE / "frontal.png", EXAMPLE / "lateral.png"), packaged)
    return read["frontal"], read["lateral"]


def lower(film_UV: np.ndarray, share: float) -> np.ndarray:
    return _moved(torch.from_numpy(film_UV)[None, None], share, 1.0)[0, 0].numpy()


def volume(pipeline: AxonPipeline, films_UV: tuple[np.ndarray, np.ndarray], **asked: object) -> inference.AxonOutput:
    return pipeline(*films_UV, num_samples=0, use_references=False, **asked)


def test_films_at_one_height_give_what_they_gave(
    packaged: AxonPipeline, films_UV: tuple[np.ndarray, np.ndarray]
) -> None:
    found, left = volume(packaged, films_UV), volume(packaged, films_UV, scales=())
    assert found.level is None
    assert np.array_equal(found.volume.hu_DHW, left.volume.hu_DHW)


def test_a_lower_lateral_film_is_brought_up(packaged: AxonPipeline, films_UV: tuple[np.ndarray, np.ndarray]) -> None:
    frontal, lateral = films_UV
    low = (frontal, lower(lateral, 25 / 448))
    straight, found, left = (
        volume(packaged, films, **asked) for films, asked in ((films_UV, {}), (low, {}), (low, {"scales": ()}))
    )
    assert found.level is not None
    assert found.level.down_mm == pytest.approx(25, abs=6)
    assert left.level is None
    wrong, mended = (np.abs(made.volume.hu_DHW - straight.volume.hu_DHW).mean() for made in (left, found))
    assert mended < 0.5 * wrong


def test_one_film_and_rendered_films_are_not_looked_at(
    packaged: AxonPipeline, films_UV: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Level:
        raise AssertionError

    monkeypatch.setattr(inference, "find_level", fail)
    assert volume(packaged, films_UV, rendered=True).level is None
    assert packaged(films_UV[0], num_samples=0, use_references=False).level is None


def test_the_film_that_is_shown_is_the_moved_one_unless_the_user_says_no(
    packaged: AxonPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "find_level", lambda *_: Level(20.0, 1.0, 0.5, 0.1))
    films = read_films(EXAMPLE / "frontal.png", EXAMPLE / "lateral.png")
    moved = sample(films, packaged, 0, use_references=False)
    still = sample(Films(films.paths, films.xrays, films.digests, level=False), packaged, 0, use_references=False)
    assert (moved.output.level is not None, still.output.level) == (True, None)
    assert np.array_equal(moved.films["frontal"], still.films["frontal"])
    expected = lower(still.films["lateral"], -20 / 448)
    assert np.allclose(moved.films["lateral"], expected, atol=1e-5)


def test_record_picture_and_terminal_say_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inference, "find_level", lambda *_: Level(20.0, 1.0, 0.5, 0.1))
    titles: list[str] = []
    monkeypatch.setattr(reconstruct, "_show", lambda _axes, title, *_: titles.append(title))
    words = "moved 20 mm up to fit the frontal film"
    for option, said in (([], True), (["--no-level"], False)):
        out = tmp_path / f"out{len(option)}"
        films = [str(EXAMPLE / "frontal.png"), str(EXAMPLE / "lateral.png")]
        titles.clear()
        caplog.clear()
        with caplog.at_level("INFO"):
            assert main(["reconstruct", *films, "-o", str(out), "--fast", "--no-sample", *option]) == 0
        inputs = json.loads((out / reconstruct.RECORD).read_text())["inputs"]
        assert (words in inputs["lateral"]["notes"]) is said and words not in inputs["frontal"]["notes"]
        assert (f"lateral film, {words}" in titles) is said
        assert (f"lateral film: {words}" in caplog.text) is said
