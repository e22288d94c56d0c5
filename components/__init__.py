"""The pipeline's steps: one file a step, a typed ``@dsl.component`` of a few lines that calls one function of
``axon``.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

IMAGES_FILE = Path(__file__).parents[1] / "containers" / "images.yaml"


def image(target: str) -> str:
    """The image of a target (``cpu`` or ``cuda``): ``AXON_IMAGE_<TARGET>`` where set, else as in
    ``containers/images.yaml``.
    """
    return os.environ.get(f"AXON_IMAGE_{target.upper()}") or str(yaml.safe_load(IMAGES_FILE.read_text())[target])
