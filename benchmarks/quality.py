"""How good AXON's volumes are beside every baseline's, on one dataset and one budget.

Examples:
    Train and evaluate everything on a folder of CTs (the same command again goes on where it stopped, and repeats
        nothing): python -m benchmarks.quality --data FOLDER --out runs/quality

    The same on a dataset that the pipeline has prepared already:
        python -m benchmarks.quality --dataset runs/demo/dataset --out runs/quality

Writes OUT/quality.md and OUT/stages/evaluation-*, the pipeline's own report. What is finished lies under OUT/stages in
folders named after configuration, data and code: change one of them and the training starts anew. What each part of
stage 1 is worth is the question of `benchmarks.ablations`.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from axon import DISCLAIMER
from axon.baselines.methods import CONTROLS
from axon.config import Config
from axon.errors import AxonError, one_line_errors
from axon.evaluation.results import FINAL, METHODS, CaseResult, Evaluation
from axon.files import write_json, write_whole
from axon.metrics.catalogue import Metric, shown_in
from axon.metrics.catalogue import metric as known
from axon.metrics.statistics import Summary, paired_difference

HEADLINE = [each.key for each in shown_in("headline")]
SCORES = " / ".join(known(key).title for key in HEADLINE)
"""Head of a column of `scores_text`."""
PAPER = {"axon/psnr": 11.9, "axon/ssim": 11.0}
"""Per cent by which the paper says that AXON exceeds the best baseline."""

LADDER = ("axon_estimate", "axon_coarse", "axon_refined", "axon")
"""Each should be better than the one before."""

GOAL_SETS = ("internal", "external")


@dataclass(frozen=True)
class Run:
    """One configuration on one prepared dataset.

    Attributes:
        config: The configuration.
        dataset: A prepared dataset.
        out: Where stages and checkpoints lie, also those of other runs.
        started: When this process began, for the progress lines.
    """

    config: Config
    dataset: Path
    out: Path
    started: float = field(default_factory=time.monotonic)

    def folder(self, stage: str) -> Path:
        """Where a stage's result lies: another one for another configuration, dataset or code that trains, and an
        evaluation's for other code that measures.
        """
        from axon.provenance import REGISTERED, code_digest
        from axon.training.train import checkpoint_dir

        folder = checkpoint_dir(self.out / "stages", stage, self.config, self.dataset)
        return folder.with_name(f"{folder.name}-{code_digest(REGISTERED)[:8]}") if stage == "evaluation" else folder

    def done(self, stage: str, make: Callable[[Path], object]) -> Path:
        """The stage's folder, made unless it is there."""
        folder = self.folder(stage)
        if folder.is_dir():
            self.say(f"{stage}: done before, {folder.name}")
            return folder
        self.say(f"{stage}: begins")
        began = time.monotonic()
        try:
            make(folder)
        finally:  # An interrupted stage goes on later, and its time counts too.
            self.out.mkdir(parents=True, exist_ok=True)
            seconds = self.seconds(stage) + time.monotonic() - began
            folder.parent.mkdir(exist_ok=True)
            write_json(_beside(folder), {"seconds": seconds})
        self.say(f"{stage}: done in {seconds:.0f} s")
        return folder

    def trained(self, stage: str, **inputs: Path) -> Path:
        """The folder of a trained stage, see `axon.orchestration.launch.train`."""
        from axon.orchestration.launch import train
        from axon.training.train import checkpoint_dir

        checkpoints = checkpoint_dir(self.out / "checkpoints", stage, self.config, self.dataset)
        return self.done(
            stage,
            lambda out: train(stage, self.config, checkpoints, out, lambda *_: None, dataset=self.dataset, **inputs),
        )

    def seconds(self, stage: str) -> float:
        """Time that a stage has taken so far, over every process that worked on it and was not killed."""
        file = _beside(self.folder(stage))
        return float(json.loads(file.read_text())["seconds"]) if file.is_file() else 0.0

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:6.0f} s] {text}", flush=True)


