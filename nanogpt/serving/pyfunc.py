"""The served model: what MLflow loads and calls. It travels with every checkpoint (`bundle.py`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from nanogpt.attribution.maps import Attribution, attribute
from nanogpt.errors import UserError, require
from nanogpt.model.checkpoint import load_checkpoint
from nanogpt.model.generate import Sampling, generate, top_characters
from nanogpt.serving.refuse_parameters import refuse_other_parameters

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
THREADS = 1
"""CPU threads of a prediction: one character at a time leaves no work for more, and threads that wait for each other
on busy cores were seen to make it ten times slower (benchmarks/README.md)."""


def _load_pyfunc(path: str) -> ServedModel:
    """Load the model for MLflow; `path` is the checkpoint file inside the model's folder."""
    refuse_other_parameters(Model.load(Path(path).parents[1]).model_id, PARAMETERS)
    return ServedModel(path)


class ServedModel:
    """Answers each prompt in the way that the parameter `return` names."""

    def __init__(self, path: str) -> None:
        self.checkpoint = load_checkpoint(path)
        self.model = self.checkpoint.build()

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> list[Any]:
        """Give one answer for each prompt, of the kind that the parameter `return` names.

        `text`: the prompt with what the model writes after it, `max_new_tokens` characters. `distribution`: at each
        position of the prompt the entropy (nats) of the next character and the likeliest ones, `top_k` of them or
        five. `attribution`: for each position of the prompt the character that follows (the likeliest one after the
        last), its probability, and the share of every character read so far. The last two read the last characters
        of a prompt, as many as the model's context holds, and name the prompt's `unknown` characters, which the
        model reads as one and the same.
        """
        parameters = DEFAULTS | dict(params or {})
        prompts = model_input.iloc[:, 0].tolist()
        try:
            kind = parameters["return"]
            require(kind in RETURNS, f"return must be one of {', '.join(RETURNS)}", kind)
            with cpu_threads(THREADS):
                return getattr(self, kind)(prompts, parameters)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def text(self, prompts: list[str], parameters: Mapping[str, Any]) -> list[str]:
        sampling = Sampling(parameters["temperature"], parameters["top_k"], parameters["top_p"])
        written = generate(self.model, self.checkpoint.vocabulary, prompts, parameters["max_new_tokens"],
                           sampling=sampling, seeds=parameters["seed"])
        return [prompt + text for prompt, text in zip(prompts, written, strict=True)]

    def distribution(self, prompts: list[str], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        require(all(prompts), "prompt must have at least one character", "")
        require(parameters["top_k"] >= 0, "top_k must be >= 0", parameters["top_k"])
        count = parameters["top_k"] or LISTED_CHARACTERS
        return [{"prompt": prompt, "unknown": self.checkpoint.vocabulary.unknown_in(prompt),
                 "positions": positions(top_characters(self.model, self.checkpoint, prompt, count))}
                for prompt in prompts]

    def attribution(self, prompts: list[str], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"prompt": result.prompt, "unknown": result.unknown, "targets": targets(result)}
                for result in attribute(self.model, self.checkpoint, prompts)]


def positions(ranked: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make one entry for each position, from one row for each position and rank."""
    return [{"character": group[0]["character"], "entropy_nats": group[0]["entropy_nats"],
             "top": [{"character": row["candidate"], "probability": row["probability"]} for row in group]}
            for group in (list(rows) for _, rows in groupby(ranked, key=itemgetter("position")))]


def targets(result: Attribution) -> list[dict[str, Any]]:
    """Make one entry for each predicted character, with the share of each character read so far."""
    shares, probabilities = result.share_TS.tolist(), result.probability_T.tolist()
    return [{"character": character, "probability": probabilities[t], "shares": shares[t][:t + 1]}
            for t, character in enumerate(result.targets)]


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Give `count` CPU threads to what the calling thread computes inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
