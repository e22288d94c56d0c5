"""The model card: Markdown with Hugging Face's front matter and headings, every number from the evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from axon import DISCLAIMER, __version__
from axon.data.patients import read_patients
from axon.metrics.catalogue import PRIMARY_METHOD, VIEW_LABELS, Metric, shown_in
from axon.references.library import FOLDER, TERMS, attribution_table, read_facts

CARD = "README.md"
PAPER = "arXiv 2603.26509"

_FRONT_MATTER = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: image-to-3d
tags: [medical, chest-x-ray, computed-tomography, brownian-bridge, controlnet, research-only]
"""

_DETAILS = f"""## Model details

- **Developed by.** The AXON developers (the code). Who trained these weights is not recorded here; where they are
  registered in MLflow, their run names its user.
- **Model type.** A learned estimate from the films, a Brownian-bridge diffusion that starts from it, a ControlNet on
  that, a super-resolution network, each as far as it helped on validation patients (its weight, below: 0 is not at
  all); each sampling step is corrected by the films. Where the model carries references, they are warped to the
  networks' volume and the films and fused with a share of it; no network comes after that.
- **Language.** None: pictures in, a volume out.
- **Licence.** Apache-2.0; that of the data is below.
- **Sources.** Paper: {PAPER}, https://arxiv.org/abs/{PAPER.split()[1]}. It published no code; what is not in it is the
  code's own choice.

"""

_USES = """## Uses

**Intended.** Research on sparse-view reconstruction: baselines, metrics, training pipelines.

**Out of scope.** Diagnosis, treatment, triage, measurement of a patient, training data that is passed off as real CT.
One or two films do not determine a volume: what they do not show is filled in from the training data; lesions may be
invented or left out.

## Bias, risks and limitations

- Trained and tested on films rendered from CT (cone beam, 65 keV, no scatter). On real films it is worse, and not
  measured here.
- Small data: the figures below say over how many cases each mean is taken. No clinical claim can rest on them.
- Adults lying in a scanner with raised arms; children, devices and unusual anatomy are hardly represented.
- HU outside the model's window are never reconstructed; contrast medium is not modelled.
- What is finer than the films fix comes from references, where a model carries some: a rib or a vessel may be another
  patient's, and contrast agent in a reference brightens vessels.
- The error to expect is calibrated on validation patients and rendered films; the report shows how often twice of it
  holds the truth.
"""

_START = """
## How to get started

```sh
axon reconstruct frontal.dcm lateral.dcm -o out --model THIS_FOLDER
```

```python
from axon.inference import AxonPipeline

volume = AxonPipeline.from_pretrained("THIS_FOLDER")(frontal, lateral, seed=0).volume  # float32 HU with its affine
```
"""

_SPECIFICATIONS = f"""## Technical specifications

- **Input.** A frontal film, or a frontal and a lateral one, on the detector that `model_index.json` names.
- **Output.** A cube of HU with its affine in mm, as NIfTI and DICOM CT.
- **Architecture.** 3D U-Nets of MONAI in the layout of diffusers; their sizes are in each folder's `config.json`.
- **Software.** axon-ct {__version__}, PyTorch, Python 3.11 or 3.12; runs on CPUs and GPUs.

## Environmental impact

Hardware and seconds of the training are above, where they are recorded, else in the MLflow run of a registered model;
region, energy and carbon were not measured.

## Contact

As the repository's SECURITY.md says for weaknesses; for the rest, whoever gave you this folder.

"""

_END = f"""## Licence

Code and weights: Apache-2.0. The data keep their own licences, listed in the dataset's LICENSES.md, and so do the CTs
that a model carries as references, listed above and in references/ATTRIBUTION.md; any attempt to identify a person is
forbidden.

## Citation

Conditional Diffusion for 3D CT Volume Reconstruction from 2D X-rays, {PAPER}; and the software, see CITATION.cff.
LIDC-IDRI, where the data name it: Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0.
"""


