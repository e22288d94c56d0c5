"""A real headless Chromium, a window of a desk's or a phone's size, and pictures of what it shows."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
DESK, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """Chromium. Skips without one, unless AXON_REQUIRE_BROWSER says that it must be there."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        if os.environ.get("AXON_REQUIRE_BROWSER"):
            pytest.fail("AXON_REQUIRE_BROWSER is set, and there is no chromium with chromedriver")
        pytest.skip("no chromium with chromedriver")
    with chromium(tmp_path_factory.mktemp("browser")) as chrome:
        yield chrome


@contextmanager
def chromium(folder: Path) -> Iterator[WebDriver]:
    """A browser with its profile and its downloads in ``folder``."""
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    chrome.downloads = folder / "downloads"  # type: ignore[attr-defined]
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def sized(browser: WebDriver) -> Iterator[WebDriver]:
    """The browser at a desk's size, with nothing in its log at the start; afterwards it must hold no error."""
    resize(browser, DESK)
    browser.get_log("browser")
    yield browser
    browser.execute_script("sessionStorage.clear()")  # The next test has not been here.
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def resize(browser: WebDriver, size: tuple[int, int]) -> None:
    """Set the size of the page itself, as a phone has it: a window cannot be narrower than 500 pixels."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def pixels(element: WebElement) -> np.ndarray:
    """What an element looks like, shape (rows, columns, 3)."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))


def keep(browser: WebDriver, name: str, whole: bool = True) -> None:
    """Keep a picture of the page in the folder AXON_SCREENSHOTS, where that is set."""
    if folder := os.environ.get("AXON_SCREENSHOTS"):
        Path(folder, f"{name}.png").write_bytes(screenshot(browser, whole))


def screenshot(browser: WebDriver, whole: bool = True) -> bytes:
    """A PNG of the page, the whole of it or what the window shows."""
    browser.execute_script("scrollTo(0, 0)")
    return base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})["data"])


def fits(browser: WebDriver) -> bool:
    """Whether nothing has to be scrolled sideways."""
    return bool(browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"))
