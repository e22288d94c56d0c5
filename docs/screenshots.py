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
from tests.browser.test_serve_page import answered, choose, loaded, press, submit, theme, visit
from tests.support.small_model import write_films

FOLDER = Path(__file__).with_name("screenshots")
PHANTOM = 1000
"""Of a seed that no model was trained on."""
PATIENCE_S = 900
NAMES = {f"serve-{state}.webp" for state in ("start", "working", "desk", "refused", "phone", "phone-dark")}


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
        turned = Path(scratch, "upside-down.png")
        Image.open(films[0]).rotate(180).save(turned)
        page.find_element(By.NAME, "frontal").send_keys(str(turned))
        submit(page)
        answered(page, PATIENCE_S)
        save(page, out / "serve-refused.webp")
        resize(page, PHONE)
        page.refresh()  # Which brings back the volume.
        answered(page)
        look(page, out / "serve-phone.webp")
        theme(page, "dark")
        look(page, out / "serve-phone-dark.webp")


def look(page: WebDriver, path: Path) -> None:
    """Keep what the page shows of a volume's soft tissue."""
    loaded(page, "ct.nii.gz")
    press(page, "Soft tissue")
    save(page, path)


def save(page: WebDriver, path: Path) -> None:
    Image.open(io.BytesIO(screenshot(page))).convert("RGB").save(path, quality=80, method=6)
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