TRAINING = {
    "training_patients": "patients for the lift, the estimator and the three stages",
    "references": "of them as references",
    "validation_patients": "patients for the stages' weights, the error to expect and the choice of settings",
    "stage_weights": "weights of the three stages",
    "training_seconds": "seconds of the networks' training",
    "trained_on": "hardware of the training",
}
"""Facts that have a table of their own, with their titles there."""


def model_card(
    name: str, metrics: dict[str, Any], extra: dict[str, str] | None = None, datasets: Sequence[str] = ()
) -> str:
    """The card of a model.

    Args:
        name: Title.
        metrics: Contents of the evaluation's ``metrics.json``.
        extra: Further rows for the tables of facts, e.g. the command that trained it, or those of `TRAINING`.
        datasets: Names of those that are known to have been trained on.
    """
    facts = {key: _plain(value) for key, value in {**metrics["facts"], **(extra or {})}.items()}
    trained = _rows({title: facts.pop(key, "") or "not recorded here" for key, title in TRAINING.items()})
    rows = _rows({key.replace("_", " "): value for key, value in sorted(facts.items())})
    return "\n".join([
        f"{_FRONT_MATTER}datasets: {json.dumps(list(datasets))}\nmetrics: {json.dumps(_measured(metrics))}\n---\n",
        f"# {name}\n",
        f"> **{DISCLAIMER}**\n",
        "A 3D chest CT volume from one or two chest X-rays: Brownian-bridge diffusion, ControlNet refinement, "
        "super-resolution;",
        f"after {PAPER}.",
        f"Made with axon-ct {__version__}; safetensors and JSON, nothing executable.\n",
        _DETAILS + _USES + _START,
        f"## Training data and procedure\n\n| | |\n|---|---|\n{trained}\n\n| | |\n|---|---|\n{rows}\n",
        "## Evaluation\n",
        _evaluation(metrics),
        _SPECIFICATIONS + _END,
    ])  # fmt: skip


def card_of(evaluation: Path, name: str, extra: dict[str, str] | None = None) -> str:
    """The card for the model of an evaluation folder. Raises AxonError as `axon.data.patients.read_patients` does."""
    facts, patients = read_facts(evaluation / "model"), read_patients(evaluation / "model")
    known = sorted({fact["collection"] for fact in facts})
    counted = {"references": str(len(facts)), "stage_weights": _weights(evaluation / "model")}
    if patients:
        counted["training_patients"] = str(len({patient.id for patient in patients.trained}))
    metrics = json.loads((evaluation / "metrics.json").read_text())
    return with_section(model_card(name, metrics, counted | (extra or {}), known), facts)


def _weights(model: Path) -> str:
    """Of the stages, in words; empty for a model that was calibrated on nobody."""
    weights = json.loads((model / "model_index.json").read_text()).get("stage_weights", {})
    named = {"bi": "from two films", "mono": "from one"}
    return "; ".join(
        f"{', '.join(f'{w:.2f}' for w in weights[view])} {text}" for view, text in named.items() if view in weights
    )


def _rows(values: Mapping[str, str]) -> str:
    return "\n".join(f"| {key} | {value} |" for key, value in values.items() if value)


def _measured(metrics: dict[str, Any]) -> list[str]:
    """The card's metrics that an evaluation has, as its head for machines names them."""
    of_views = [each for views in dict(metrics["summary"]).values() for each in views.values()]
    methods = [method for each in of_views for method in each.values()]
    return [each.label.lower() for each in shown_in("card") if any(each.key in values for values in methods)]


