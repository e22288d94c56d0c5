"""Turn a finished quality benchmark into the model folder that ships with the package: weights, card, provenance,
checksums.

python benchmarks/pretrain.py runs/quality --command 'make pretrained DATA=cts'
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from axon import DISCLAIMER, __version__, pretrained
from axon.errors import AxonError, one_line_errors
from axon.files import whole_folder, write_json
from axon.registry.model_card import CARD, TRAINING, card_of

MAX_BYTES = 24 * 2**20
FACTS = ("code_revision", "config", "config_fingerprint", "data_source", "seed", "split_hash")
LICENCES = {
    "code": "Apache-2.0",
    "weights": "Apache-2.0",
    "training data": "LIDC-IDRI, CC BY 3.0, Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX",
}


STAGES = ("bridge", "coarse", "refiner", "superres")
"""Parts of a benchmark whose seconds are those of the networks' training."""
MEMORISED = "## How much of a sample is another patient"
_NEXT = "## How to get started"


def ship(evaluation: Path, out: Path, command: str, training: Mapping[str, str] | None = None) -> None:
    """Write ``out``, whole or not at all.

    Args:
        evaluation: The evaluation folder of a benchmark, with ``model/`` and ``metrics.json``.
        out: ``src/axon/pretrained/axon-small``.
        command: What trained the model, for the record.
        training: What is known of the networks' training beside the evaluation's facts, by the keys of
            `axon.registry.model_card.TRAINING`.

    Raises:
        AxonError: ``MODEL_DIRTY`` where the code that trained it is not a commit, ``MODEL_TOO_LARGE``, or those of
            `axon.pretrained.load`.
    """
    metrics = json.loads((evaluation / "metrics.json").read_text())
    if metrics["facts"]["code_revision"].endswith("-dirty"):
        raise AxonError("MODEL_DIRTY", "the model was trained with uncommitted changes", "commit them and train again")
    pretrained.load(str(evaluation / "model"))
    known = {**metrics["facts"], **(training or {})}
    training = {key: str(known[key]) for key in TRAINING if key in known}
    with whole_folder(out) as part:
        shutil.copytree(evaluation / "model", part, dirs_exist_ok=True)
        (part / CARD).write_text(card_of(evaluation, pretrained.SHIPPED, training | {"command": f"`{command}`"}))
        provenance = {key: metrics["facts"][key] for key in FACTS} | {
            "command": command,
            "training": training,
            "licences": LICENCES,
            "metrics": metrics["summary"],
        }
        write_json(
            part / "provenance.json", {"disclaimer": DISCLAIMER, "software": f"axon-ct {__version__}", **provenance}
        )
        pretrained.seal(part)
        size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
        if size > MAX_BYTES:
            raise AxonError(
                "MODEL_TOO_LARGE", f"the model has {size} bytes, more than {MAX_BYTES}", "train a smaller one"
            )


def taken(run: Path) -> dict[str, str]:
    """Seconds of the networks' training in a benchmark's folder, and this machine, on which it ran; nothing where it
    holds other trainings, too.
    """
    from benchmarks.speed import machine

    found = [list(run.glob(f"stages/{stage}-*.json")) for stage in STAGES]
    if any(len(files) != 1 for files in found):
        return {}
    seconds, here = sum(json.loads(file.read_text())["seconds"] for (file,) in found), machine()
    hardware = f"{here['cpu']}, {here['cores']} cores" if here["gpu"] == "none" else here["gpu"]
    return {"training_seconds": f"{seconds:.0f}", "trained_on": hardware}


def remember(model: Path, text: str) -> None:
    """Write what `benchmarks.memorised` found into a model's card, in place of what was there, and seal the model."""
    before, _, after = (model / CARD).read_text().partition(_NEXT)
    about = (
        "`python -m benchmarks.memorised --also FOLDER`: patients whom neither networks nor library know, two rendered "
        "films,\npatches of 25 mm; distances are medians of root mean squares in HU."
    )
    before = before.partition(MEMORISED)[0].rstrip()
    (model / CARD).write_text(f"{before}\n\n{MEMORISED}\n\n{about}\n\n{text}\n\n{_NEXT}{after}")
    pretrained.seal(model)


def main(argv: list[str] | None = None) -> int:
    about, layout = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=layout, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output folder of the finished benchmark, or of `axon model import`")
    parser.add_argument("--command", required=True, help="the command that trained it, for the record")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(pretrained.__file__).with_name(pretrained.SHIPPED),
        help="(default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    with one_line_errors():
        found = [path for path in sorted(arguments.run.glob("stages/evaluation-*")) if path.is_dir()]
        if (arguments.run / "metrics.json").is_file():
            found = [arguments.run]
        if len(found) != 1:
            raise AxonError(
                "RUN_UNCLEAR",
                f"{arguments.run} holds {len(found)} finished evaluations, not one",
                "give a run's own folder",
            )
        ship(found[0], arguments.out, arguments.command, taken(arguments.run))
    print(f"{arguments.out} is written; commit it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
