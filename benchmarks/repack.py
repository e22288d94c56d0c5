"""Give the packaged model a library of references: its networks stay as they are and are evaluated anew with it.

    python -m benchmarks.repack DATASET --config configs/bench.yaml --out runs/repack

DATASET is what `axon.data.prepared.assemble` wrote of the patients that the networks were trained on, with licences.
`python -m benchmarks.memorised --card` afterwards writes its section into the new card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from axon import pretrained
from axon.config import Config
from axon.errors import one_line_errors
from axon.evaluation.evaluate import evaluate
from axon.files import write_json
from axon.provenance import code_revision
from benchmarks.pretrain import ship

NETWORKS = ("code_revision", "command", "config_fingerprint", "data_source")
"""What stays known of the networks' own training."""
COMMAND = "python -m benchmarks.repack DATASET --config {}"
"""For the record, with the configuration's file; `axon reproduce` says how DATASET is prepared."""


def repack(dataset: Path, config: Config, out: Path, command: str) -> None:
    """Evaluate the packaged networks with a library into ``out``, and replace the packaged model by what came of it.

    Args:
        dataset: A prepared dataset.
        config: Its ``references`` and ``evaluation`` count; the networks' own settings stay.
        out: Folder of the evaluation; one that is there already is taken as it is.
        command: What made it, for the record.

    Raises:
        AxonError: As `axon.evaluation.evaluate.evaluate` and `benchmarks.pretrain.ship`.
    """
    model = pretrained.path()
    before = json.loads((model / "provenance.json").read_text())
    if not out.is_dir():
        facts = {"config_fingerprint": config.fingerprint(), "code_revision": code_revision()}
        # Stage by stage a model folder is laid out as what trained each stage wrote.
        stages = dict.fromkeys(("bridge", "refiner", "superres"), model)
        evaluate(config, dataset, stages | {"baselines": out / "no-baselines"}, out, "bi", facts)
    # Its patients are counted anew; the rest is the networks' own.
    kept = before.get("training", {})
    training = {key: kept[key] for key in ("training_seconds", "trained_on") if key in kept}
    ship(out, model, command, training)
    now = json.loads((model / "provenance.json").read_text())
    networks = before.get("networks") or {key: before[key] for key in NETWORKS}
    write_json(model / "provenance.json", now | {"networks": networks})
    pretrained.seal(model)


def main(argv: list[str] | None = None) -> int:
    about, layout = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=layout, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="prepared dataset of the networks' own patients")
    parser.add_argument("--config", type=Path, default=Path("configs/bench.yaml"), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/repack"), help="evaluation (default: %(default)s)")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        command = COMMAND.format(arguments.config)
        repack(arguments.dataset, Config.load(arguments.config), arguments.out, command)
    print(f"{pretrained.path()} is written; commit it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
