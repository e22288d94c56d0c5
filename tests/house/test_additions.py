"""A new metric, layout, baseline or stage touches the files that CONTRIBUTING.md names alone, and the rest follows.

The additions are made in a copy of the package, which a process of its own trains, evaluates and reports with.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from axon.config import Config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOY_BASELINE = '''"""The regression under another name."""

from axon.baselines.method import Trained
from axon.baselines.regression import RegressionStage
from axon.models.unet import RegressionUNet


class ToyStage(RegressionStage):
    name, budget = "toy", "regression"


def _stage(source, estimator, device):
    return ToyStage(source, RegressionUNet.of(source.config.model).to(device), estimator)


METHOD = Trained("Toy baseline", _stage)
'''
TOY_LAYOUT = '''"""Toy: ``7@early.nii.gz`` is a CT of patient 7."""

from axon.readers.layouts.rule import Image, Layout, Named


def _name(image):
    patient, at, _ = image.stem.partition("@")
    return Named(image.stem.replace("@", "-"), patient) if at else None


LAYOUT = Layout("Toy", _name)
'''
TOY_NETWORK = """"Its only weight is a factor."

import torch
from torch import nn

from axon.compute.bases import ConfigMixin, ModelMixin, register_to_config


class ToyNetwork(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, volume_B1DHW):
        print(f"toy network: {volume_B1DHW.shape[-1]} voxels a side")
        return self.factor * volume_B1DHW
"""
TOY_STAGE = """class ToyStage(BatchStage):
    name = "toy"

    def loss(self, module, draw):
        return F.l1_loss(module(draw.batch.coarse_B1dhw), draw.batch.coarse_B1dhw)


