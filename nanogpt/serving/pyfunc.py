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
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from nanogpt.attribution.maps import Attribution, attribute
from nanogpt.errors import UserError, require
from nanogpt.model.checkpoint import load_checkpoint
from nanogpt.model.generate import Sampling, texts_of, top_characters, writing
from nanogpt.serving.end_with_server import end_with_server
from nanogpt.serving.refuse_parameters import refuse_other_parameters
from nanogpt.serving.turns import LONG_ANSWERS, SECONDS, TURNS, Interrupted

TEXT, DISTRIBUTION, ATTRIBUTION = RETURNS = ("text", "distribution", "attribution")
PARAMETERS: dict[str, tuple[DataType, Any]] = {
    "max_new_tokens": (DataType.long, 200), "temperature": (DataType.double, 0.8), "top_k": (DataType.long, 0),
    "top_p": (DataType.double, 1.0), "seed": (DataType.long, 1), "return": (DataType.string, TEXT)}
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string)]), outputs=Schema([ColSpec(AnyType())]),
    params=ParamSchema([ParamSpec(name, kind, default) for name, (kind, default) in PARAMETERS.items()]))
SIGNATURE._is_signature_from_type_hint = True
"""So MLflow hands over what was sent as it was sent, and the model looks at the types itself. MLflow would read null as
the text "None" and a number as its digits, and drop all columns but the first."""
DEFAULTS = {name: default for name, (_, default) in PARAMETERS.items()}
EXAMPLE = (["The "], DEFAULTS | {"max_new_tokens": 5})    # MLflow runs it whenever a model is logged

LISTED_CHARACTERS = 5
MOST_LISTED = 20
MOST_PROMPTS = 32
MOST_PROMPT_CHARACTERS = 10_000
MOST_NEW_CHARACTERS = 10_000
CACHE_BYTES = 32_000_000
"""What an answer in progress may remember of its prompts."""
LONG_ANSWER = 1000
"""Characters from which on an answer is a long one, all its prompts together."""
LIMITS = (f"At most {MOST_PROMPTS} prompts of {MOST_PROMPT_CHARACTERS:,} characters, {MOST_NEW_CHARACTERS:,} new "
          f"characters and {SECONDS:g} seconds an answer; {LONG_ANSWERS} answers of more than {LONG_ANSWER:,} "
          "characters at once.")
THREADS = 1
"""CPU threads of a prediction: one character at a time leaves no work for more, and threads that wait for each other
on busy cores were seen to make it ten times slower (benchmarks/README.md)."""


def _load_pyfunc(path: str) -> ServedModel:
    """Load the model for MLflow; `path` is the checkpoint file inside the model's folder."""
    refuse_other_parameters(Model.load(Path(path).parents[1]).model_id, PARAMETERS)
    end_with_server(TURNS)
    return ServedModel(path)


class Refusal(MlflowException):
    """An answer that is not given, in one line: MLflow's server would put all prompts before it."""

    @property
    def message(self) -> str:
        return str(self.args[0])

    @message.setter
    def message(self, text: str) -> None:
        pass


