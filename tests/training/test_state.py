"""States of trainings: whole, verified, and of the training that they are given to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.config import Config
from nanogpt.errors import UserError
from nanogpt.model.gpt import GPT
from nanogpt.model.payload import DIGEST, save_payload
from nanogpt.text.corpus import Corpus
from nanogpt.training.loop import train
from nanogpt.training.state import TrainingState, load_state, optimizer_shapes, save_state, shapes_of


@pytest.fixture(scope="module")
def states(corpora: dict[str, Corpus], tiny_config: Config) -> list[TrainingState]:
    """States at steps 0 and 10 of the tiny training."""
    records = train(corpora["math"], tiny_config)
    return [next(records).state(), next(record for record in records if record.step == 10).state()]


@pytest.fixture
def path(states: list[TrainingState], tmp_path: Path) -> Path:
    return save_state(states[1], tmp_path / "state.pt")


def test_what_is_read_is_what_was_written(states: list[TrainingState], path: Path) -> None:
    for state in states:
        found = load_state(save_state(state, path))
        assert (found.step, found.seconds, found.identity) == (state.step, state.seconds, state.identity)
        assert all(torch.equal(found.weights[name], tensor) for name, tensor in state.weights.items())
        assert str(found.optimizers) == str(state.optimizers)


def test_the_shapes_that_optimizers_keep_are_those_that_they_are_said_to(states: list[TrainingState],
                                                                          corpora: dict[str, Corpus],
                                                                          tiny_config: Config) -> None:
    model = GPT(tiny_config.model, len(corpora["math"].vocabulary))
    kept = [{i: shapes_of(of_weight) for i, of_weight in optimizer["state"].items()}
            for optimizer in states[1].optimizers]
    assert kept == optimizer_shapes(model)


@pytest.mark.parametrize(("name", "value"), [("step", 9), ("seconds", 1.5), ("weights", {}), ("optimizers", []),
                                             ("identity", {})])
def test_a_changed_state_is_refused(path: Path, name: str, value: object) -> None:
    torch.save(torch.load(path, weights_only=True) | {name: value}, path)
    with pytest.raises(UserError, match=r"path must hold a training state, got .* recorded SHA-256") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_a_state_and_a_state_of_an_earlier_version_are_refused(path: Path, tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(1)}, tmp_path / "other.pt")
    whole = path.read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[:len(whole) // 2])
    payload = torch.load(path, weights_only=True)
    del payload[DIGEST]
    torch.save(payload, tmp_path / "earlier.pt")
    for name, reason in (("other.pt", "other parts"), ("half.pt", "BadZipFile"), ("earlier.pt", "an earlier version")):
        with pytest.raises(UserError, match=f"path must hold a training state, got .*{reason}"):
            load_state(tmp_path / name)


def changed(state: TrainingState, name: str) -> dict[str, Any]:
    """Change a state into one that agrees with itself and with no training."""
    payload = {item.name: getattr(state, item.name) for item in dataclasses.fields(state)}
    muon, adam = state.optimizers
    first, head = adam["state"][0], state.weights["head.weight"]
    wrong_adam = {"nan": {"exp_avg": first["exp_avg"] * torch.nan}, "row": {"exp_avg": first["exp_avg"][:1].clone()},
                  "type": {"exp_avg_sq": first["exp_avg_sq"].double()}}
    changes: dict[str, Any] = {
        "step": {"step": -1}, "past the end": {"step": 1000}, "text": {"step": "ten"},
        "never": {"seconds": float("inf")},
        "identity": {"identity": {}}, "one optimizer": {"optimizers": [muon]}, "no optimizer": {"optimizers": [3, 4]},
        "weights": {"weights": {name: weight[:1].clone() for name, weight in state.weights.items()}},
        "weight": {"weights": state.weights | {"head.weight": torch.full_like(head, torch.inf)}},
        "forgetful": {"optimizers": [{**muon, "state": {}}, adam]}}
    if name in wrong_adam:
        changes[name] = {"optimizers": [muon, {**adam, "state": adam["state"] | {0: first | wrong_adam[name]}}]}
    return payload | changes[name]


@pytest.mark.parametrize("name", ["step", "past the end", "text", "never", "identity", "one optimizer", "no optimizer",
                                  "weights", "weight", "forgetful", "nan", "row", "type"])
def test_a_state_that_agrees_with_itself_and_with_no_training_is_refused(
        states: list[TrainingState], corpora: dict[str, Corpus], tiny_config: Config, path: Path, name: str) -> None:
    save_payload(changed(states[1], name), path)
    with pytest.raises(UserError) as caught:
        next(train(corpora["math"], tiny_config, load_state(path)))
    assert "\n" not in str(caught.value)


def test_what_a_state_says_of_rates_does_not_count(states: list[TrainingState], corpora: dict[str, Corpus],
                                                   tiny_config: Config, path: Path) -> None:
    payload = changed(states[1], "step") | {"step": states[1].step}
    for optimizer in payload["optimizers"]:
        (group,) = optimizer["param_groups"]
        group |= {"weight_decay": 0.5, "initial_lr": 9.0}
    save_payload(payload, path)
    whole, resumed = ([*train(corpora["math"], tiny_config, state)][-1] for state in (None, load_state(path)))
    assert whole.checkpoint is not None and resumed.checkpoint is not None
    assert resumed.checkpoint.sha256 == whole.checkpoint.sha256
