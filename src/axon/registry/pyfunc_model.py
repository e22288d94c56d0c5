"""AXON as an MLflow pyfunc model, logged as code: loading it executes this file and reads safetensors and JSON, never a
pickle.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mlflow
import mlflow.pyfunc
import pandas as pd

if TYPE_CHECKING:
    from axon.reconstruct import Films


class AxonModel(mlflow.pyfunc.PythonModel):
    """Film files in, NIfTI files out, as `axon.registry.serving.signature` says."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged as the artifact ``model``."""
        from axon.pretrained import load

        self.model = load(context.artifacts["model"])

    # MLflow would read a type hint of model_input as a signature, in place of the one that is logged with it.
    def predict(  # type: ignore[no-untyped-def]
        self, context: Any, model_input, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Reconstruct each row.

        Args:
            context: MLflow's context, unused.
            model_input: Table with the columns ``frontal`` and optionally ``lateral``: the bytes of PNG, JPEG or DICOM
                files.
            params: ``seed``, and the options of ``axon reconstruct``: ``trust_views``, ``no_level``, ``view``,
                ``crop``, ``rotate``, ``mirror`` and ``invert``, and these four with ``lateral_`` before them.

        Returns:
            pd.DataFrame: For each row ``ct_nifti_gz``, ``frontal_reprojection_mae`` (0 to 1), ``error`` and
                ``disclaimer``. A row that
            cannot be reconstructed costs only itself: its file is empty and ``error`` says why.
        """
        return pd.DataFrame([self._row(row, params or {}) for row in model_input.to_dict("records")])

    def _row(self, row: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        from axon import DISCLAIMER
        from axon.errors import AxonError
        from axon.reconstruct import nifti_bytes, sample

        try:
            made = sample(_films(row, params), self.model.pipeline, samples=0, seed=params.get("seed", 0))
            answer = {
                "ct_nifti_gz": nifti_bytes(made.output.volume),
                "frontal_reprojection_mae": made.reprojection_mae().get("frontal", float("nan")),
                "error": "",
            }
        except AxonError as error:
            answer = {"ct_nifti_gz": b"", "frontal_reprojection_mae": float("nan"), "error": str(error)}
        return {**answer, "disclaimer": DISCLAIMER}


def _films(row: dict[str, Any], params: dict[str, Any]) -> Films:
    from dataclasses import replace

    from axon.errors import AxonError
    from axon.reconstruct import asked_mends, asked_view, read_films

    # An absent film is empty or, as pandas has it, NaN where other rows have one, and None where the table lacks the
    # column.
    given = {view: film for view in ("frontal", "lateral") if isinstance(film := row.get(view), bytes) and film}
    if "frontal" not in given:
        raise AxonError("XRAY_MISSING", "the row has no frontal film", "send the file's content in base64")
    with TemporaryDirectory() as scratch:
        paths = {view: Path(scratch) / view for view in given}
        for view, content in given.items():
            paths[view].write_bytes(content)
        trust_views, said = params.get("trust_views", False), asked_view(params.get("view"))
        films = read_films(paths["frontal"], paths.get("lateral"), trust_views, asked_mends(params), said)
        return replace(films, level=not params.get("no_level", False))


mlflow.models.set_model(AxonModel())