class ServedModel:
    """Answers each prompt in the way that the parameter `return` names."""

    def __init__(self, path: str) -> None:
        self.checkpoint = load_checkpoint(path)
        self.model = self.checkpoint.build()

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[Any]:
        """Give one answer for each prompt, of the kind that the parameter `return` names.

        `text`: the prompt with what the model writes after it, `max_new_tokens` characters. `distribution`: at each
        position of the prompt the entropy (nats) of the next character and the likeliest ones, `top_k` of them or
        five. `attribution`: for each position of the prompt the character that follows (the likeliest one after the
        last), its probability, and the share of every character read so far. The last two read the last characters
        of a prompt, as many as the model's context holds, and name the prompt's `unknown` characters, which the
        model reads as one and the same.
        """
        try:
            prompts, parameters = prompts_of(model_input), parameters_of(params or {})
            with cpu_threads(THREADS):
                return getattr(self, parameters["return"])(prompts, parameters)
        except UserError as error:
            raise Refusal(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        except Interrupted as error:
            raise Refusal(str(error), error_code=TEMPORARILY_UNAVAILABLE) from error

    def text(self, prompts: list[str], parameters: Mapping[str, Any]) -> list[str]:
        is_long = parameters["max_new_tokens"] * len(prompts) > LONG_ANSWER
        with TURNS.long_answer() if is_long else contextlib.nullcontext():
            written = [text for texts in TURNS.in_turns(self.writing(prompts, parameters)) for text in texts]
        return [prompt + text for prompt, text in zip(prompts, written, strict=True)]

    def writing(self, prompts: list[str], parameters: Mapping[str, Any]) -> Iterator[list[str]]:
        """Write after as many prompts at once as CACHE_BYTES allow; yields an empty list a step, then their texts."""
        sampling = Sampling(parameters["temperature"], parameters["top_k"], parameters["top_p"])
        shape = self.checkpoint.model_config
        rows = max(1, CACHE_BYTES // (8 * shape.n_layer * shape.n_embd * shape.block_size))
        for begin in range(0, len(prompts), rows):
            group, steps = prompts[begin:begin + rows], list[str]()
            for step in writing(self.model, self.checkpoint.vocabulary, group, parameters["max_new_tokens"],
                                sampling=sampling, seeds=parameters["seed"]):
                steps.append(step)
                yield []
            yield texts_of(steps, len(group))

    def distribution(self, prompts: list[str], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        require(all(prompts), "prompt must have at least one character", "")
        require(0 <= parameters["top_k"] <= MOST_LISTED, f"top_k must be in [0, {MOST_LISTED}] for distribution",
                parameters["top_k"])
        count = parameters["top_k"] or LISTED_CHARACTERS
        answers = ({"prompt": prompt, "unknown": self.checkpoint.vocabulary.unknown_in(prompt),
                    "positions": positions(top_characters(self.model, self.checkpoint, prompt, count))}
                   for prompt in prompts)
        return list(TURNS.in_turns(answers))

    def attribution(self, prompts: list[str], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        answers = (answer for prompt in prompts for answer in attribute(self.model, self.checkpoint, [prompt]))
        return [{"prompt": result.prompt, "unknown": result.unknown, "targets": targets(result)}
                for result in TURNS.in_turns(answers)]


def prompts_of(sent: Any) -> list[str]:
    """Read the prompts: a text, a list of texts, or a table of one column. UserError for anything else."""
    if isinstance(sent, pd.DataFrame):
        require(sent.shape[1] == 1, "prompts must be one column", [str(column) for column in sent.columns])
        sent = sent.iloc[:, 0]
    prompts = [sent] if isinstance(sent, str) else sent.tolist() if hasattr(sent, "tolist") else sent
    require(isinstance(prompts, list), "prompts must be a list of texts", sent)
    require(1 <= len(prompts) <= MOST_PROMPTS, f"prompts must be 1 to {MOST_PROMPTS}", len(prompts))
    for prompt in prompts:
        require(isinstance(prompt, str), "prompt must be a text", prompt)
        require(len(prompt) <= MOST_PROMPT_CHARACTERS, f"prompt must have at most {MOST_PROMPT_CHARACTERS} characters",
                len(prompt))
    return prompts


def parameters_of(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Read the parameters. UserError for a value that is none of its kind; MLflow lets null pass."""
    parameters = DEFAULTS | dict(sent)
    for name, value in parameters.items():
        require(isinstance(value, str) == isinstance(DEFAULTS[name], str) and value is not None,
                f"{name} must be a {'text' if isinstance(DEFAULTS[name], str) else 'number'}", value)
    require(parameters["return"] in RETURNS, f"return must be one of {', '.join(RETURNS)}", parameters["return"])
    require(0 <= parameters["max_new_tokens"] <= MOST_NEW_CHARACTERS,
            f"max_new_tokens must be in [0, {MOST_NEW_CHARACTERS}]", parameters["max_new_tokens"])
    return parameters


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