def _beside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".json")


def scores_text(values: Mapping[str, float]) -> str:
    """The headline metrics of a volume side by side; ``values`` by name without the protocol."""
    return " / ".join(known(key).text(values[key.rpartition("/")[2]]) for key in HEADLINE)


def prepare_more(config: Config, data: Path, out: Path) -> Path:
    """Prepare patients that only train, however few: none of them is held out. Arguments and errors as of `prepare`."""
    data_config = replace(config.data, val_share=0.0, internal_share=0.0, named_sets={}, min_train_cases=1)
    return prepare(replace(config, data=data_config), data, out)


def prepare(config: Config, data: Path, out: Path, terms: tuple[str, str] = ("", "")) -> Path:
    """Fetch, ingest and assemble a folder of CTs; what is there already is not made again.

    Returns:
        Path: The prepared dataset.

    Raises:
        AxonError: As `fetch`, `ingest` and `assemble`.
    """
    from axon.data.fetch import fetch
    from axon.data.ingest import ingest
    from axon.data.prepared import assemble
    from axon.provenance import PREPARING, code_digest

    files = sorted(path for path in data.rglob("*") if path.is_file())
    listing = [(path.relative_to(data).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    # What a case depends on; the networks' sizes and steps are not among it.
    facts = [
        listing,
        code_digest(PREPARING),
        config.seed,
        *(asdict(part) for part in (config.grid, config.xray, config.data)),
        *((terms,) if any(terms) else ()),
    ]
    root = out / f"data-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"
    shards = config.data.shards
    raw, dataset = root / "raw", root / "dataset"
    if not dataset.is_dir():
        if not raw.is_dir():
            fetch(raw, shards, folder=str(data), terms=terms)
        folders = [root / f"shard{shard}" for shard in range(shards)]
        for shard, folder in enumerate(folders):
            if not folder.is_dir():
                print(f"ingest: shard {shard + 1} of {shards}", flush=True)
                ingest(raw, shard, shards, config, folder)
        assemble(folders, raw, config, dataset)
    return dataset


STEPS = ("bridge", "coarse", "refiner", "superres", "baselines", "evaluation")


def run_all(run: Run) -> Path:
    """Train every stage and baseline, evaluate, and write ``OUT/quality.md``; returns the evaluation's folder."""
    from axon.evaluation.evaluate import evaluate
    from axon.provenance import code_revision
    from axon.training.train import sample_coarse

    config, dataset = run.config, run.dataset
    with baselines_beside(run):
        bridge = run.trained("bridge")
        coarse = run.done("coarse", lambda out: sample_coarse(config, dataset, bridge, out))
        refiner, superres = run.trained("refiner", bridge=bridge, coarse=coarse), run.trained("superres")
    baselines = run.trained("baselines")
    facts = {"code_revision": code_revision(), "config_fingerprint": config.fingerprint()}
    models = {"bridge": bridge, "refiner": refiner, "superres": superres, "baselines": baselines}
    evaluation = run.done("evaluation", lambda out: evaluate(config, dataset, models, out, "bi", facts))
    text = quality_text(
        read_evaluation(evaluation),
        {stage: run.seconds(stage) for stage in STEPS},
        f"report: {evaluation}/report.html",
    )
    write_whole(run.out / "quality.md", text.encode())
    print(text, flush=True)
    return evaluation


@contextmanager
def baselines_beside(run: Run) -> Iterator[None]:
    """On a CPU of several cores, train the baselines in a process of their own meanwhile: two threads of one are not
    worth two cores.
    """
    import torch

    cores = os.cpu_count() or 1
    if torch.cuda.is_available() or cores < 2 or run.folder("baselines").is_dir():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(cores // 2)
    beside = multiprocessing.get_context("spawn").Process(target=_train_baselines, args=(run, cores // 2))
    beside.start()
    try:
        yield
        beside.join()
    finally:
        beside.terminate()  # Its state is saved, as ours is.
        beside.join()
        torch.set_num_threads(before)
    if beside.exitcode:
        raise AxonError(
            "TRAINING_PROCESS", f"the baselines' process ended with status {beside.exitcode}", "read the lines above"
        )


def _train_baselines(run: Run, threads: int) -> None:
    import torch

    from axon.orchestration.processes import end_with_parent

    end_with_parent()
    torch.set_num_threads(threads)
    with one_line_errors():
        run.trained("baselines")


def read_evaluation(folder: Path) -> Evaluation:
    """An evaluation as `axon.evaluation.evaluate.evaluate` wrote it, without its pictures and curves."""
    written = json.loads((folder / "metrics.json").read_text())
    rows = []
    with (folder / "cases.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            metrics = {name: float(value) for name, value in line.items() if "/" in name and value}
            view: Literal["bi", "mono"] = "bi" if line["view"] == "bi" else "mono"
            rows.append(CaseResult(line["case_id"], line["set_name"], view, line["method"], metrics))
    settings = {key: written[key] for key in ("bootstrap", "confidence", "seed")}
    return Evaluation(written["facts"], rows, [], {}, **settings, patients=written.get("patients", {}))


def quality_text(evaluation: Evaluation, seconds: Mapping[str, float], note: str) -> str:
    """The contents of ``quality.md``."""
    parts = [page_head("Quality"), f"Facts: {json.dumps(dict(evaluation.facts), sort_keys=True)}", note]
    parts += ["## Seconds", markdown(["stage", "s"], [[stage, f"{value:.0f}"] for stage, value in seconds.items()])]
    parts += ["## Goals", _goals(evaluation)]
    about = f"Per cent of the means, [{evaluation.confidence:.0%} interval of a paired bootstrap]."
    parts += ["## Improvement over the best baseline", about, _improvements(evaluation)]
    for set_name, view in evaluation.groups():
        cases = len(evaluation.values(set_name, view, "axon", "axon/psnr"))
        parts += [f"## {set_name}, {view}, {cases} cases", _methods(evaluation, set_name, view)]
    return "\n\n".join(parts) + "\n"


def page_head(title: str) -> str:
    from benchmarks.speed import machine

    return f"# {title}\n\n{DISCLAIMER}\n\n" + "\n".join(f"- {key}: {value}" for key, value in machine().items())


def _methods(evaluation: Evaluation, set_name: str, view: str) -> str:
    """Means: a row a method, a column a metric."""

    def cell(method: str, of: Metric) -> str:
        summary = evaluation.summary(set_name, view, method, of.key)
        return "-" if summary is None else of.text(summary.mean)

    rows = [
        [METHODS[method], *(cell(method, each) for each in shown_in("benchmark"))]
        for method in evaluation.methods(set_name, view)
    ]
    return markdown(["method", *(f"{each.protocol} {each.title}" for each in shown_in("benchmark"))], rows)


def _improvements(evaluation: Evaluation) -> str:
    rows = [["the paper's claim", "", *(f"{PAPER[metric]:+.1f}" for metric in HEADLINE)]]
    for set_name, view in evaluation.groups():
        for method in FINAL:
            cells = []
            for metric in HEADLINE:
                summary, baseline = (
                    evaluation.improvement(set_name, view, method, metric),
                    evaluation.best_baseline(set_name, view, metric),
                )
                cells.append(f"{_interval(summary, 1)} over {METHODS[baseline]}" if summary and baseline else "-")
            rows.append([f"{set_name}, {view}", METHODS[method], *cells])
    return markdown(["", "method", *(f"{known(key).label} %" for key in HEADLINE)], rows)


def _goals(evaluation: Evaluation) -> str:
    """What was hoped for, with YES where the mean differences of the headline's metrics are all above zero, else NO."""
    rows = []
    for name in (name for name in GOAL_SETS if (name, "bi") in evaluation.groups()):
        values = functools.partial(evaluation.values, name)
        for method in FINAL:
            best = {metric: evaluation.best_baseline(name, "bi", metric) or "" for metric in HEADLINE}
            pairs = {metric: (values("bi", method, metric), values("bi", best[metric], metric)) for metric in HEADLINE}
            rows.append(
                [f"{METHODS[method]}, above each of the {len(CONTROLS)} baselines", name, *_verdict(evaluation, pairs)]
            )
        for before, after in itertools.pairwise(LADDER):
            pairs = {metric: (values("bi", after, metric), values("bi", before, metric)) for metric in HEADLINE}
            rows.append([f"{METHODS[after]}, above {METHODS[before]}", name, *_verdict(evaluation, pairs)])
        for method in FINAL:
            pairs = {metric: (values("bi", method, metric), values("mono", method, metric)) for metric in HEADLINE}
            rows.append([f"{METHODS[method]}, two views above one", name, *_verdict(evaluation, pairs)])
    heads = (known(key).title.replace(known(key).label, f"{known(key).label} difference") for key in HEADLINE)
    return markdown(["goal", "set", *heads, "reached"], rows)


def _verdict(evaluation: Evaluation, pairs: Mapping[str, tuple[dict[str, float], dict[str, float]]]) -> list[str]:
    """Difference in each headline metric with its paired interval, and YES or NO."""
    of = evaluation
    differences = [
        paired_difference(*pairs[metric], of.bootstrap, of.confidence, of.seed, of.patients) for metric in HEADLINE
    ]
    reached = all(difference.mean > 0 for difference in differences)
    texts = [_interval(each, known(key).digits) for key, each in zip(HEADLINE, differences, strict=True)]
    return [*texts, "YES" if reached else "NO"]


def _interval(summary: Summary, digits: int) -> str:
    ends = f" ({summary.few})" if summary.few else f" [{summary.low:+.{digits}f}, {summary.high:+.{digits}f}]"
    return f"{summary.mean:+.{digits}f}{ends}"


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def data_folder(given: Path | None) -> Path:
    """The folder of CTs: as given, else that of AXON_TEST_DATA. Raises AxonError ``DATA_SOURCE``."""
    root = os.environ.get("AXON_TEST_DATA")
    folder = given or (Path(root) / "ct" if root else None)
    if folder is None or not folder.is_dir():
        problem = f"{folder} is no folder" if folder else "no data were named"
        raise AxonError(
            "DATA_SOURCE",
            problem,
            "give --data FOLDER with CTs, --dataset with a prepared dataset, or set AXON_TEST_DATA",
        )
    return folder


def run_parser(module: str, about: str | None, epilog: str = DISCLAIMER) -> argparse.ArgumentParser:
    """The command line of a benchmark, with the arguments that `run_of` takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=Path("configs/bench.yaml"), help="(default: %(default)s)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="folder of CTs (default: $AXON_TEST_DATA/ct)")
    source.add_argument("--dataset", type=Path, help="a prepared dataset, used instead")
    parser.add_argument("--licence", default="", help="of the folder's CTs, where its patients.csv says none")
    parser.add_argument("--source", default="", help="where they come from, likewise: doi:..., or words")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="(default: %(default)s)")
    return parser


def run_of(given: argparse.Namespace) -> Run:
    """The run that the arguments name, its data prepared.

    Raises:
        AxonError: As `Config.load`, `data_folder` and `prepare`.
    """
    config = Config.load(given.config)
    terms = (given.licence, given.source)
    return Run(config, given.dataset or prepare(config, data_folder(given.data), given.out, terms), given.out)


def main(arguments: list[str] | None = None) -> None:
    given = run_parser("quality", __doc__).parse_args(arguments)
    with one_line_errors():
        run_all(run_of(given))


if __name__ == "__main__":
    main()
