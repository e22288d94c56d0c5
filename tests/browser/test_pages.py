"""The report and the comparison as a browser shows them, on a desk and on a phone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from axon.data.phantoms import make_phantom
from axon.evaluation.report import write_page, write_report
from axon.evaluation.results import METHODS, CaseResult, Evaluation, Picture
from axon.evaluation.strips import strip
from axon.metrics.protocols import measure
from axon.metrics.statistics import COMPARABLE_KEYS
from axon.registry.compare import Side, _context, compare_sides
from tests.browser.conftest import DESK, PHONE, fits, keep, pixels, resize

pytestmark = pytest.mark.slow

WINDOW = (-1024.0, 1476.0)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Phantoms with noise that falls from method to method."""
    rng = np.random.default_rng(0)
    rows, shown = [], []
    for number in range(3):
        reference = make_phantom(number, 64, 5.5).hu_DHW.astype(np.float64)
        for view in ("bi", "mono"):
            spread = 80 + 20 * number + 30 * (view == "mono")
            volumes = {
                name: reference + rng.normal(0, spread * 0.9**rank, reference.shape)
                for rank, name in enumerate(METHODS)
            }
            rows += [
                CaseResult(f"case-{number}", "internal", view, name, measure(of, reference, WINDOW))
                for name, of in volumes.items()
            ]
            if view == "bi" and number < 2:
                films = {
                    name: reference.mean(axis=axis)[::-1] / 1500 + 0.7
                    for name, axis in (("frontal", 1), ("lateral", 2))
                }
                std = np.abs(reference / 10)
                shown.append(Picture(f"case-{number}", "internal", 5.5, reference, volumes, std, films, films, 420.0))
    facts = {
        "config": "smoke",
        "data_revision": "0" * 40,
        "split_hash": "9b1d77aa",
        "hu_window": "-1024 to 1476",
        "fine_spacing_mm": "5.5",
    }
    return Evaluation(facts, rows, shown, {"bridge": [(10, 1.0, 1.1), (20, 0.5, 0.7), (30, 0.4, 0.7)]}, 200, 0.95, 0)


@pytest.fixture(scope="module")
def report(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, evaluation)
    return path.as_uri()


