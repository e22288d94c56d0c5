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
    params = [ParamSpec("seed", DataType.long, 0)]
    params += [ParamSpec(name, DataType.boolean, False) for name in ("trust_views", "no_level")]
    params.append(ParamSpec("view", DataType.string, ""))
    for prefix in ("", "lateral_"):
        params += [ParamSpec(f"{prefix}{name}", DataType.string, "") for name in ("crop", "rotate")]
        params += [ParamSpec(f"{prefix}{name}", DataType.boolean, False) for name in ("mirror", "invert")]
    return ModelSignature(inputs=Schema(given), outputs=Schema(made), params=ParamSchema(params))


def example() -> pd.DataFrame:
    """A blurred frontal and lateral chest, as far as one sees it on 16 x 16 pixels, as PNG files."""
    import pandas as pd
    from PIL import Image, ImageOps

    from axon.dicom import views

    row = {}
    for view, digits in (("frontal", views.FRONTAL), ("lateral", views.LATERAL)):
        levels = bytes(17 * int(digit, 16) for digit in "".join(digits.split()))
        small = ImageOps.expand(Image.frombytes("L", (16, 16), levels), border=1)
        buffer = io.BytesIO()
        small.resize((128, 128), Image.Resampling.BILINEAR).save(buffer, format="PNG")
        row[view] = buffer.getvalue()
    return pd.DataFrame([row])
