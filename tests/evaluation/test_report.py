"""The files of an evaluation, and the report as a browser would parse it."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from axon import DISCLAIMER, pictures
from axon.baselines.methods import PUBLISHED
from axon.errors import AxonError
from axon.evaluation.report import save, write_report
from axon.evaluation.results import (
    METHODS,
    SIDE_BY_SIDE,
    CaseResult,
    Evaluation,
    Picture,
    showcase,
    summary_table,
)
from axon.evaluation.strips import sheet, strip, write_hero
from axon.metrics.protocols import PROTOCOLS, measure
from axon.metrics.statistics import comparable

pytestmark = pytest.mark.slow
WINDOW = (-1024.0, 1476.0)
SIZE = 24
CASES = [
    ("internal", "case-1"),
    ("internal", "case-2"),
    ("external", "case-3"),
    ("external", "<script>alert(1)</script>"),
]


def anatomy(rng: np.random.Generator) -> np.ndarray:
    """A block of smooth tissue in air."""
    volume = np.full((SIZE,) * 3, -1000.0)
    volume[3:-3, 3:-3, 3:-3] = ndimage.gaussian_filter(rng.normal(0, 1500, (SIZE - 6,) * 3), 2)
    return volume


def second(rank: int, number: int) -> dict[str, float]:
    """Values of the second axis; the power's errors of two patients cancel."""
    power = {"realism/spectrum_45_22_db": (20 - rank) * (-1.0) ** number}
    return {"anatomy/dice_bone": 0.05 * rank, **power, "realism/patch_distance": 80.0 - 4 * rank}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Methods whose error falls in the order of `METHODS`, on four cases and both views."""
    rng = np.random.default_rng(0)
    rows, shown = [], {}
    for number, (set_name, case_id) in enumerate(CASES):
        reference = anatomy(rng)
        for view in ("bi", "mono"):
            spread = 60 + 20 * number + 30 * (view == "mono")
            volumes = {
                method: reference + rng.normal(0, spread * (1 - 0.04 * rank), reference.shape)
                for rank, method in enumerate(METHODS)
            }
            rows += [
                CaseResult(case_id, set_name, view, method, measure(volume, reference, WINDOW) | second(rank, number))
                for rank, (method, volume) in enumerate(volumes.items())
            ]
            if view == "bi":
                films = {name: rng.random((16, 16)) for name in ("frontal", "lateral")}
                volumes["axon_coarse"] = volumes["axon_coarse"][::2, ::2, ::2]
                shown[set_name, case_id] = Picture(
                    case_id, set_name, 15.0, reference, volumes, rng.random(reference.shape), films, films, 448.0
                )
    chosen = [shown[key] for key in showcase(rows)]
    facts = {"config": "smoke", "split_hash": "9b1d77aa", "hu_window": "-1024 to 1476", "fine_spacing_mm": "15.0"}
    floor = {"realism/patch_distance": 33.3, "realism/spectrum_45_22_db": 1.7}
    return Evaluation(facts, rows, chosen, {"bridge": [(10, 1.0, 1.1), (20, 0.5, 0.7)]}, 200, 0.95, 0, floor)


@pytest.fixture(scope="module")
def folder(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    save(folder, evaluation)
    return folder


class Page(HTMLParser):
    """Visible text, links to assets, pictures and tags that were left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.assets, self.images, self.scripts, self.open = "", list[str](), list[str](), 0, list[str]()
        self.names = list[str]()
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.assets += [values[name] or "" for name in ("src", "href") if name in values]
        self.names += [values["id"] or ""] if "id" in values else []
        if tag == "img":
            assert values.get("alt"), "a picture without a description"
            self.images.append(values["src"] or "")
        self.scripts += tag == "script"
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data + " "


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_the_report_holds_every_method_set_case_fact_and_protocol(page: Page, evaluation: Evaluation) -> None:
    assert page.text.startswith("AXON evaluation: smoke " + DISCLAIMER)
    expected = [
        *METHODS.values(),
        *evaluation.facts.values(),
        *(case for _, case in CASES),
        "internal",
        "external",
        "95 %",
        "bridge",
    ]
    expected += ["protocol axon", *(f"protocol {name}" for name in PROTOCOLS), "Best case", "Worst case"]
    assert [text for text in expected if text not in page.text] == []
    assert page.open == []


