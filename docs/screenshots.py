"""Take the pictures of docs/screenshots with the model of the package, in a real browser: ``make screenshots``."""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from axon.errors import AxonError, one_line_errors
from tests.browser.conftest import DESK, PHONE, chromium, resize, screenshot
from tests.browser.test_serve_page import answered, choose, loaded, press, stale, submit, theme, visit
from tests.support.small_model import write_films

FOLDER = Path(__file__).with_name("screenshots")
PHANTOM = 1000
"""Of a seed that no model was trained on."""
PATIENCE_S = 900
EXPIRE = """
fetch(document.querySelector("#downloads a").href.replace(/[^/]*$/, "").slice(0, -1), {method: "DELETE"})
  .then(() => document.dispatchEvent(new Event("visibilitychange")));
"""
"""Let the server forget the result, as it does after a while, and the page ask after it."""
STATES = ("start", "working", "desk", "error-map", "stale", "refused", "expired", "phone", "phone-dark")
NAMES = {f"serve-{state}.webp" for state in STATES}


def main() -> int:
    """0 on success, 1 on an error explained in one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("films", type=Path, nargs="*", help="frontal and lateral film (default: a phantom's)")
    parser.add_argument("--model", default="axon-small", help="that makes the volumes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="(default: %(default)s)")
    arguments = parser.parse_args()
    with one_line_errors():
        if not shutil.which("chromium") or not shutil.which("chromedriver"):
            raise AxonError("NO_BROWSER", "there is no chromium with chromedriver", "install both")
        take(arguments.films, arguments.out, arguments.model)
    return 0


def take(films: list[Path], out: Path, model: str) -> None:
    """Write a picture of every state of the page: `NAMES`."""
    with (
        TemporaryDirectory(prefix="axon-screenshots-") as scratch,
        serving(model) as address,
        chromium(Path(scratch)) as page,
    ):
        films = films or list(write_films(Path(scratch), PHANTOM))
        resize(page, DESK)
        visit(page, address)
        choose(page, *films, samples=4)
        save(page, out / "serve-start.webp")
        submit(page)
        said, body = page.find_element(By.ID, "progress-text"), page.find_element(By.TAG_NAME, "body")
        # A small model may be done before it knows how long it takes.
        seen = lambda _: " s left" in said.text or body.get_attribute("data-state") in ("done", "failed")  # noqa: E731
        WebDriverWait(page, PATIENCE_S, 0.05).until(seen)
        save(page, out / "serve-working.webp")
        answered(page, PATIENCE_S)
        look(page, out / "serve-desk.webp")
        press(page, "Error to expect")
        loaded(page, "std.nii.gz")
        save(page, out / "serve-error-map.webp", whole=False)
        press(page, "Volume, the best guess")
        loaded(page, "ct.nii.gz")
        press(page, "Soft tissue")
        turned = Path(scratch, "upside-down.png")
        Image.open(films[0]).rotate(180).save(turned)
        page.find_element(By.NAME, "frontal").send_keys(str(turned))
        save(page, out / "serve-stale.webp", whole=False)
        submit(page)
        answered(page, PATIENCE_S)
        save(page, out / "serve-refused.webp")
        resize(page, PHONE)
        page.refresh()  # Which brings back the volume.
        answered(page)
        look(page, out / "serve-phone.webp")
        theme(page, "dark")
        look(page, out / "serve-phone-dark.webp")
        page.execute_script(EXPIRE)
        WebDriverWait(page, PATIENCE_S).until(lambda _: stale(page))
        save(page, out / "serve-expired.webp", whole=False)


def look(page: WebDriver, path: Path) -> None:
    """Keep what the page shows of a volume's soft tissue."""
    loaded(page, "ct.nii.gz")
    press(page, "Soft tissue")
    save(page, path)


def save(page: WebDriver, path: Path, whole: bool = True) -> None:
    """Keep the whole page, or what the window shows of the result."""
    page.execute_script("document.getElementById('title').scrollIntoView()")
    shot = screenshot(page) if whole else page.get_screenshot_as_png()
    Image.open(io.BytesIO(shot)).convert("RGB").save(path, quality=80, method=6)
    print(f"wrote {path}, {path.stat().st_size // 1024} KiB")


@contextmanager
def serving(model: str) -> Iterator[str]:
    """The address of `axon serve`."""
    with subprocess.Popen(
        [sys.executable, "-m", "axon.cli", "serve", "--port", "0", "--model", model], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        try:
            yield next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
