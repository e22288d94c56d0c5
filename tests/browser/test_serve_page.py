"""`axon serve` as a user meets it: a real process, a real browser, real films."""

from __future__ import annotations

import json
import os
import re
import shutil
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
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from axon import DISCLAIMER, pretrained
from axon.config import Config
from axon.data.phantoms import make_phantom
from axon.geometry.volume import resample_to_cube
from axon.serve.jobs import GRACE_S
from tests.browser.conftest import DESK, PHONE, fits, keep, pixels, resize
from tests.conftest import REAL_DATA_UNSET
from tests.support.films import dicom_film
from tests.support.referenced import referenced_model
from tests.support.small_model import small_pipeline

pytestmark = pytest.mark.slow

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
        server.wait(60)  # a second on an idle machine
    assert list(scratch.iterdir()) == []


def give(page: WebDriver, address: str, *films: Path, samples: int = 1, seconds: float = 90) -> None:
    """Open the page and send films; returns when the page has an answer."""
    visit(page, address)
    choose(page, *films, samples=samples)
    submit(page)
    answered(page, seconds)


def choose(page: WebDriver, *films: Path, samples: int = 1) -> None:
    for name, film in zip(("frontal", "lateral"), films, strict=False):
        page.find_element(By.NAME, name).send_keys(str(film))
    if samples > 1:
        click(page, page.find_element(By.CSS_SELECTOR, "#more summary"))
        page.find_element(By.CSS_SELECTOR, f"select[name=samples] option[value='{samples}']").click()


def submit(page: WebDriver) -> None:
    click(page, page.find_element(By.CSS_SELECTOR, "button.main"))


def click(page: WebDriver, element: WebElement) -> None:
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)  # not below the banner
    element.click()


def visit(page: WebDriver, address: str) -> None:
    page.get(address)
    WebDriverWait(page, 20).until(lambda _: page.find_element(By.ID, "promise").text)


def answered(page: WebDriver, seconds: float = 90) -> str:
    """Wait until nothing is worked on; ``done`` or ``failed``."""
    body = page.find_element(By.TAG_NAME, "body")
    WebDriverWait(page, seconds, 0.1).until(lambda _: body.get_attribute("data-state") in ("done", "failed"))
    return str(body.get_attribute("data-state"))


def text(page: WebDriver, name: str) -> str:
    return page.find_element(By.ID, name).text


def stale(page: WebDriver) -> bool:
    return "stale" in str(page.find_element(By.ID, "result").get_attribute("class"))


