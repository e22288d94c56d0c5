"""AXON as an MLflow pyfunc model, logged as code: loading it executes this file and reads safetensors and JSON, never a pickle."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import mlflow.pyfunc
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "frontal"), ColSpec(DataType.binary, "lateral", required=False)]),
    outputs=Schema(
        [
            ColSpec(DataType.binary, "ct_nifti_gz"),
            ColSpec(DataType.double, "frontal_reprojection_mae"),
            ColSpec(DataType.string, "disclaimer"),
        ]
    ),
    params=ParamSchema([ParamSpec("seed", DataType.long, 0), ParamSpec("trust_views", DataType.boolean, False)]),
)
"""One row a patient: the content of the films' files in, the content of a NIfTI file out; over HTTP all of it in base64."""


class AxonModel(mlflow.pyfunc.PythonModel):
    """Film files in, NIfTI files out."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged as the artifact ``model``."""
        from axon.pretrained import load

        self.model = load(context.artifacts["model"])

    # MLflow would read a type hint of model_input as a signature, in place of the one above.
    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        """Reconstruct each row.

        Args:
            context: MLflow's context, unused.
            model_input: Table with the columns ``frontal`` and optionally ``lateral``: PNG, JPEG or DICOM files as bytes.
            params: ``seed``, and ``trust_views`` as of ``axon reconstruct``.

        Returns:
            pd.DataFrame: A row each: ``ct_nifti_gz``, ``frontal_reprojection_mae`` (0 to 1), ``disclaimer``.

        Raises:
            AxonError: Those of `axon.reconstruct.read_films` and of the pipeline.
        """
        return pd.DataFrame([self._row(row, params or {}) for row in model_input.to_dict("records")])

    def _row(self, row: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        from axon import DISCLAIMER
        from axon.reconstruct import nifti_bytes, read_films, sample

        with TemporaryDirectory() as scratch:
            paths = {}
            for view in ("frontal", "lateral"):
                if isinstance(row.get(view), bytes):  # an absent film is None or NaN
                    paths[view] = Path(scratch) / view
                    paths[view].write_bytes(row[view])
            films = read_films(paths["frontal"], paths.get("lateral"), params.get("trust_views", False))
        made = sample(films, self.model.pipeline, seed=params.get("seed", 0))
        error = made.reprojection_mae()["frontal"]
        return {"ct_nifti_gz": nifti_bytes(made.volume), "frontal_reprojection_mae": error, "disclaimer": DISCLAIMER}


mlflow.models.set_model(AxonModel())
