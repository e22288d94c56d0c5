"""What a model's card says of who trained it, for how long, and of other patients in it."""

import json
from pathlib import Path

from axon import pretrained
from axon.registry.model_card import CARD, card_of, model_card
from benchmarks import memorised
from benchmarks.pretrain import MEMORISED, remember, taken
from tests.support.referenced import referenced_model

MEASURED = {"reference": 0.87, "CT": 0.03, "networks": 0.1, "sample to training": 77.0, "volume to training": 70.0,
            "CT to training": 79.0}  # fmt: skip


def test_a_card_says_on_how_many_each_part_was_trained_and_for_how_long() -> None:
    facts = {"training_patients": "6", "validation_patients": "2", "training_seconds": "2312", "seed": "0"}
    card = model_card("axon", {"facts": facts, "summary": {}}, {"trained_on": "a GPU", "references": "5"})
    said = {line.strip("| ") for line in card.splitlines()}
    assert said >= {
        "patients for the lift, the estimator and the three stages | 6",
        "of them as references | 5",
        "seconds of the networks' training | 2312",
        "hardware of the training | a GPU",
        "weights of the three stages | not recorded here",
        "seed | 0",
    }
    assert card.count("2312") == 1


def test_an_evaluations_card_counts_patients_references_and_weights_of_its_model(tmp_path: Path) -> None:
    model = referenced_model(tmp_path)
    index = json.loads((model / "model_index.json").read_text())
    index["stage_weights"] = {"mono": [0.5, 0.85, 0.25], "bi": [1.0, 0.0, 1.0]}
    (model / "model_index.json").write_text(json.dumps(index))
    patients = {
        "version": 1,
        "key": "k00000000",
        "bits": 1024,
        "trained": [{"id": f"p{n % 3:012}", "fingerprint": ""} for n in range(4)],
    }
    (model / "patients.json").write_text(json.dumps(patients))
    (tmp_path / "metrics.json").write_text(json.dumps({"facts": {}, "summary": {}}))
    card = card_of(tmp_path, "axon")
    assert "| patients for the lift, the estimator and the three stages | 3 |" in card
    assert "| of them as references | 2 |" in card and "may be another patient's" in card
    assert "| 1.00, 0.00, 1.00 from two films; 0.50, 0.85, 0.25 from one |" in card


def test_what_was_memorised_replaces_what_a_card_said_before(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    for share in (0.5, 0.87):
        (tmp_path / CARD).write_text(
            model_card("axon", {"facts": {}, "summary": {}}) if share == 0.5 else (tmp_path / CARD).read_text()
        )
        rows = {"a": MEASURED | {"reference": share}, "b": MEASURED | {"reference": share + 0.02}}
        remember(tmp_path, f"{memorised.sentence(rows)}\n\n{memorised.table(rows)}")
    card = (tmp_path / CARD).read_text()
    assert card.count(MEMORISED) == card.count("\n## How to get started\n") == card.count("| mean | 88 % |") == 1
    assert "**87 to 89 % of a sample's places" in card and "50 %" not in card
    assert all(len(line) <= 120 for line in memorised.sentence(rows).splitlines())
    assert (tmp_path / pretrained.SUMS).is_file()


def test_a_benchmarks_seconds_are_those_of_its_stages_and_none_where_two_trainings_lie(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    for n, stage in enumerate(("bridge", "coarse", "refiner", "superres", "baselines")):
        (tmp_path / f"stages/{stage}-0.json").write_text(json.dumps({"seconds": 10**n}))
    assert taken(tmp_path)["training_seconds"] == "1111"
    (tmp_path / "stages/bridge-1.json").write_text(json.dumps({"seconds": 1}))
    assert taken(tmp_path) == {}


def test_the_packaged_card_has_its_patients_its_seconds_and_what_is_memorised() -> None:
    folder = Path(pretrained.__file__).with_name(pretrained.SHIPPED)
    training = json.loads((folder / "provenance.json").read_text())["training"]
    weights = json.loads((folder / "model_index.json").read_text())["stage_weights"]
    card = (folder / CARD).read_text()
    assert training["training_patients"] == "6" and MEMORISED in card
    assert f"| seconds of the networks' training | {training['training_seconds']} |" in card
    assert f"| {', '.join(f'{w:.2f}' for w in weights['bi'])} from two films; " in card
