"""Devices, their precision, and random streams that leave all others alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from nanogpt.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Find a device by name; `auto` is the best there is. UserError where the named one is absent."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name, False):
        raise UserError(f"device must be one that this machine has ({', '.join(d for d in present if present[d])}), "
                         f"got {name!r}")
    return torch.device(name)


def precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Have matrix products in bfloat16 on a GPU, in the plain types elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def random_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a stream of its own inside the block and leave every global stream as it was."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would move the streams of all devices
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        if device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
