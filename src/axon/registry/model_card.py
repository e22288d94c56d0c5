"""The model card: Markdown with Hugging Face's front matter and headings, every number from the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from axon import DISCLAIMER, __version__
from axon.metrics.catalogue import shown_in

CARD = "README.md"
PAPER = "arXiv 2603.26509"
_VIEWS = {"bi": "frontal and lateral", "mono": "frontal only"}

_FRONT_MATTER = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: image-to-3d
tags: [medical, chest-x-ray, computed-tomography, brownian-bridge, controlnet, research-only]
---
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
- The standard deviation is calibrated on validation patients and rendered films; the report shows how often two of it
  hold the truth.

## How to get started

```sh
axon reconstruct frontal.dcm lateral.dcm -o out --model THIS_FOLDER
```

```python
from axon.inference import AxonPipeline

volume = AxonPipeline.from_pretrained("THIS_FOLDER")(frontal, lateral, seed=0).volume  # float32 HU with its affine
```
"""

_END = f"""## Licence

Code and weights: Apache-2.0. The data keep their own licences, listed in the dataset's LICENSES.md; any attempt to
identify a person is forbidden.

## Citation

Conditional Diffusion for 3D CT Volume Reconstruction from 2D X-rays, {PAPER}; and the software, see CITATION.cff.
LIDC-IDRI, where the data name it: Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0.
"""


def model_card(name: str, metrics: dict[str, Any], extra: dict[str, str] | None = None) -> str:
    """The card of a model.

    Args:
        name: Title.
        metrics: Contents of the evaluation's ``metrics.json``.
        extra: Further rows for the table of facts, e.g. the command that trained it.
    """
    facts = {key: _plain(value) for key, value in {**metrics["facts"], **(extra or {})}.items()}
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in sorted(facts.items()) if value)
    return "\n".join([
        _FRONT_MATTER,
        f"# {name}\n",
        f"> **{DISCLAIMER}**\n",
        "A 3D chest CT volume from one or two chest X-rays: Brownian-bridge diffusion, ControlNet refinement, "
        "super-resolution;",
        f"after {PAPER}.",
        f"Made with axon-ct {__version__}; safetensors and JSON, nothing executable.\n",
        _USES,
        f"## Training data and procedure\n\n| | |\n|---|---|\n{rows}\n",
        "## Evaluation\n",
        _evaluation(metrics),
        _END,
    ])  # fmt: skip


def card_of(evaluation: Path, name: str, extra: dict[str, str] | None = None) -> str:
    """The card for the model of an evaluation folder."""
    return model_card(name, json.loads((evaluation / "metrics.json").read_text()), extra)


def _evaluation(metrics: dict[str, Any]) -> str:
    """A table for each test set and view: mean and interval over the cases, baselines included."""
    # Here, because it loads PyTorch, which a step that registers would wait for.
    from axon.evaluation.results import METHODS

    columns = shown_in("card")
    lines = []
    for set_name, views in dict(metrics["summary"]).items():
        for view, methods in views.items():
            count = max(metric["n"] for summaries in methods.values() for metric in summaries.values())
            cases = f"{count} cases; mean (bootstrap interval)" if count > 1 else "one case"
            lines.append(f"**{set_name}**, {_VIEWS.get(view, view)}, protocol axon, {cases}\n")
            lines.append("| method | " + " | ".join(each.title for each in columns) + " |")
            lines.append("|---|" + "---|" * len(columns))
            lines += [
                f"| {METHODS.get(method, method)} | "
                + " | ".join(_cell(values.get(each.key)) for each in columns)
                + " |"
                for method, values in methods.items()
            ]
            lines.append("")
    return "\n".join(lines) if lines else "No test set was evaluated.\n"


def _cell(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return ""
    return f"{summary['mean']:.3f}" + (f" ({summary['low']:.3f} to {summary['high']:.3f})" if summary["n"] > 1 else "")


def _plain(value: Any) -> str:
    """A value that fits a table's cell."""
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|").replace("\n", " ")
