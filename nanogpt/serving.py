"""The served model: MLflow runs this file to make the pyfunc model of a checkpoint ("models from code")."""

from __future__ import annotations

import warnings
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from nanogpt.checkpoint import load_checkpoint
from nanogpt.generation import Sampling, generate

CHECKPOINT = "checkpoint"
PARAMETERS: dict[str, tuple[DataType, Any]] = {
    "max_new_tokens": (DataType.long, 200), "temperature": (DataType.double, 0.8), "top_k": (DataType.long, 0),
    "top_p": (DataType.double, 1.0), "seed": (DataType.long, 1)}
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string)]), outputs=Schema([ColSpec(DataType.string)]),
    params=ParamSchema([ParamSpec(name, kind, default) for name, (kind, default) in PARAMETERS.items()]))


with warnings.catch_warnings(record=True):  # MLflow advises type hints on predict, which would drop SIGNATURE

    class ServedModel(PythonModel):
        """Prompts in, the prompts with what the model writes after them out."""

        def load_context(self, context: PythonModelContext) -> None:
            self.checkpoint = load_checkpoint(context.artifacts[CHECKPOINT])
            self.model = self.checkpoint.build()

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            asked = {name: default for name, (_, default) in PARAMETERS.items()} | (params or {})
            prompts = model_input.iloc[:, 0].tolist() if isinstance(model_input, pd.DataFrame) else list(model_input)
            sampling = Sampling(asked["temperature"], asked["top_k"], asked["top_p"])
            written = generate(self.model, self.checkpoint.vocabulary, prompts, asked["max_new_tokens"],
                               sampling=sampling, seeds=asked["seed"])
            return [prompt + text for prompt, text in zip(prompts, written, strict=True)]

    mlflow.models.set_model(ServedModel())
