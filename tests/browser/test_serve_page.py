"""`axon serve` as a user meets it: a real process, a real browser, real films."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from axon import DISCLAIMER, pretrained
from axon.config import Config
from axon.data.phantoms import make_phantom
from axon.geometry.volume import resample_to_cube
from tests.browser.conftest import PHONE, fits, keep, pixels, resize
from tests.conftest import REAL_DATA_UNSET
from tests.support.small_model import small_pipeline, write_films

CONFIG = "grid: {coarse_size: 16, upscale: 2, extent_mm: 320.0}\nxray: {detector_px: 64, pixel_pitch_mm: 6.25}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights about the mean of phantoms: something like a chest."""
    import torch

    text = Path(__file__).parents[1].joinpath("tiny.yaml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("grid:", "xray:"))]
    pipeline = small_pipeline(Config.from_yaml("\n".join([*kept, CONFIG])))
    volumes = [resample_to_cube(make_phantom(seed, 64, 6.0), np.zeros(3), 16, 320.0).hu_DHW for seed in range(3)]
    mean_DHW = torch.from_numpy(np.mean(volumes, axis=0, dtype=np.float32))
    pipeline.estimator.lift.mean_volume.copy_((mean_DHW.clamp(-1024, 1476) + 1024) / 1250 - 1)
    folder = tmp_path_factory.mktemp("model") / "model"
    pipeline.save_pretrained(folder)
    pretrained.seal(folder)
    return folder


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running `axon serve`. When it has ended, no file of its users is left."""
    scratch = tmp_path_factory.mktemp("scratch")
    command = [sys.executable, "-m", "axon.cli", "serve", "--port", "0", "--model", str(model)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)})
    assert server.stdout
    try:
        yield next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    assert list(scratch.iterdir()) == []


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_films(tmp_path_factory.mktemp("films"))


def give(page: WebDriver, address: str, *films: Path, samples: int = 1, seconds: float = 90) -> None:
    """Open the page and send films; returns when the page has an answer."""
    page.get(address)
    WebDriverWait(page, 20).until(lambda _: page.find_element(By.ID, "model").text)
    for name, film in zip(("frontal", "lateral"), films, strict=False):
        page.find_element(By.NAME, name).send_keys(str(film))
    page.find_element(By.CSS_SELECTOR, f"select[name=samples] option[value='{samples}']").click()
    page.find_element(By.CSS_SELECTOR, "button.main").click()
    body = page.find_element(By.TAG_NAME, "body")
    WebDriverWait(page, seconds).until(lambda _: body.get_attribute("data-state") in ("done", "failed"))


def loaded(page: WebDriver, file: str) -> np.ndarray:
    """What the viewer shows once it holds ``file``."""
    canvas = page.find_element(By.ID, "canvas")
    WebDriverWait(page, 30).until(lambda _: canvas.get_attribute("data-loaded") == file)
    return settled(page)


def settled(page: WebDriver) -> np.ndarray:
    """What the viewer shows, once two looks agree."""
    before = None
    canvas = page.find_element(By.ID, "canvas")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    for _ in range(20):
        now = pixels(canvas)
        if before is not None and now.shape == before.shape and (now == before).all():
            return now
        before = now
        time.sleep(0.2)
    raise AssertionError("the viewer does not come to rest")


def press(page: WebDriver, label: str) -> None:
    page.find_element(By.XPATH, f"//button[.='{label}']").click()


def download(page: WebDriver, label: str, name: str) -> Path:
    path = page.downloads / name  # type: ignore[attr-defined]
    path.unlink(missing_ok=True)
    page.find_element(By.LINK_TEXT, label).click()
    WebDriverWait(page, 30).until(lambda _: path.is_file())
    return path


def test_two_films_are_reconstructed_looked_at_and_downloaded(
    sized: WebDriver, address: str, films: tuple[Path, Path]
) -> None:
    give(sized, address, *films, samples=4)
    keep(sized, "serve-first-look")
    lung = loaded(sized, "ct.nii.gz")
    assert len(np.unique(lung[..., 1])) > 20, "the canvas is blank"
    thirds = np.array_split(lung, 3, axis=1)
    assert all(third.std() > 5 for third in thirds), "a plane is missing"
    press(sized, "Bone")
    assert np.abs(settled(sized).astype(int) - lung).mean() > 2
    press(sized, "Soft tissue")
    keep(sized, "serve-desk")
    press(sized, "Uncertainty")
    std = loaded(sized, "std.nii.gz")
    assert np.abs(std[..., 0].astype(int) - std[..., 2]).max() > 30, "the map has no colour"
    assert "Standard deviation" in sized.find_element(By.ID, "legend").text
    keep(sized, "serve-uncertainty")
    images = sized.find_elements(By.CSS_SELECTOR, "#films img")
    assert len(images) == 6 and all(pixels(image).std() > 2 for image in images)
    ct = nib.load(download(sized, "NIfTI volume", "axon-ct.nii.gz"))
    assert ct.shape == (32, 32, 32)
    with zipfile.ZipFile(download(sized, "DICOM series (zip)", "axon-dicom.zip")) as archive:
        slices = [pydicom.dcmread(archive.open(name)) for name in archive.namelist() if name.endswith(".dcm")]
    assert len(slices) == 32 and {ds.Modality for ds in slices} == {"CT"}
    record = json.loads(download(sized, "Record", "axon-reconstruction.json").read_text())
    assert record["samples"] == 4 and set(record["inputs"]) == {"frontal", "lateral"}
    assert (
        sized.find_element(By.ID, "disclaimer").text == DISCLAIMER
        and sized.find_element(By.ID, "disclaimer").is_displayed()
    )


def test_sliders_and_keys_move_slices_and_windows(sized: WebDriver, address: str, films: tuple[Path, Path]) -> None:
    give(sized, address, films[0])
    loaded(sized, "ct.nii.gz")
    body = sized.find_element(By.TAG_NAME, "body")
    for key, plane in (("a", "Axial"), ("c", "Coronal"), ("s", "Sagittal")):
        body.send_keys(key)
        assert body.get_attribute("data-plane") == plane
        before = settled(sized)
        slider = sized.find_element(By.ID, f"slider-{plane}")
        slider.send_keys(*[Keys.ARROW_RIGHT] * 6)
        assert slider.get_attribute("value") == "23"
        assert np.abs(settled(sized).astype(int) - before).mean() > 0.5
    before = settled(sized)
    body.send_keys("3")
    assert sized.find_element(By.XPATH, "//button[.='Bone']").get_attribute("aria-pressed") == "true"
    assert np.abs(settled(sized).astype(int) - before).mean() > 1
    sized.find_element(By.ID, "slider-Width").send_keys(Keys.HOME)
    assert sized.find_element(By.XPATH, "//button[.='Bone']").get_attribute("aria-pressed") == "false"
    assert "HU" in sized.find_element(By.ID, "readout").text


def test_a_phone_shows_one_plane_and_scrolls_only_down(
    sized: WebDriver, address: str, films: tuple[Path, Path]
) -> None:
    resize(sized, PHONE)
    give(sized, address, films[0])
    assert loaded(sized, "ct.nii.gz").std() > 5
    assert fits(sized)
    assert sized.find_element(By.TAG_NAME, "body").get_attribute("data-plane") == "Axial"
    small = [
        button.text
        for button in sized.find_elements(By.CSS_SELECTOR, "button, a.button")
        if 0 < button.size["height"] < 40
    ]
    assert small == [], "too small for a finger"
    keep(sized, "serve-phone")


def test_an_unreadable_film_is_explained(sized: WebDriver, address: str, tmp_path: Path) -> None:
    (tmp_path / "film.png").write_text("no picture")
    give(sized, address, tmp_path / "film.png")
    error = sized.find_element(By.ID, "error")
    assert error.is_displayed() and "[XRAY_" in error.text
    assert str(tmp_path) not in error.text
    keep(sized, "serve-error")


def test_results_go_when_the_page_does(sized: WebDriver, address: str, films: tuple[Path, Path]) -> None:
    give(sized, address, films[0])
    link = sized.find_element(By.LINK_TEXT, "NIfTI volume").get_attribute("href")
    status = f"return fetch('{link}').then(answer => answer.status)"
    assert sized.execute_script(status) == 200
    sized.get(f"{address}/api/about")
    deadline = time.monotonic() + 10
    while sized.execute_script(status) != 404 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert sized.execute_script(status) == 404
    sized.get_log("browser")  # which notes the 404 as an error


@pytest.mark.skipif("AXON_TEST_DATA" not in os.environ, reason=REAL_DATA_UNSET)
def test_a_real_film(sized: WebDriver, address: str) -> None:
    film = sorted(Path(os.environ["AXON_TEST_DATA"], "cxr_png").glob("*_pa.png"))[0]
    give(sized, address, film)
    assert loaded(sized, "ct.nii.gz").std() > 5
    image = sized.find_element(By.CSS_SELECTOR, "#films img")
    assert Image.fromarray(pixels(image)).convert("L").getextrema() != (0, 0)
    keep(sized, "serve-real-film")


def test_the_screenshots_of_the_documentation_are_made_by_a_command(browser: WebDriver, tmp_path: Path) -> None:
    from docs.screenshots import take

    take([], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"serve-desk.webp", "serve-phone.webp"}
    sizes = {path.stem: Image.open(path).size for path in tmp_path.iterdir()}
    assert (
        sizes["serve-desk"][0] == 1280
        and sizes["serve-phone"][0] == PHONE[0]
        and min(height for _, height in sizes.values()) > 1000
    )
