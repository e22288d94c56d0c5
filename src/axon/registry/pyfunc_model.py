"""AXON as an MLflow pyfunc model, logged as code: loading it executes this file and reads safetensors and JSON, never a pickle."""

from __future__ import annotations

from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np


class AxonModel(mlflow.pyfunc.PythonModel):
    """X-rays in, HU volume out."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged as the artifact ``model``."""
        from axon.inference import AxonPipeline

        self.pipeline = AxonPipeline.from_pretrained(context.artifacts["model"])

    # MLflow would read a type hint of model_input as a signature, which cannot express an optional film.
    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Reconstruct.

        Args:
            context: MLflow's context, unused.
            model_input: A mapping: ``frontal``, and ``lateral`` where there is one: arrays as `AxonPipeline` takes them.
            params: Unused.

        Returns:
            HU volume, shape (D, H, W).
        """
        return np.asarray(self.pipeline(model_input["frontal"], model_input.get("lateral")).volume.hu_DHW)


mlflow.models.set_model(AxonModel())