@pytest.fixture(scope="module")
def comparison(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> str:
    values: dict = {}
    for row in evaluation.rows:
        if row.method == "axon":
            for metric, value in row.metrics.items():
                values.setdefault((row.set_name, row.view), {}).setdefault(metric, {})[row.case_id] = value
    primary = {("internal", case): value for case, value in values["internal", "bi"]["axon/psnr"].items()}
    settings = {"bootstrap": 200, "confidence": 0.95, "seed": 0}
    facts = {**dict.fromkeys(COMPARABLE_KEYS, "x"), "views": "bi", "split_hash": "9b1d77aa" * 8}
    a = Side("models:/axon/1", "a" * 32, "1", facts, settings, values, primary, {"training.lr": "0.1"})
    better = {key: value + (0.3, -0.1, 0.2)[n] for n, (key, value) in enumerate(primary.items())}
    b = dataclasses.replace(
        a, name="models:/axon/2", run_id="b" * 32, version="2", primary=better, record={"config": "long " * 60}
    )
    picture = evaluation.pictures[0]
    content = strip(picture.volumes["axon"], picture.reference_DHW, 352.0)
    import base64

    uri = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
    shown = [{"title": "Improved", "case": ("internal", "case-0"), "difference": "+0.30", "images": [uri, None]}]
    path = tmp_path_factory.mktemp("comparison") / "page.html"
    write_page(path, "compare.html.j2", _context(compare_sides(a, b), shown))
    return path.as_uri()


def column(page: WebDriver, table: int, index: int) -> list[str]:
    cells = "[...document.querySelectorAll('table')[arguments[0]].tBodies[0].rows].map(row => row.cells[arguments[1]])"
    script = f"return {cells}.map(cell => cell.dataset.value ?? cell.innerText)"
    return page.execute_script(script, table, index)


def test_a_table_of_the_report_sorts_both_ways(sized: WebDriver, report: str) -> None:
    sized.get(report)
    before = column(sized, 1, 1)
    head = sized.find_element(By.CSS_SELECTOR, "#metrics table thead th:nth-child(2)")
    head.find_element(By.TAG_NAME, "button").click()
    assert column(sized, 1, 1) == sorted(before, key=float, reverse=True) != before
    assert head.get_attribute("aria-sort") == "descending"
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert column(sized, 1, 1) == sorted(before, key=float)
    keep(sized, "report-desk")


@pytest.mark.parametrize(("size", "part"), [(DESK, ".headline tbody tr"), (PHONE, ".lead")])
def test_verdict_and_picture_are_on_the_first_screen(
    sized: WebDriver, report: str, size: tuple[int, int], part: str
) -> None:
    """On a desk with the headline table, which follows on a phone."""
    resize(sized, size)
    sized.get(report)
    bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
    assert sized.execute_script(bottom, ".verdict") < sized.execute_script(bottom, part) <= size[1]
    keep(sized, f"report-first-{size[0]}", whole=False)


def test_the_contents_unfold_where_they_lead(sized: WebDriver, report: str) -> None:
    sized.get(report)
    facts = sized.find_element(By.CSS_SELECTOR, "#provenance dl")
    assert not facts.is_displayed()
    sized.find_element(By.LINK_TEXT, "Provenance").click()
    assert facts.is_displayed()


def test_the_slider_moves_reconstruction_and_reference(sized: WebDriver, report: str) -> None:
    sized.get(report)
    scroller = sized.find_element(By.CSS_SELECTOR, ".scroller")
    sized.execute_script("arguments[0].scrollIntoView({block: 'center'})", scroller)
    frames = scroller.find_elements(By.CSS_SELECTOR, ".frames")
    before = [pixels(frame) for frame in frames]
    assert all(image.std() > 10 for image in before)
    scroller.find_element(By.TAG_NAME, "input").send_keys(*[Keys.ARROW_RIGHT] * 4)
    assert scroller.find_element(By.TAG_NAME, "output").text == "12 of 15"
    for frame, image in zip(frames, before, strict=True):
        assert np.abs(pixels(frame).astype(int) - image).mean() > 2


def test_without_its_script_the_report_shows_slices_and_no_dead_slider(sized: WebDriver, report: str) -> None:
    sized.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        sized.get(report)
        frame = sized.find_element(By.CSS_SELECTOR, ".scroller .frames")
        assert pixels(frame).std() > 10
        assert not sized.find_element(By.CSS_SELECTOR, ".scroller input").is_displayed()
        assert not sized.find_elements(By.CSS_SELECTOR, "th button")
    finally:
        sized.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("page", ["report", "comparison"])
def test_a_phone_needs_no_sideways_scroll(sized: WebDriver, page: str, request: pytest.FixtureRequest) -> None:
    resize(sized, PHONE)
    sized.get(request.getfixturevalue(page))
    assert fits(sized)
    keep(sized, f"{page}-phone")


def test_the_comparison_sorts_its_cases(sized: WebDriver, comparison: str) -> None:
    sized.get(comparison)
    assert "Too few patients to tell" in sized.find_element(By.CSS_SELECTOR, ".verdict").text  # There are three.
    assert "level −300 HU, width 1400 HU" in sized.find_element(By.TAG_NAME, "main").text
    tables = sized.find_elements(By.TAG_NAME, "table")
    cases = next(n for n, table in enumerate(tables) if "PSNR, protocol axon" in table.text)
    before = column(sized, cases, 4)
    button = tables[cases].find_element(By.CSS_SELECTOR, "th:nth-child(5) button")
    button.click()
    button.click()
    assert column(sized, cases, 4) == sorted(before, key=float) != before
    keep(sized, "compare-desk")