def test_a_table_leaves_out_a_method_that_has_nothing_in_it(evaluation: Evaluation, tmp_path: Path) -> None:
    known = {"axon": {"memory/reference": 61.0}}
    rows = [dataclasses.replace(row, metrics=row.metrics | known.get(row.method, {})) for row in evaluation.rows]
    write_report(tmp_path / "report.html", dataclasses.replace(evaluation, rows=rows, pictures=[]))
    text = (tmp_path / "report.html").read_text()
    tables = [table.partition("</table>")[0] for table in text.split("<table>") if "Nearest to a reference" in table]
    methods = [re.findall('class="method">([^<]+)<', table) for table in tables]
    assert methods == [[METHODS["axon"]]] * len(evaluation.groups())


def of_three(evaluation: Evaluation) -> Evaluation:
    """With a case more in each set: the fewest that have an interval."""
    more = {"case-1": "case-5", "case-3": "case-6"}
    rows = [dataclasses.replace(row, case_id=more[row.case_id]) for row in evaluation.rows if row.case_id in more]
    return dataclasses.replace(evaluation, rows=[*evaluation.rows, *rows], pictures=[])


def test_the_report_holds_every_interval(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation = of_three(evaluation)
    write_report(tmp_path / "report.html", evaluation)
    page = Page((tmp_path / "report.html").read_text())
    for set_name, view in evaluation.groups():
        for method in METHODS:
            summary = evaluation.summary(set_name, view, method, "axon/psnr")
            assert summary is not None
            assert f"{summary.mean:.2f} {summary.low:.2f} to {summary.high:.2f}" in page.text
            gain = evaluation.improvement(set_name, view, "axon", "axon/ssim")
            assert gain is not None
            assert f"{gain.mean:+.1f}" in page.text


def test_the_report_plots_both_axes_and_shows_the_floor(page: Page, evaluation: Evaluation) -> None:
    plots = [image for image in page.images if image.startswith("data:image/svg+xml") and "CT against CT" in svg(image)]
    assert len(plots) == len(evaluation.groups()) == 4
    for plot in plots:
        text = svg(plot)
        assert [label for label in METHODS.values() if label not in text] == [] and "CT against CT 33.3" in text
    assert "CTs of different patients 1.7 33.3" in page.text


def test_the_first_screen_has_verdict_picture_and_headline_and_the_facts_come_last(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    evaluation = dataclasses.replace(of_three(evaluation), pictures=evaluation.pictures)
    write_report(tmp_path / "report.html", evaluation)
    text = (tmp_path / "report.html").read_text()
    first = text.partition("<header>")[2].partition("</header>")[0]
    gain = evaluation.improvement("external", "bi", "axon", "axon/psnr")
    best = METHODS["regression_consistent"]
    assert gain is not None and f"AXON is above the best control, {best}: {gain.mean:+.1f} %" in first
    over = evaluation.improvement("external", "bi", "axon", "axon/psnr", PUBLISHED)
    best = METHODS[PUBLISHED[-1]]
    assert over is not None and f"AXON is above the best published method, {best}: {over.mean:+.1f} %" in first
    assert "cannot be told apart" not in first and first.count("<p>On ") == 4
    assert first.count('<figure class="tile">') == 2 + 4 and first.index("<figure") < first.index("<table")
    assert first.count("<i>R</i><i>L</i>") == 5 and first.count("<i>A</i><i>P</i>") == 1, "left and right of each"
    assert first.count("<u style=") == 6 and first.count('<u style="width:22.32%">') == 2, "10 cm on slices and films"
    assert "level −300 HU, width 1400 HU" in first
    assert "split hash" not in first and text.index("split hash") > text.index("<h2>Limits")


def test_every_picture_of_a_case_has_its_sides_its_level_and_a_scale(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    sections = text.partition('<section id="training"')[0].split('<section class="case"')[1:]
    for section in sections:
        for part in section.split('<figure class="tile')[1:]:
            shown = part.partition("</figure>")[0]
            assert shown.count("<i>") == 2 and shown.count("<u style=") == 1, shown[-200:]
        stages = section.partition("<h3>Stage by stage")[2]
        assert stages.startswith(" <small>level −300 HU, width 1400 HU</small>")
        assert stages.count("<img") == stages.count('<figure class="tile">') > 0, "a picture without marks"
        films = section.partition("<h4>Input film")[2].partition("</section>")[0]
        assert films.count('<u style="width:22.32%">') == 6 and "−0.5" in films and "+0.5" in films
    assert len(sections) > 1


def test_a_strip_is_marked_on_each_of_its_columns() -> None:
    hu_DHW = np.full((64, 64, 64), -1000.0)
    columns = np.split(np.asarray(Image.open(io.BytesIO(strip(hu_DHW, hu_DHW, 320.0))).convert("RGB")), 3, axis=1)
    yellow = [((column[..., 0] > 150) & (column[..., 2] < 130)).sum() for column in columns]
    assert all(count > 50 for count in yellow), yellow


def test_the_marks_of_a_coarse_strip_hide_no_picture() -> None:
    hu_DHW = np.full((8, 8, 8), 400.0)
    shown = np.asarray(Image.open(io.BytesIO(strip(hu_DHW, hu_DHW, 320.0))).convert("L"))
    first = shown[: len(shown) // 3, : shown.shape[1] // 3]
    assert (first > 240).mean() > 0.85, "letters, their outlines and the bar are few of the pixels"


def test_a_sheet_has_every_strip_and_its_name_below() -> None:
    strips = {
        f"case {n}, internal": strip(np.full((32, 32, 32), 100.0 * n), np.zeros((32,) * 3), 320.0) for n in range(5)
    }
    shown = np.asarray(Image.open(io.BytesIO(sheet(strips))).convert("L")).astype(int)
    one = np.asarray(Image.open(io.BytesIO(strips["case 2, internal"])).convert("L")).astype(int)
    left = 2 * (one.shape[1] + 6)
    # The third of the first row, but for what WebP loses.
    assert np.abs(shown[: one.shape[0], left : left + one.shape[1]] - one).mean() < 4
    rows, columns = 2, 4
    assert shown.shape == (rows * (one.shape[0] + 24) + 18, columns * (one.shape[1] + 6) - 6)
    label = shown[one.shape[0] : one.shape[0] + 18, left : left + one.shape[1]]
    assert (label < 100).sum() > 20


def test_two_cases_tell_nothing_apart(page: Page) -> None:
    assert "AXON cannot be told apart, over two patients, from the best control" in page.text
    assert "AXON cannot be told apart, over two patients, from the best published method" in page.text


def test_training_and_validation_loss_share_a_plot(page: Page) -> None:
    drawn = [svg(image) for image in page.images if image.startswith("data:image/svg+xml")]
    (plot,) = [text for text in drawn if ">step<" in text]
    assert ">training<" in plot and ">validation<" in plot


def svg(uri: str) -> str:
    return base64.b64decode(uri.partition(",")[2]).decode()


def test_a_signed_mean_that_cancels_stands_beside_its_size_and_wins_nothing(folder: Path, page: Page) -> None:
    assert "0.0 two patients absolute 20.0" in page.text
    text = (folder / "report.html").read_text()
    marked = [cell for cell in text.split("<td") if "<small>absolute" in cell and 'class="best"' in cell]
    assert len(marked) == 4 and all(f"absolute {20 - len(METHODS) + 1}.0" in cell for cell in marked)


def test_volume_sample_and_nearest_reference_stand_beside_the_ct_at_three_windows(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    for window in pictures.WINDOWS:
        block = text.partition(f"<h4>{window} window")[2].partition("</section>")[0]
        names = [part.partition("</span>")[0] for part in block.split("<span>")[1:6]]
        assert names == [*(METHODS[method] for method in SIDE_BY_SIDE), "Reference CT", "Error of AXON"]
        assert block.count("<figure") == 3 * 5


def test_the_report_stands_alone(page: Page) -> None:
    contents = [asset[1:] for asset in page.assets if asset.startswith("#")]
    assert contents == page.names, "the contents lead to every part"
    outside = {asset.split(";")[0] for asset in page.assets if asset[0] != "#"}
    assert outside == {"data:image/webp", "data:image/svg+xml"}
    assert page.scripts == 1, "its own, within the page: no asset is a script"


def test_the_report_stays_below_15_mb_for_the_largest_pictures(page: Page, folder: Path) -> None:
    noise = np.random.default_rng(0).random((512, 512))
    worst = max(len(pictures.gray_uri(noise, 0, 1)), len(pictures.colour_uri(noise, 0, 1, pictures.DIVERGING)))
    text = (folder / "report.html").stat().st_size - sum(len(image) for image in page.images)
    assert len(page.images) > 200
    assert text + worst * len(page.images) < 15e6


def test_equal_evaluations_give_equal_files(evaluation: Evaluation, folder: Path, tmp_path: Path) -> None:
    save(tmp_path, evaluation)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "metrics.json", "report.html"]
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_metrics_json_agrees_with_the_rows_and_can_be_compared(evaluation: Evaluation, folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    values = [
        row.metrics["axon/ssim"]
        for row in evaluation.rows
        if (row.set_name, row.view, row.method) == ("external", "mono", "axon")
    ]
    summary = metrics["summary"]["external"]["mono"]["axon"]["axon/ssim"]
    assert (summary["mean"], summary["n"]) == (pytest.approx(np.mean(values)), 2)
    assert summary["low"] <= summary["mean"] <= summary["high"]
    assert (
        metrics["improvement_per_cent"]["external"]["mono"]["axon"]["axon/psnr"]["baseline"] == "regression_consistent"
    )
    comparable(metrics["facts"], metrics["facts"])


def test_the_csv_has_a_line_for_every_row(evaluation: Evaluation, folder: Path) -> None:
    with (folder / "cases.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(evaluation.rows)
    first = next(row for row in evaluation.rows if (row.case_id, row.view, row.method) == ("case-3", "bi", "axon"))
    line = next(line for line in lines if (line["case_id"], line["view"], line["method"]) == ("case-3", "bi", "axon"))
    assert {name: float(line[name]) for name in first.metrics} == first.metrics


def test_a_value_that_is_not_finite_writes_nothing(evaluation: Evaluation, tmp_path: Path) -> None:
    bad = dataclasses.replace(evaluation.rows[0], metrics={"axon/psnr": float("inf")})
    with pytest.raises(AxonError, match="METRIC_NOT_FINITE"):
        save(tmp_path / "out", dataclasses.replace(evaluation, rows=[*evaluation.rows, bad]))
    assert not (tmp_path / "out").exists()


def test_the_showcase_is_best_median_and_worst() -> None:
    rows = [CaseResult(f"c{n}", "internal", "bi", "axon", {"axon/psnr": float(n)}) for n in range(5)]
    rows.append(CaseResult("c9", "internal", "mono", "axon", {"axon/psnr": 99.0}))
    assert showcase(rows) == {("internal", "c4"): "best", ("internal", "c2"): "median", ("internal", "c0"): "worst"}
    assert showcase(rows[:1]) == {("internal", "c0"): "only"}


def test_the_terminal_table_is_aligned_and_named(evaluation: Evaluation) -> None:
    evaluation = of_three(evaluation)
    table = summary_table(evaluation)
    assert table.startswith(DISCLAIMER)
    for set_name, view in evaluation.groups():
        assert any(line.startswith(set_name) and ("lateral" in line) == (view == "bi") for line in table.splitlines())
    lines = [line for line in table.splitlines() if line.startswith("  ") and line.endswith("]") and "axon" not in line]
    assert len(lines) == len(METHODS) * 4
    assert len({len(line) for line in lines}) == 1
    for rival in (METHODS["regression_consistent"], METHODS[PUBLISHED[-1]]):
        assert re.search(rf"PSNR \+[\d.]+ % \[\+[\d.]+, \+[\d.]+\] over {re.escape(rival)}", table)
    assert "was run" not in table
    assert table.endswith("CTs of different patients: patch distance 33.3 HU")


def test_it_is_said_where_no_published_method_was_run(evaluation: Evaluation, tmp_path: Path) -> None:
    rows = [row for row in evaluation.rows if row.method not in PUBLISHED]
    controls = dataclasses.replace(evaluation, rows=rows, pictures=[])
    write_report(tmp_path / "report.html", controls)
    page = Page((tmp_path / "report.html").read_text())
    assert page.text.count("no published method was run; AXON cannot be told apart, over two patients, from") == 4
    assert summary_table(controls).count("  no published method was run") == 4


def test_a_report_without_baselines_pictures_or_curves(evaluation: Evaluation, tmp_path: Path) -> None:
    rows = [row for row in evaluation.rows if row.method == "axon" and row.view == "mono"]
    write_report(tmp_path / "report.html", dataclasses.replace(evaluation, rows=rows, pictures=[], curves={}))
    page = Page((tmp_path / "report.html").read_text())
    assert "No baseline was evaluated." in page.text
    assert page.open == []


def test_slices_hang_as_a_radiologist_expects() -> None:
    """Head, back and left are the last voxels of their axes: top, bottom or right, and right of the picture."""
    head, back, left = (np.zeros((12, 12, 12)) for _ in range(3))
    head[-1], back[:, -1], left[:, :, -1] = 1, 1, 1
    assert pictures.slice_plane(back, "axial")[-1].all()
    assert pictures.slice_plane(left, "axial")[:, -1].all()
    assert pictures.slice_plane(head, "coronal")[0].all()
    assert pictures.slice_plane(left, "coronal")[:, -1].all()
    assert pictures.slice_plane(head, "sagittal")[0].all()
    assert pictures.slice_plane(back, "sagittal")[:, -1].all()
    assert pictures.maximum_intensity(head, "coronal")[0].all()


def test_gray_values_follow_the_window() -> None:
    uri = pictures.gray_uri(
        np.array([[-2000.0, -160.0], [40.0, 240.0]]), *pictures.window_bounds(*pictures.WINDOWS["Soft tissue"])
    )
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L"))
    assert pixels.tolist() == [[0, 0], [128, 255]]


@pytest.mark.parametrize("views", [("frontal", "lateral"), ("frontal",)])
def test_the_hero_is_one_wide_png(evaluation: Evaluation, tmp_path: Path, views: tuple[str, ...]) -> None:
    picture = dataclasses.replace(
        evaluation.pictures[0], films={view: evaluation.pictures[0].films[view] for view in views}
    )
    for name in ("a.png", "b.png"):
        write_hero(tmp_path / name, picture)
    image = Image.open(tmp_path / "a.png")
    assert image.format == "PNG"
    assert image.width > 2.5 * image.height
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_data_are_shown_beside_the_champions(tmp_path: Path, evaluation: Evaluation) -> None:
    hu = {"mean": 40.0, "std": 4.0, "low": 35.0, "high": 45.0}
    old = {"cases": 4, "patients": 4, "numbers": {"hu_p50": hu}, "counts": {"vendor": {"GE": 4}, "films": {}}}
    new = {**old, "numbers": {"hu_p50": {**hu, "mean": 50.0}}}
    plain = dataclasses.replace(evaluation, pictures=[], profile=new)
    write_report(tmp_path / "alone.html", plain)
    write_report(tmp_path / "both.html", dataclasses.replace(plain, before=old))
    alone, both = ((tmp_path / f"{name}.html").read_text() for name in ("alone", "both"))
    assert "no champion whose run says" in alone and "<td>50 (35 to 45)</td>" in alone and "Shift" not in alone
    assert "<td>40 (35 to 45)</td><td>50 (35 to 45)</td><td>+2.5</td>" in both and "Champion's run" in both
    assert evaluation.metrics()["profile"] == {} and plain.metrics()["profile"] == new


@pytest.mark.parametrize(("cases", "told"), [(["case-1"], "one patient"), (["case-1", "case-2"], "two patients")])
def test_fewer_than_three_cases_have_no_interval(
    evaluation: Evaluation, tmp_path: Path, cases: list[str], told: str
) -> None:
    lone = dataclasses.replace(evaluation, rows=[row for row in evaluation.rows if row.case_id in cases], pictures=[])
    save(tmp_path, lone)
    assert told in (tmp_path / "report.html").read_text()
    assert "[" not in summary_table(lone).replace("[95%", "").replace("[dB]", "")
