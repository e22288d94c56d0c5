"""What a served model takes and gives, and an example of it: `axon.registry.pyfunc_model` does the work."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature


def signature() -> ModelSignature:
    """One row a patient: the bytes of the films' files in, the bytes of a NIfTI file out; over HTTP both in base64."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    given = [ColSpec(DataType.binary, "frontal"), ColSpec(DataType.binary, "lateral", required=False)]
    made = [
        ColSpec(DataType.binary, "ct_nifti_gz"),
        ColSpec(DataType.double, "frontal_reprojection_mae"),
        ColSpec(DataType.string, "error"),
        ColSpec(DataType.string, "disclaimer"),
    ]
    params = [ParamSpec("seed", DataType.long, 0), ParamSpec("trust_views", DataType.boolean, False)]
    return ModelSignature(inputs=Schema(given), outputs=Schema(made), params=ParamSchema(params))


def example() -> pd.DataFrame:
    """The frontal and the lateral film of a phantom as PNG files."""
    import pandas as pd
    import torch
    from PIL import Image

    from axon.config import XrayConfig
    from axon.data.phantoms import make_phantom
    from axon.geometry.projection import VIEWS, normalise_film, render_both

    phantom = make_phantom(0)
    extent_mm = phantom.hu_DHW.shape[0] * phantom.spacing_mm[0]
    hu_11DHW = torch.from_numpy(phantom.hu_DHW).float()[None, None]
    films_VUV = normalise_film(render_both(hu_11DHW, extent_mm, XrayConfig(detector_px=128, pixel_pitch_mm=3.5)))[0]
    row = {}
    for view, film_UV in zip(VIEWS, films_VUV, strict=True):
        buffer = io.BytesIO()
        Image.fromarray((film_UV * 255).round().to(torch.uint8).numpy()).save(buffer, format="PNG")
        row[view] = buffer.getvalue()
    return pd.DataFrame([row])