def _evaluation(metrics: dict[str, Any]) -> str:
    """A table for each test set and view: mean and interval over the cases, baselines included."""
    # Here, because it loads PyTorch, which a step that registers would wait for.
    from axon.evaluation.results import METHODS

    floor = metrics.get("floor", {})
    lines = []
    for set_name, views in dict(metrics["summary"]).items():
        for view, methods in views.items():
            columns = [each for each in shown_in("card") if any(each.key in values for values in methods.values())]
            count = max(metric["n"] for summaries in methods.values() for metric in summaries.values())
            cases = f"{count} cases; mean (bootstrap interval)" if count > 1 else "one case"
            lines.append(
                f"**{set_name}**, {VIEW_LABELS.get(view, view).replace(' view', '')}, {_own(columns)}, {cases}\n"
            )
            lines.append("| method | " + " | ".join(each.title for each in columns) + " |")
            lines.append("|---|" + "---|" * len(columns))
            lines += [
                f"| {METHODS.get(method, method)} | "
                + " | ".join(_cell(each, values.get(each.key)) for each in columns)
                + " |"
                for method, values in methods.items()
            ]
            if any(each.key in floor for each in columns):
                known = (each.text(floor[each.key]) if each.key in floor else "" for each in columns)
                lines.append("| CTs of different patients | " + " | ".join(known) + " |")
            lines.append("")
    return "\n".join(lines) if lines else "No test set was evaluated.\n"


def run_description(verdict: str, metrics: dict[str, Any], picture: str) -> str:
    """What MLflow's page shows of a run first: what became of its model, the first figures, a picture.

    Args:
        verdict: One sentence.
        metrics: Contents of the evaluation's ``metrics.json``.
        picture: Address of a picture; empty for none.
    """
    columns = shown_in("headline")
    lines = [f"**{verdict}**\n", _row("test set", "films", *(each.title for each in columns))]
    lines.append("|---|---|" + "---|" * len(columns))
    for set_name, views in dict(metrics["summary"]).items():
        for view, methods in views.items():
            cells = (_cell(each, methods.get(PRIMARY_METHOD, {}).get(each.key)) for each in columns)
            lines.append(_row(set_name, VIEW_LABELS.get(view, view).replace(" view", ""), *cells))
    shown = [f"\n![films, three stages, the CT, the error]({picture})"] if picture else []
    return "\n".join([*lines, *shown, f"\n{DISCLAIMER} The whole report is evaluation/report.html."])


def _row(*cells: str) -> str:
    """A row of a table on MLflow's page, which leaves no space between columns."""
    return f"| {'&emsp; | '.join(cells)} |"


def _own(columns: Sequence[Metric]) -> str:
    """Which columns are by a protocol that others might share a name with."""
    *first, last = [each.label for each in columns if each.protocol == PRIMARY_METHOD]
    return f"{', '.join(first)} and {last} of protocol {PRIMARY_METHOD}"


def _cell(of: Metric, summary: dict[str, Any] | None) -> str:
    if summary is None:
        return ""
    interval = f" ({of.text(summary['low'])} to {of.text(summary['high'])})" if summary["n"] > 1 else ""
    return of.text(summary["mean"]) + interval


def _plain(value: Any) -> str:
    """A value that fits a table's cell."""
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|").replace("\n", " ")


_SECTION_BEGIN, _SECTION_END = "<!-- references -->", "<!-- end of references -->"


def with_section(card: str, facts: Sequence[dict[str, Any]]) -> str:
    """A model card with the section on the references, in the place of an older one, else before the first second
    heading.

    Where one of them is not licensed, the section begins with that, so that it is among the card's first lines.

    Args:
        card: Markdown.
        facts: As of `read_facts`; none takes the section out.
    """
    before, _, rest = card.partition(_SECTION_BEGIN)
    if rest:
        after = rest.partition(_SECTION_END)[2].lstrip("\n")
    else:
        before, after = card[: card.find("\n## ") + 1], card[card.find("\n## ") + 1 :]
    return before + (_section(facts) + "\n\n" if facts else "") + after


def _section(facts: Sequence[dict[str, Any]]) -> str:
    unlicensed = [fact["id"] for fact in facts if not fact["licensed"]]
    warning = f"> **Not for publication: no licence clears these patients' CTs: {', '.join(unlicensed)}.**\n\n"
    text = (
        f"The CTs of {len(facts)} training patients are in `{FOLDER}/`, as references. What a volume shows finer than "
        f"the films fix is\ntheirs: a rib or a vessel may be another patient's.\n{TERMS}"
    )
    return f"{_SECTION_BEGIN}\n{warning if unlicensed else ''}{text}\n\n{attribution_table(facts)}\n{_SECTION_END}"
