"""What a run's environment says: the device that the configuration means, not the best one there is."""

from __future__ import annotations

import pytest
import torch

from nanogpt.config import make_config
from nanogpt.errors import UserError
from nanogpt.tracking.environment import environment


def test_the_device_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert environment(make_config("smoke", device="cpu"))["device"] == "cpu"
    assert environment(make_config("smoke", device="cuda"))["device"] == "a GPU"
    assert environment(make_config("smoke", device="cuda"))["training_type"] == "bfloat16"
    assert environment(make_config("smoke", device="cuda", precision="float32"))["training_type"] == "float32"
    assert environment(make_config("smoke", device="auto"))["device"] == "a GPU"


def test_without_a_gpu_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert environment(make_config("smoke"))["device"] == "cpu"
    with pytest.raises(UserError, match="device must be one that this machine has"):
        environment(make_config("smoke", device="cuda"))
