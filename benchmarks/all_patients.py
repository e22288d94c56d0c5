"""Networks alone, a reference alone, and both: means over all test patients of evaluations, and paired differences.

    python -m benchmarks.all_patients EVALUATION/cases.csv
    python -m benchmarks.all_patients runs/folds/jobs/evaluate-axon-*/scores/cases.csv --without tiny

Of each table: what was measured over every patient, whatever his test set; brackets are bootstrap intervals of the mean
over patients. A patient who is in several evaluations counts once, by his mean.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from axon.errors import AxonError, one_line_errors
from axon.evaluation.results import FINAL, METHODS
from axon.metrics.catalogue import VIEW_LABELS, metric
from axon.metrics.statistics import Summary, over_patients, paired_difference, summarise
from benchmarks.quality import markdown

SHOWN = ("axon_networks", "nearest_reference", *FINAL)
PAIRS = (
    ("axon", "axon_networks"), ("axon", "nearest_reference"), ("axon_sample", "axon_networks"),
    ("axon_sample", "nearest_reference"), ("axon_sample", "axon"),
)  # fmt: skip
"""Which method is held against which."""
BOTH_AXES = ("axon/psnr", "axon/ssim", "anatomy/dice_bone", "realism/patch_distance")
MEASURES = (
    "axon/psnr", "axon/ssim", "realism/spectrum_90_45_db", "realism/spectrum_45_22_db", "realism/spectrum_22_11_db",
    "realism/spectrum_11_5.6_db", "realism/patch_distance", "anatomy/dice_bone", "anatomy/dice_lung",
    "reprojection/mae",
)  # fmt: skip
BOOTSTRAP, CONFIDENCE, SEED = 10_000, 0.95, 0

Scored = tuple[str, str]
"""The evaluation's file and the id of a case."""
Values = dict[tuple[str, str], dict[str, dict[Scored, float]]]
"""By view and method: by metric: of each case."""


def read(files: Iterable[Path], without: Iterable[str] = ()) -> tuple[Values, dict[Scored, str]]:
    """Values of ``cases.csv`` files, and each case's patient: as a ``metrics.json`` beside it says, else the case.

    Raises:
        AxonError: ``NO_TEST_CASES`` where nothing is left.
    """
    values: Values = defaultdict(lambda: defaultdict(dict))
    patients: dict[Scored, str] = {}
    for path in files:
        beside = path.with_name("metrics.json")
        named = json.loads(beside.read_text()).get("patients", {}) if beside.is_file() else {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["set_name"] in set(without):
                    continue
                case = (str(path), row["case_id"])
                patients[case] = named.get(row["case_id"], row["case_id"])
                for key, value in row.items():
                    if "/" in key and value:
                        values[row["view"], row["method"]][key][case] = float(value)
    if not values:
        raise AxonError("NO_TEST_CASES", "the files hold no case of these sets", "name other files or sets")
    return values, patients


def text(values: Values, patients: Mapping[Scored, str]) -> str:
    """Markdown: the tables of each number of views that there is."""
    parts = []
    for view in [each for each in ("bi", "mono") if any(each == known for known, _ in values)]:
        methods = [method for method in SHOWN if (view, method) in values]
        count = len({patients[case] for method in methods for case in values[view, method]["axon/psnr"]})
        parts.append(f"## {VIEW_LABELS[view]}, {count} patients")
        parts.append(
            _table(MEASURES, {METHODS[m]: _means(values[view, m], patients, MEASURES) for m in methods}, False)
        )
        parts.append(
            _table(BOTH_AXES, {METHODS[m]: _means(values[view, m], patients, BOTH_AXES) for m in methods}, True)
        )
        against = {
            f"{METHODS[a]}, less: {METHODS[b]}": _differences(values[view, a], values[view, b], patients)
            for a, b in PAIRS
            if a in methods and b in methods
        }
        parts.append(_table(BOTH_AXES, against, True, "+"))
    return "\n\n".join(parts)


def _means(
    of: Mapping[str, Mapping[Scored, float]], patients: Mapping[Scored, str], keys: Iterable[str]
) -> dict[str, Summary]:
    return {
        key: summarise(over_patients(of[key], patients).values(), BOOTSTRAP, CONFIDENCE, SEED)
        for key in keys
        if of[key]
    }


def _differences(
    a: Mapping[str, Mapping[Scored, float]], b: Mapping[str, Mapping[Scored, float]], patients: Mapping[Scored, str]
) -> dict[str, Summary]:
    return {
        key: paired_difference(a[key], b[key], BOOTSTRAP, CONFIDENCE, SEED, patients) for key in BOTH_AXES if a[key]
    }


def _table(keys: Iterable[str], rows: Mapping[str, Mapping[str, Summary]], intervals: bool, sign: str = "") -> str:
    known = [metric(key) for key in keys]

    def cell(found: Mapping[str, Summary], key: str, digits: int) -> str:
        if key not in found:
            return "-"
        of = found[key]
        mean, low, high = (f"{round(value, digits) + 0.0:{sign}.{digits}f}" for value in (of.mean, of.low, of.high))
        return f"{mean} [{low}, {high}]" if intervals and not of.few else mean

    cells = [[name, *(cell(found, each.key, each.digits) for each in known)] for name, found in rows.items()]
    return markdown(["", *(each.title for each in known)], cells)


def main(argv: list[str] | None = None) -> int:
    about, layout = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=layout, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="CASES_CSV", help="of evaluations")
    parser.add_argument("--without", nargs="+", default=[], metavar="SET", help="test sets that are left out")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        print(text(*read(arguments.files, arguments.without)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
