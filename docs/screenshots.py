"""Take the pictures of docs/screenshots in a real browser: ``make screenshots``.

Of AXON's page with the model of the package, and of MLflow's page that compares two methods of docs/folds.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from axon.config import Config
from axon.errors import AxonError, one_line_errors
from axon.tracking.runs import stage_run, start_parent
from benchmarks.folds import means_of, results_of
from benchmarks.folds_jobs import OURS, Bench, FoldJob
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
FOLDS = Path(__file__).with_name("folds")
COMPARED, SPLIT, SEED = ("perx2ct", OURS), "fold1", 0
SHOWN = tuple(f"internal/bi/result/{key}" for key in ("axon/psnr", "realism/patch_distance", "anatomy/dice_bone"))
"""Metrics on the axes of MLflow's plot."""
EXPERIMENT = "axon-benchmarks"
PRESS = """
const [name, done] = arguments, list = [...document.querySelectorAll(".rc-virtual-list-holder")].at(-1);
const look = (top) => {
  const found = document.querySelector(`.du-bois-light-select-item-option[title="${name}"]`);
  if (found || top > list.scrollHeight) {
    found?.click();
    return done(Boolean(found));
  }
  list.scrollTop = top;
  requestAnimationFrame(() => requestAnimationFrame(() => look(top + 150)));
};
look(0);
"""
"""Press an option of MLflow's open list, which holds only what can be seen of it; done says whether there is one."""


def main() -> int:
    """0 on success, 1 on an error explained in one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("films", type=Path, nargs="*", help="frontal and lateral film (default: a phantom's)")
    parser.add_argument("--model", default="axon-small", help="that makes the volumes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="(default: %(default)s)")
    parser.add_argument("--only", choices=("serve", "mlflow"), help="pictures of one page alone")
    arguments = parser.parse_args()
    with one_line_errors():
        if not shutil.which("chromium") or not shutil.which("chromedriver"):
            raise AxonError("NO_BROWSER", "there is no chromium with chromedriver", "install both")
        if arguments.only != "mlflow":
            take(arguments.films, arguments.out, arguments.model)
        if arguments.only != "serve":
            take_comparison(arguments.out)
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


def take_comparison(out: Path) -> None:
    """Write ``mlflow-compare.webp``: MLflow's comparison of two methods' evaluations on the first fold."""
    with TemporaryDirectory(prefix="axon-mlflow-") as scratch:
        uri = f"sqlite:///{scratch}/mlflow.db"
        runs = [recorded(uri, FoldJob("evaluate", method, SPLIT, SEED)) for method in COMPARED]
        with experiment_page(uri) as (address, experiment), chromium(Path(scratch)) as page:
            resize(page, (DESK[0], 1270))
            asked = f"runs={json.dumps(runs)}&experiments={json.dumps([experiment])}&workflowType=machine_learning"
            page.get(f"{address}/#/compare-runs?{asked}")
            compare(page)
            save(page, out / "mlflow-compare.webp", whole=False)


def compare(page: WebDriver) -> None:
    """Let MLflow's page of a comparison plot `SHOWN`."""
    wait = WebDriverWait(page, PATIENCE_S)
    page.set_script_timeout(PATIENCE_S)
    wait.until(lambda _: "Show diff only" in page.find_element(By.TAG_NAME, "body").text)
    for assistant in page.find_elements(By.CSS_SELECTOR, "[aria-label=Close]"):
        assistant.click()
    ActionChains(page).click(page.find_elements(By.CSS_SELECTOR, "input[role=combobox]")[1]).perform()
    wait.until(lambda _: page.find_elements(By.CSS_SELECTOR, ".rc-virtual-list-holder"))
    for metric in (*SHOWN, "seconds"):  # MLflow has chosen the last itself.
        if not page.execute_async_script(PRESS, metric):
            raise AxonError("NO_METRIC", f"MLflow's page lists no {metric}", "see what the runs were recorded with")
    ActionChains(page).click(page.find_element(By.TAG_NAME, "h2")).perform()
    plot = (By.CSS_SELECTOR, ".js-plotly-plot")
    wait.until(lambda _: all(name in page.find_element(*plot).text for name in SHOWN))


def recorded(uri: str, job: FoldJob) -> str:
    """Record a committed evaluation in MLflow, as `benchmarks.folds` records its own; returns the run's id."""
    held = json.loads((FOLDS / "bench.json").read_text())
    config = Config.load(FOLDS.parents[1] / "configs/bench.yaml")
    methods, splits = (job.method,) if job.method != OURS else (), {job.split: held["splits"][job.split]}
    bench = Bench(config, (), splits, methods, (job.seed,), held["share"], held["steps"], FOLDS)
    parent = start_parent(uri, EXPERIMENT, "folds", {"config": config.name}, {"axon.benchmark": "folds"})
    params = {"method": job.method, "split": job.split, "seed": job.seed, "kind": job.kind}
    with stage_run(uri, parent, job.name, params) as run:
        run.log(0, {"seconds": float(bench.done(job)["seconds"]), **results_of(job, means_of(bench, job))})
        return run.run_id


@contextmanager
def experiment_page(uri: str) -> Iterator[tuple[str, str]]:
    """The address of MLflow's page, as `axon model ui` serves it, and the experiment's id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = (sys.executable, "-m", "axon.cli", "model", "ui", EXPERIMENT, "--tracking-uri", uri, "--port", port)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        try:
            address = next(word for line in server.stdout for word in line.split() if "/#/experiments/" in word)
            page, _, rest = address.partition("/#/experiments/")
            yield page, rest.partition("/")[0]
        finally:
            server.terminate()


def look(page: WebDriver, path: Path) -> None:
    """Keep what the page shows of a volume's soft tissue."""
    loaded(page, "ct.nii.gz")
    press(page, "Soft tissue")
    save(page, path)


def save(page: WebDriver, path: Path, whole: bool = True) -> None:
    """Keep the whole page, or what the window shows of the result."""
    page.execute_script("document.getElementById('title')?.scrollIntoView()")
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
