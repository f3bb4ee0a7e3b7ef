"""Several processes that train one model: what they learn is what one process learns, and they end together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT
from support.launches import log_of, torchrun
from support.train_in_processes import inputs, result

from nanogpt.model.launch import launch
from nanogpt.text.sources import DomainText
from nanogpt.training.processes import handed_out, own_share, world_size

SETTINGS = {"max_steps": 40, "batch_size": 8, "device": "cpu", "log_every": 10}
TOLERANCES = {"float32": (1e-5, 1e-4, 1e-5), "bfloat16": (1e-2, 5e-2, 5e-3)}
"""By precision: of a training loss, in nats; of a weight; and of all weights, in the root of the mean square.

In bfloat16 the embedding is compared by the last alone: in the row of a rare character Adam follows the sign of a
gradient that is mostly rounding, and single weights differ by up to 6e-2.
"""


@pytest.fixture
def text(texts: list[DomainText], tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text(texts[0].text)
    return path


def in_processes(text: Path, count: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process ends with."""
    folder = text.parent
    process = torchrun(folder, count, str(ROOT / "tests/support/train_in_processes.py"), str(text), str(folder),
                       json.dumps(settings))
    assert process.wait(120) == 0, log_of(folder)[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def largest_difference(a: dict[Any, Any], b: dict[Any, Any]) -> float:
    assert a.keys() == b.keys()
    return max(float((torch.as_tensor(a[key]) - torch.as_tensor(b[key])).abs().max()) for key in a)


def mean_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The root of the mean square over all weights."""
    squares = torch.cat([(a["weights"][name] - b["weights"][name]).square().flatten() for name in b["weights"]])
    return float(squares.mean().sqrt())


@pytest.mark.parametrize("precision", TOLERANCES)
def test_two_processes_learn_what_one_learns(text: Path, precision: str) -> None:
    settings = SETTINGS | {"precision": precision}
    first, second = in_processes(text, 2, settings)
    alone = result(*inputs(text, settings))
    exact = {name for name in alone["weights"] if precision == "float32" or name != "embedding.weight"}
    of_losses, of_weights = largest_difference(first["losses"], alone["losses"]), largest_difference(
        *({name: each["weights"][name] for name in exact} for each in (first, alone)))
    mean = mean_difference(first, alone)
    print(f"{precision}: losses differ by at most {of_losses:.2g} nats, weights by {of_weights:.2g}, mean {mean:.2g}")
    assert first["losses"] == second["losses"] and largest_difference(first["weights"], second["weights"]) == 0
    assert of_losses <= TOLERANCES[precision][0] and of_weights <= TOLERANCES[precision][1]
    assert mean <= TOLERANCES[precision][2]
    assert of_losses > 0, "each process must have had its own share"


def test_with_dropout_all_processes_make_the_same_update(text: Path) -> None:
    first, second = in_processes(text, 2, SETTINGS | {"dropout": 0.2})
    assert first["losses"] == second["losses"] and largest_difference(first["weights"], second["weights"]) == 0
    assert first["losses"][40] < first["losses"][10]


@pytest.mark.slow
def test_all_leave_a_training_when_the_first_does(text: Path) -> None:
    """They are in step afterwards: the next training is as ever."""
    left = in_processes(text, 2, SETTINGS | {"records": 2})
    whole = in_processes(text, 2, SETTINGS)
    assert [own["losses"] for own in left] == [own["losses"] for own in whole]


def test_a_process_alone_is_in_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_SB = torch.arange(6).view(2, 3)
    assert world_size() == 1 and own_share(rows_SB) is not None and torch.equal(own_share(rows_SB), rows_SB)
    assert handed_out("work") == "work" and not torch.distributed.is_initialized()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")       # another program's: the launcher has not started this one
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch() is None
