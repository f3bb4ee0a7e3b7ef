"""Devices by name, and random streams of their own."""

from __future__ import annotations

import pytest
import torch

from nanogpt.errors import UserError
from nanogpt.model.device import random_stream, resolve_device

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine with these devices beside its CPU, as torch would tell of it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in request.param)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in request.param)


@pytest.mark.parametrize(("machine", "best"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"),
                                               (("cuda", "mps"), "cuda")], indirect=["machine"])
def test_auto_is_the_best_device_there_is(machine: None, best: str) -> None:
    assert resolve_device("auto").type == best and resolve_device("cpu") == CPU


@pytest.mark.parametrize(("machine", "absent", "listed"), [((), "cuda", "cpu"), (("mps",), "cuda", "cpu, mps"),
                                                           (("cuda",), "mps", "cpu, cuda"), ((), "abacus", "cpu")],
                         indirect=["machine"])
def test_an_absent_device_is_refused_and_the_present_ones_are_named(machine: None, absent: str, listed: str) -> None:
    with pytest.raises(UserError, match=rf"device must be one that this machine has \({listed}\), got '{absent}'"):
        resolve_device(absent)


def test_a_stream_of_its_own_repeats_and_leaves_the_global_one() -> None:
    before = torch.get_rng_state()
    with random_stream(7, CPU):
        first = torch.rand(3)
    with random_stream(7, CPU):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)