class EstimatorStage("""
TOY_TRAINING = """    stage = ToyStage(source, ToyNetwork().to(device))
    toy, toy_curve = fit_stage(stage, config, data, checkpoints, named(log, "toy"), parent=parent)
    with whole_folder(out) as part:
        save_network(toy, part / "toy")
        save_network(ema, part / "superres")
        write_curves(part, {"toy": toy_curve, "superres": curve})
"""
SUPERRES = """    with whole_folder(out) as part:
        save_network(ema, part / "superres")
        write_curves(part, {"superres": curve})
"""
LOADED = '            superres=load_network(SuperResolver, models["superres"] / "superres"),\n'
IMPORTED = "from axon.models.toy import ToyNetwork\nfrom axon.models.unet import"
# File, what is replaced in it, and by what; a new file has nothing to replace.
ADDED = {
    "a metric": [
        ("src/axon/metrics/protocols.py", '        "psnr": _psnr(', '        "toy_hu": 42.0,\n        "psnr": _psnr('),
        (
            "src/axon/metrics/catalogue.py",
            '        Metric("axon/psnr",',
            '        Metric("axon/toy_hu", "Toy metric", "HU", 1, "less", "distortion", _EVERYWHERE),\n'
            '        Metric("axon/psnr",',
        ),
    ],
    "a data-set layout": [
        ("src/axon/readers/layouts/NAME.py", "", TOY_LAYOUT),
        ("src/axon/readers/layouts/table.py", "    total_segmentator,\n)", "    total_segmentator,\n    toy,\n)"),
        ("src/axon/readers/layouts/table.py", "] = (\n", "] = (\n    toy.LAYOUT,\n"),
    ],
    "a baseline": [
        ("src/axon/baselines/NAME.py", "", TOY_BASELINE),
        ("src/axon/baselines/methods.py", "import diffusion, gan,", "import diffusion, gan, toy,"),
        ("src/axon/baselines/methods.py", '    "gan": gan.METHOD,', '    "gan": gan.METHOD,\n    "toy": toy.METHOD,'),
    ],
    "a stage": [
        (
            "src/axon/config.py",
            "    superres: StageConfig",
            "    toy: StageConfig = StageConfig(3)\n    superres: StageConfig",
        ),
        ("src/axon/models/NAME.py", "", TOY_NETWORK),
        ("src/axon/training/stages.py", "class EstimatorStage(", TOY_STAGE),
        ("src/axon/training/train.py", "from axon.models.unet import", IMPORTED),
        ("src/axon/training/train.py", "    SuperResStage,\n", "    SuperResStage,\n    ToyStage,\n"),
        ("src/axon/training/train.py", SUPERRES, TOY_TRAINING),
        ("src/axon/inference.py", "from axon.models.unet import", IMPORTED),
        ("src/axon/inference.py", "superres: SuperResolver,\n", "superres: SuperResolver,\n        toy: ToyNetwork,\n"),
        ("src/axon/inference.py", "superres=superres\n", "superres=superres, toy=toy\n"),
        (
            "src/axon/inference.py",
            LOADED,
            LOADED + '            toy=load_network(ToyNetwork, models["superres"] / "toy"),\n',
        ),
        (
            "src/axon/inference.py",
            "[seed], weights)\n        progress(",
            "[seed], weights)\n        fine = self.toy(fine)\n        progress(",
        ),
    ],
}
RUN = """
import sys
import tomllib
from pathlib import Path
from axon.baselines.train_all import train_baselines
from axon.config import Config
from axon.evaluation.evaluate import evaluate
from axon.training.train import sample_coarse, train_bridge, train_refiner, train_superres

config, data, out = Config.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
log, kept = lambda *_: None, out / "checkpoints"
train_bridge(config, data, kept / "bridge", out / "bridge", log)
sample_coarse(config, data, out / "bridge", out / "coarse")
train_refiner(config, data, out / "bridge", out / "coarse", kept / "refiner", out / "refiner", log)
train_superres(config, data, kept / "superres", out / "superres", log)
train_baselines(config, data, kept / "baselines", out / "baselines", log)
models = {name: out / name for name in ("bridge", "refiner", "superres", "baselines")}
evaluate(config, data, models, out / "evaluation", "bi", {})
"""
FIND = """
import sys
import tomllib
from pathlib import Path
from axon.readers.layouts import find_studies

for study in find_studies(Path(sys.argv[1])):
    print(study.case_id, study.patient_id, study.rule if study.rule == "Toy" else "")
"""


def files_named(what: str) -> set[str]:
    """The files of a row of CONTRIBUTING.md's table, which says how many there are."""
    row = re.search(rf"^\| {what} \| (\d+)[^|]* \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert row is not None
    named = set(re.findall(r"`([^`]+)`", row[2]))
    assert len(named) == int(row[1])
    return named


def test_the_guide_has_every_room_on_its_floor() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    guide = (ROOT / "CONTRIBUTING.md").read_text().split("| rooms |")[1].split("Three rules")[0]
    rows = [row.split("|")[1] for row in guide.splitlines() if row.startswith("| `")]
    floors = [floor for row in rows for floor in row.split(">")]
    named = [set(re.findall(r"`(\w+)`", floor)) for floor in floors]
    assert named == [set(re.findall(r"\w+", layer)) for layer in layers]


def test_what_the_guide_names_is_there() -> None:
    named = re.findall(r"`((?:src|tests|docs|components|pipelines)/[^`\s]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    gone = [path for path in named if not re.search(r"NAME|ROOM", path) and not (ROOT / path).exists()]
    assert len(named) > 10 and gone == []


def add(what: str, tree: Path) -> None:
    for file, old, new in ADDED[what]:
        path = tree / file.replace("NAME", "toy")
        text = path.read_text() if old else ""
        assert text.count(old) == 1 or not old
        path.write_text(text.replace(old, new) if old else new)


def run(tree: Path, script: str, *arguments: Path) -> str:
    """What a process says that imports ``axon`` from ``tree``."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package without its model."""
    left_out = shutil.ignore_patterns("axon-small", "static", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "tree" / "src", ignore=left_out)
    return tmp_path / "tree"


@pytest.mark.parametrize("what", ADDED)
def test_an_addition_touches_the_files_that_the_guide_names(what: str) -> None:
    assert {file for file, _, _ in ADDED[what]} == files_named(what)


def test_a_metric_a_baseline_and_a_stage_are_trained_evaluated_and_reported(
    tree: Path, tiny_config: Config, tiny_dataset: Path, tmp_path: Path
) -> None:
    for what in ("a metric", "a baseline", "a stage"):
        add(what, tree)
    (tmp_path / "config.yaml").write_text(tiny_config.to_yaml())
    said = run(tree, RUN, tmp_path / "config.yaml", tiny_dataset, tmp_path / "out")
    assert "toy: " in said and "toy network: 8 voxels" in said and "toy network: 16 voxels" in said
    report = (tmp_path / "out/evaluation/report.html").read_text()
    assert "Toy baseline" in report and "Toy metric [HU]" in report and "42.0" in report
    assert "Toy baseline" in (tmp_path / "out/evaluation/summary.txt").read_text()
    assert (tmp_path / "out/baselines/curves/toy.csv").is_file() and (
        tmp_path / "out/superres/curves/toy.csv"
    ).is_file()
    assert "ToyNetwork" in (tmp_path / "out/evaluation/model/model_index.json").read_text()


def test_studies_of_a_new_layout_are_found(tree: Path, tmp_path: Path) -> None:
    add("a data-set layout", tree)
    folder = tmp_path / "cts"
    folder.mkdir()
    for name in ("7@early.nii", "7@late.nii", "other.nii"):
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), folder / name)
    found = run(tree, FIND, folder)
    assert found.splitlines() == ["7-early 7 Toy", "7-late 7 Toy", "other other "]
