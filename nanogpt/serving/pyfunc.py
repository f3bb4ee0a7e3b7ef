"""The served model: what MLflow loads and calls. It travels with every checkpoint (`bundle.py`)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc.context import get_prediction_context
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from nanogpt.attribution.maps import Attribution, attribute
from nanogpt.errors import UserError, require
from nanogpt.model.checkpoint import load_checkpoint
from nanogpt.model.generate import Sampling, generate, top_characters

TEXT, DISTRIBUTION, ATTRIBUTION = RETURNS = ("text", "distribution", "attribution")
PARAMETERS: dict[str, tuple[DataType, Any]] = {
    "max_new_tokens": (DataType.long, 200), "temperature": (DataType.double, 0.8), "top_k": (DataType.long, 0),
    "top_p": (DataType.double, 1.0), "seed": (DataType.long, 1), "return": (DataType.string, TEXT)}
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string)]), outputs=Schema([ColSpec(AnyType())]),
    params=ParamSchema([ParamSpec(name, kind, default) for name, (kind, default) in PARAMETERS.items()]))
DEFAULTS = {name: default for name, (_, default) in PARAMETERS.items()}
EXAMPLE = (["The "], DEFAULTS | {"max_new_tokens": 5})    # MLflow runs it whenever a model is logged

LISTED_CHARACTERS = 5
loaded_ids: set[str | None] = set()    # of the logged models that this code was loaded for
THREADS = 1
"""CPU threads of a prediction: one character at a time leaves no work for more, and threads that wait for each other
on busy cores were seen to make it ten times slower (benchmarks/README.md)."""


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry; `path` is the checkpoint file inside the model's folder."""
    loaded_ids.add(Model.load(Path(path).parents[1]).model_id)
    logging.getLogger("mlflow.models.utils").addFilter(refuse_unknown_parameters)
    return ServedModel(path)


class ServedModel:
    """Prompts in; one answer for each prompt out, of the kind that the parameter `return` names."""

    def __init__(self, path: str) -> None:
        self.checkpoint = load_checkpoint(path)
        self.model = self.checkpoint.build()

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> list[Any]:
        """`text`: each prompt with what the model writes after it, `max_new_tokens` characters.

        `distribution`: at each position of the prompt the entropy (nats) of the next character and the likeliest
        ones, `top_k` of them or five. `attribution`: for each position of the prompt the character that follows
        (the likeliest one after the last), its probability, and the share of every character read so far. Both
        read the last characters of a prompt, as many as the model's context holds, and name the prompt's `unknown`
        characters, which the model reads as one and the same.
        """
        asked = DEFAULTS | dict(params or {})
        prompts = model_input.iloc[:, 0].tolist()
        try:
            require(asked["return"] in RETURNS, f"return must be one of {', '.join(RETURNS)}", asked["return"])
            with cpu_threads(THREADS):
                return getattr(self, asked["return"])(prompts, asked)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def text(self, prompts: list[str], asked: Mapping[str, Any]) -> list[str]:
        sampling = Sampling(asked["temperature"], asked["top_k"], asked["top_p"])
        written = generate(self.model, self.checkpoint.vocabulary, prompts, asked["max_new_tokens"],
                           sampling=sampling, seeds=asked["seed"])
        return [prompt + text for prompt, text in zip(prompts, written, strict=True)]

    def distribution(self, prompts: list[str], asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        require(all(prompts), "prompt must have at least one character", "")
        require(asked["top_k"] >= 0, "top_k must be >= 0", asked["top_k"])
        count = asked["top_k"] or LISTED_CHARACTERS
        return [{"prompt": prompt, "unknown": self.checkpoint.vocabulary.unknown_in(prompt),
                 "positions": positions(top_characters(self.model, self.checkpoint, prompt, count))}
                for prompt in prompts]

    def attribution(self, prompts: list[str], asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"prompt": found.prompt, "unknown": found.unknown, "targets": targets(found)}
                for found in attribute(self.model, self.checkpoint, prompts)]


def positions(ranked: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each position, from one row for each position and rank."""
    return [{"character": group[0]["character"], "entropy_nats": group[0]["entropy_nats"],
             "top": [{"character": row["candidate"], "probability": row["probability"]} for row in group]}
            for group in (list(rows) for _, rows in groupby(ranked, key=itemgetter("position")))]


def targets(found: Attribution) -> list[dict[str, Any]]:
    """One entry for each predicted character, with the share of each character read so far."""
    shares, probabilities = found.share_TS.tolist(), found.probability_T.tolist()
    return [{"character": character, "probability": probabilities[t], "shares": shares[t][:t + 1]}
            for t, character in enumerate(found.targets)]


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """`count` CPU threads for what the calling thread computes inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def refuse_unknown_parameters(record: logging.LogRecord) -> bool:
    """A filter of MLflow's log: MLflow drops a parameter that the signature lacks and warns; here that is an error.

    Predictions of other models in the process are told apart by the id of their logged model.
    """
    context = get_prediction_context()
    message = record.getMessage()
    if context and context.model_id in loaded_ids and message.startswith("Unrecognized params"):
        unknown = message.removeprefix("Unrecognized params ").partition(" are ")[0]
        raise MlflowException.invalid_parameter_value(
            f"parameters must be among {', '.join(PARAMETERS)}, got {unknown}")
    return True