def theme(page: WebDriver, name: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": name}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


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


def captions(page: WebDriver) -> list[str]:
    return [caption.text for caption in page.find_elements(By.CSS_SELECTOR, "#films figcaption")]


def letters(page: WebDriver) -> list[str]:
    """What is at the left and the right of each film."""
    films = page.find_elements(By.CSS_SELECTOR, "#films .film")
    return ["".join(side.text for side in film.find_elements(By.TAG_NAME, "b")) for film in films]


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
    press(sized, "Error to expect")
    std = loaded(sized, "std.nii.gz")
    assert np.abs(std[..., 0].astype(int) - std[..., 2]).max() > 30, "the map has no colour"
    assert "Error to expect" in text(sized, "legend") and " HU" in text(sized, "top")
    assert "error to expect, from 4 samples; two views; model axon" in text(sized, "facts")
    keep(sized, "serve-uncertainty")
    images = sized.find_elements(By.CSS_SELECTOR, "#films img")
    assert len(images) == 8 and all(pixels(image).std() > 2 for image in images)
    assert captions(sized)[:2] == ["frontal film, as given", "frontal film, as the model sees it"]
    assert letters(sized) == [*["RL"] * 4, *["AP"] * 4]
    bars = [film.find_elements(By.TAG_NAME, "i") for film in sized.find_elements(By.CSS_SELECTOR, "#films .film")]
    assert [len(bar) for bar in bars] == [0, 1, 1, 1] * 2, "nobody knows the scale of a film as given"
    film = sized.find_elements(By.CSS_SELECTOR, "#films .film")[1]
    assert bars[1][0].size["width"] == pytest.approx(film.size["width"] * 100 / 400, abs=2.5)
    assert re.fullmatch(r"difference, mean 0\.\d{3}; colours from −0\.5 to 0\.5, white is 0", captions(sized)[3])
    ct = nib.load(download(sized, "NIfTI volume", "frontal-axon-ct.nii.gz"))
    assert ct.shape == (32, 32, 32)
    with zipfile.ZipFile(download(sized, "DICOM series (zip)", "frontal-axon-dicom.zip")) as archive:
        slices = [pydicom.dcmread(archive.open(name)) for name in archive.namelist() if name.endswith(".dcm")]
    assert len(slices) == 32 and {ds.Modality for ds in slices} == {"CT"}
    record = json.loads(download(sized, "Record", "frontal-axon-reconstruction.json").read_text())
    assert record["samples"] == 4 and set(record["inputs"]) == {"frontal", "lateral"}
    assert (
        sized.find_element(By.ID, "disclaimer").text == DISCLAIMER
        and sized.find_element(By.ID, "disclaimer").is_displayed()
    )


SEE_CANCEL = """
const real = show;
show = (job) => { window.cancelled = !document.getElementById("cancel").hidden; return real(job); };
"""


def test_sliders_and_keys_move_slices_and_windows(
    sized: WebDriver, address: str, films: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of a DICOM film, whose file's name no download has; once there is a result, it cannot be cancelled."""
    visit(sized, address)
    sized.execute_script(SEE_CANCEL)
    choose(sized, dicom_film(tmp_path / "JANE_DOE.dcm", np.asarray(Image.open(films[0]))))
    submit(sized)
    assert answered(sized) == "done", text(sized, "error")
    loaded(sized, "ct.nii.gz")
    assert sized.execute_script("return window.cancelled") is False
    name = str(sized.find_element(By.LINK_TEXT, "NIfTI volume").get_attribute("download"))
    assert re.fullmatch(r"axon-\d{8}-\d{6}-ct\.nii\.gz", name)
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
    overlay, canvas = (sized.find_element(By.ID, name).rect for name in ("overlay", "canvas"))
    assert overlay["x"] + overlay["width"] < canvas["x"] + canvas["width"] / 2 - 5, "the letter at the foot is hidden"
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
    time.sleep(1.5 * GRACE_S + 1)  # To ask earlier would be a sign of life.
    assert sized.execute_script(status) == 404
    sized.get_log("browser")  # which notes the 404 as an error


def test_a_result_keeps_the_name_of_its_films(
    sized: WebDriver, address: str, films: tuple[Path, Path], tmp_path: Path
) -> None:
    """Greyed when another film is chosen, kept on a refusal and over a reload, and said when the server let it go."""
    give(sized, address, films[0])
    title = "Volume of frontal.png"
    assert text(sized, "title") == title and not stale(sized)
    (tmp_path / "other.png").write_text("no picture")
    sized.find_element(By.NAME, "frontal").send_keys(str(tmp_path / "other.png"))
    assert stale(sized) and "still the volume of frontal.png" in text(sized, "stale")
    assert text(sized, "title") == title
    keep(sized, "serve-stale")
    submit(sized)
    assert answered(sized) == "failed"
    assert text(sized, "title") == title and stale(sized)
    sized.refresh()
    WebDriverWait(sized, 20).until(lambda _: sized.find_element(By.ID, "title").text == title)
    assert answered(sized) == "done" and not stale(sized) and loaded(sized, "ct.nii.gz").std() > 5
    link = str(sized.find_element(By.LINK_TEXT, "NIfTI volume").get_attribute("href")).rpartition("/")[0]
    sized.execute_script(f"return fetch('{link}', {{method: 'DELETE'}})")
    sized.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
    WebDriverWait(sized, 20).until(lambda _: stale(sized))
    assert "no longer on the server" in text(sized, "stale") and "Press Reconstruct" in text(sized, "stale")
    sized.get_log("browser")  # which notes the 404 as an error


SLOW = """
const real = window.fetch, [path, wait] = arguments;
window.fetch = async (url, ...rest) => {
  if (String(url).endsWith(path)) await new Promise((done) => setTimeout(done, wait));
  return real(url, ...rest);
};
"""


def test_a_film_chosen_while_another_is_sent_greys_the_other_ones_volume(
    sized: WebDriver, address: str, films: tuple[Path, Path], tmp_path: Path
) -> None:
    visit(sized, address)
    sized.execute_script(SLOW, "/api/jobs", 1500)
    choose(sized, films[0])
    submit(sized)
    Image.open(films[0]).save(tmp_path / "other.png")
    sized.find_element(By.NAME, "frontal").send_keys(str(tmp_path / "other.png"))
    assert answered(sized) == "done", text(sized, "error")
    assert text(sized, "title") == "Volume of frontal.png"
    assert stale(sized) and "still the volume of frontal.png" in text(sized, "stale")


def test_the_title_is_of_the_picture_that_is_shown(sized: WebDriver, address: str, films: tuple[Path, Path]) -> None:
    """Of two images that are asked for at once, and of one that the server no longer has."""
    give(sized, address, films[0], samples=4)
    loaded(sized, "ct.nii.gz")
    sized.execute_script(SLOW, "mean.nii.gz", 1000)
    held = "return viewer.volumes.map((volume) => volume.name)"
    for name in ("Mean of samples", "Error to expect", "Volume, the best guess"):
        press(sized, name)
        assert text(sized, "title") == "Volume of frontal.png" and sized.execute_script(held) == ["ct.nii.gz"]
    time.sleep(1.5)
    settled(sized)
    assert text(sized, "title") == "Volume of frontal.png" and sized.execute_script(held) == ["ct.nii.gz"]
    job = str(sized.find_element(By.LINK_TEXT, "NIfTI volume").get_attribute("href")).rpartition("/")[0]
    drop = "return fetch(arguments[0], {method: 'DELETE'}).then(answer => answer.status)"
    assert sized.execute_script(drop, job) == 204
    press(sized, "Error to expect")
    WebDriverWait(sized, 20).until(lambda _: stale(sized))
    assert "no longer on the server" in text(sized, "stale") and "best guess" in text(sized, "facts")
    assert text(sized, "title") == "Volume of frontal.png" and sized.execute_script(held) == ["ct.nii.gz"]
    (pressed,) = sized.find_elements(By.CSS_SELECTOR, "#images [aria-pressed=true]")
    assert pressed.text == "Volume, the best guess"
    errors = [entry["message"] for entry in sized.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("404" in error for error in errors), errors  # which the browser notes


def test_no_download_is_called_after_an_archive(sized: WebDriver, address: str) -> None:
    visit(sized, address)
    script = "return prefixOf({frontal: arguments[0]}, {inputs: {frontal: {kind: 'png'}}})"
    for name in ("DOE_JANE.tar.gz", "DOE_JANE.tar.bz2", "DOE_JANE.zip", "DOE_JANE.TGZ", "DOE_JANE"):
        assert re.fullmatch(r"axon-\d{8}-\d{6}", sized.execute_script(script, name)), name
    assert sized.execute_script(script, "film.2.png") == "film.2-axon"


def test_a_refused_film_has_its_way_out(
    sized: WebDriver, address: str, films: tuple[Path, Path], tmp_path: Path
) -> None:
    """Noise is used on the user's word, which the record keeps; a film upside down is turned; an empty one is named."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (256, 256), np.uint8)).save(tmp_path / "noise.png")
    give(sized, address, tmp_path / "noise.png")
    assert "[XRAY_NOT_CHEST]" in text(sized, "error")
    press(sized, "Use it anyway")
    assert answered(sized) == "done", text(sized, "error")
    assert "refused as XRAY_NOT_CHEST, XRAY_VIEW_UNSURE, and made on your word" in text(sized, "facts")
    sized.find_element(By.NAME, "frontal").send_keys(str(films[0]))
    assert not sized.find_element(By.NAME, "trust_views").is_selected(), "the next film is checked again"
    Image.open(films[0]).rotate(180).save(tmp_path / "turned.png")
    sized.find_element(By.NAME, "frontal").send_keys(str(tmp_path / "turned.png"))
    submit(sized)
    assert answered(sized) == "failed" and pixels(sized.find_element(By.CSS_SELECTOR, "#error img")).std() > 10
    assert "choose “Rotate” by 180°, or “it is upright” if it is upright [XRAY_OR" in text(sized, "error")
    keep(sized, "serve-upside-down")
    press(sized, "Turn it by 180°")
    assert answered(sized) == "done", text(sized, "error")
    assert letters(sized) == ["", "RL", "RL", "RL"], "of what was given upside down, nobody knows left and right"
    (tmp_path / "empty.png").touch()
    sized.find_element(By.NAME, "lateral").send_keys(str(tmp_path / "empty.png"))
    turned = sized.find_element(By.NAME, "rotate")
    assert turned.get_property("value") == "180", "a lateral film more leaves the frontal one as it was turned"
    submit(sized)
    assert answered(sized) == "failed" and "the lateral film is empty" in text(sized, "error")


def test_a_cancelled_reconstruction_leaves_what_was_there(
    sized: WebDriver, address: str, films: tuple[Path, Path]
) -> None:
    """The page shows the volume of before, the server drops the job, and the next order is answered."""
    give(sized, address, films[0])
    title = text(sized, "title")
    choose(sized, *films, samples=8)
    submit(sized)
    cancel = sized.find_element(By.ID, "cancel")
    WebDriverWait(sized, 20, 0.02).until(lambda _: running(sized))
    job = running(sized)
    click(sized, cancel)
    assert sized.find_element(By.TAG_NAME, "body").get_attribute("data-state") == "done"
    assert text(sized, "title") == title and stale(sized) and not cancel.is_displayed()
    assert not sized.find_element(By.ID, "working").is_displayed() and text(sized, "say") == "Cancelled"
    gone = f"return fetch('{address}/api/jobs/{job}').then(answer => answer.status)"
    WebDriverWait(sized, 20).until(lambda _: sized.execute_script(gone) == 404)
    sized.get_log("browser")  # which notes the 404 as an error
    submit(sized)
    assert answered(sized) == "done" and text(sized, "title") == "Volume of frontal.png and lateral.png"


def running(page: WebDriver) -> str:
    """The job that the page waits for; empty without one."""
    kept = json.loads(page.execute_script("return sessionStorage.getItem('axon')") or "{}")
    return str((kept.get("running") or {}).get("id", ""))


HEAR = """
window.heard = [];
const said = document.getElementById("progress-text");
new MutationObserver(() => window.heard.push(said.textContent)).observe(said, {childList: true});
"""


def test_two_browsers_at_once_wait_for_one_another_and_have_each_its_own(
    sized: WebDriver, address: str, films: tuple[Path, Path], tmp_path: Path
) -> None:
    first = sized.current_window_handle
    shutil.copy(films[0], tmp_path / "other.png")
    try:
        for film in (tmp_path / "other.png", films[0]):
            sized.switch_to.new_window("window")
            resize(sized, DESK)
            visit(sized, address)
            choose(sized, film, samples=8)
            sized.execute_script(HEAR)
        mine = sized.current_window_handle
        other = next(window for window in sized.window_handles if window not in (first, mine))
        for window in (other, mine):
            sized.switch_to.window(window)
            submit(sized)
        for window, name in ((mine, "frontal.png"), (other, "other.png")):
            sized.switch_to.window(window)
            assert answered(sized) == "done", text(sized, "error")
            assert text(sized, "title") == f"Volume of {name}"
            waited = "Waiting: 1 ahead of you" in sized.execute_script("return window.heard")
            assert waited == (window == mine)
    finally:
        for window in set(sized.window_handles) - {first}:
            sized.switch_to.window(window)
            sized.close()
        sized.switch_to.window(first)


DROP = """
const held = new DataTransfer();
for (const name of ["my-lateral.png", "my-frontal.png"]) held.items.add(new File([new Uint8Array(9)], name));
const sent = new DragEvent("drop", {dataTransfer: held, bubbles: true, cancelable: true});
document.querySelector("footer").dispatchEvent(sent);
return sent.defaultPrevented;
"""


def test_films_are_dropped_anywhere_and_the_example_is_a_click_away(sized: WebDriver, address: str) -> None:
    visit(sized, address)
    assert sized.execute_script(DROP), "the browser would leave the page"
    frontal, lateral = (sized.find_element(By.NAME, name) for name in ("frontal", "lateral"))
    assert [str(field.get_attribute("value")).rpartition("\\")[2] for field in (frontal, lateral)] == [
        "my-frontal.png",
        "my-lateral.png",
    ]
    sized.find_element(By.ID, "example").click()
    thumbs = sized.find_elements(By.CSS_SELECTOR, ".drop .thumb")
    WebDriverWait(sized, 10).until(lambda _: all(thumb.is_displayed() for thumb in thumbs))
    assert all(pixels(thumb).std() > 10 for thumb in thumbs)
    assert "shapes, not vessels" in text(sized, "promise") and "Voxels of 10 mm" in text(sized, "promise")
    keep(sized, "serve-chosen")
    line, about = sized.find_element(By.ID, "promise"), {"voxel_mm": 2.8, "patients": 60}
    sized.execute_script("arguments[0].textContent = promise(arguments[1])", line, about)
    assert "CTs of 60 patients" in line.text and line.size["height"] < 30, "one line"
    submit(sized)
    assert answered(sized) == "done"
    assert text(sized, "title") == "Volume of example-frontal.png and example-lateral.png"
    assert sized.switch_to.active_element.get_attribute("id") == "title", "a screen reader starts at the result"
    assert text(sized, "say").startswith("Done: Volume of example")
    top = sized.find_element(By.ID, "title").rect["y"] - sized.execute_script("return scrollY")
    assert 0 <= top < 200, "the result is in sight"


def test_films_that_a_browser_cannot_draw_are_shown_before_they_are_sent(
    sized: WebDriver, address: str, films: tuple[Path, Path], tmp_path: Path
) -> None:
    """DICOM and TIFF are drawn by the server; of what is no film, the page says that there is no preview."""
    visit(sized, address)
    Image.open(films[1]).save(tmp_path / "film.tiff")
    choose(sized, dicom_film(tmp_path / "film.dcm", np.asarray(Image.open(films[0]))), tmp_path / "film.tiff")
    thumbs = sized.find_elements(By.CSS_SELECTOR, ".drop .thumb")
    WebDriverWait(sized, 30).until(lambda _: all(thumb.is_displayed() for thumb in thumbs))
    for thumb, film in zip(thumbs, films, strict=True):
        drawn = np.asarray(Image.fromarray(pixels(thumb)).convert("L").resize((32, 32)), float)
        given = np.asarray(Image.open(film).convert("L").resize((32, 32)), float)
        assert np.corrcoef(drawn.ravel(), given.ravel())[0, 1] > 0.95
    keep(sized, "serve-chosen-dicom")
    (tmp_path / "film.png").write_text("no picture")
    sized.find_element(By.NAME, "frontal").send_keys(str(tmp_path / "film.png"))
    said = sized.find_element(By.CSS_SELECTOR, ".drop output")
    WebDriverWait(sized, 30).until(lambda _: "no preview before it is sent" in said.text)
    assert not thumbs[0].is_displayed() and thumbs[1].is_displayed()


def test_the_keys_move_slices_of_the_focused_picture(sized: WebDriver, address: str, films: tuple[Path, Path]) -> None:
    give(sized, address, films[0])
    loaded(sized, "ct.nii.gz")
    slider = sized.find_element(By.ID, "slider-Axial")
    before = int(str(slider.get_attribute("value")))
    sized.find_element(By.ID, "canvas").send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_DOWN)
    assert int(str(slider.get_attribute("value"))) == before + 1
    sized.find_element(By.TAG_NAME, "body").send_keys("k", "k", "j")
    assert int(str(slider.get_attribute("value"))) == before + 2


CONTRAST = """
const levels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const colour = levels(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
};
const poor = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!own || !node.checkVisibility() || node.closest(":disabled, option, .viewer, .unseen")) continue;
  const [a, b] = [light(levels(getComputedStyle(node).color)), light(ground(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push(`${node.tagName} ${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return poor;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_on_a_phone_in_either_theme(
    sized: WebDriver, address: str, films: tuple[Path, Path], tmp_path: Path, scheme: str
) -> None:
    """WCAG AA asks for 4.5; the picture comes before the form."""
    theme(sized, scheme)
    sized.get(address)
    for size in (DESK, PHONE):
        resize(sized, size)
        assert sized.execute_script(CONTRAST) == []
    give(sized, address, *films, samples=4)
    loaded(sized, "ct.nii.gz")
    for size in (DESK, PHONE):
        resize(sized, size)
        assert sized.execute_script(CONTRAST) == []
    press(sized, "Error to expect")
    loaded(sized, "std.nii.gz")
    (tmp_path / "film.png").write_text("no picture")
    sized.find_element(By.NAME, "frontal").send_keys(str(tmp_path / "film.png"))
    submit(sized)
    assert answered(sized) == "failed"
    assert sized.execute_script(CONTRAST) == []
    dark = sized.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark") and fits(sized)
    canvas, form = (sized.find_element(By.ID, name).rect["y"] for name in ("canvas", "form"))
    assert canvas < form
    keep(sized, f"serve-phone-{scheme}")
    theme(sized, "light")


@pytest.mark.skipif("AXON_TEST_DATA" not in os.environ, reason=REAL_DATA_UNSET)
def test_a_real_film(sized: WebDriver, address: str) -> None:
    film = sorted(Path(os.environ["AXON_TEST_DATA"], "cxr_png").glob("*_pa.png"))[0]
    give(sized, address, film)
    assert loaded(sized, "ct.nii.gz").std() > 5
    image = sized.find_element(By.CSS_SELECTOR, "#films img")
    assert Image.fromarray(pixels(image)).convert("L").getextrema() != (0, 0)
    keep(sized, "serve-real-film")


def test_the_screenshots_of_the_documentation_are_made_by_a_command(
    browser: WebDriver, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from docs.screenshots import NAMES, take

    take([], tmp_path, str(referenced_model(tmp_path_factory.mktemp("model"))))
    assert {path.name for path in tmp_path.iterdir()} == NAMES
    sizes = {path.stem: Image.open(path).size for path in tmp_path.iterdir()}
    assert (
        sizes["serve-desk"][0] == 1280
        and sizes["serve-phone"][0] == PHONE[0]
        and min(sizes[name][1] for name in ("serve-desk", "serve-phone", "serve-phone-dark")) > 1000
    )
