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

from axon.errors import AxonError, one_line_errors
from tests.browser.conftest import DESK, PHONE, chromium, resize, screenshot
from tests.browser.test_serve_page import give, loaded, press
from tests.support.small_model import write_films

FOLDER = Path(__file__).with_name("screenshots")
PHANTOM = 1000
"""Of a seed that no model was trained on."""
PATIENCE_S = 900


def main() -> int:
    """0 on success, 1 on an error explained in one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("films", type=Path, nargs="*", help="frontal and lateral film (default: a phantom's)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="(default: %(default)s)")
    arguments = parser.parse_args()
    with one_line_errors():
        if not shutil.which("chromium") or not shutil.which("chromedriver"):
            raise AxonError("NO_BROWSER", "there is no chromium with chromedriver", "install both")
        take(arguments.films, arguments.out)
    return 0


def take(films: list[Path], out: Path) -> None:
    """Write ``serve-desk.webp`` and ``serve-phone.webp``."""
    with (
        TemporaryDirectory(prefix="axon-screenshots-") as scratch,
        serving() as address,
        chromium(Path(scratch)) as page,
    ):
        for name, size in (("desk", DESK), ("phone", PHONE)):
            resize(page, size)
            give(page, address, *(films or write_films(Path(scratch), PHANTOM)), samples=4, seconds=PATIENCE_S)
            loaded(page, "ct.nii.gz")
            press(page, "Soft tissue")
            path = out / f"serve-{name}.webp"
            Image.open(io.BytesIO(screenshot(page))).convert("RGB").save(path, quality=80, method=6)
            print(f"wrote {path}, {path.stat().st_size // 1024} KiB")


@contextmanager
def serving() -> Iterator[str]:
    """The address of `axon serve` with the model of the package."""
    with subprocess.Popen(
        [sys.executable, "-m", "axon.cli", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        try:
            yield next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
