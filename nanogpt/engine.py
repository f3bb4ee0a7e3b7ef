"""Where speed lives: devices, precision, memory, and one optimizer step as fast as the device allows."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], Tensor]


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks instead of returning them to the system after each use.

    By default each activation over 128 kB is mapped afresh and its pages are zeroed by the kernel: 18 % of a
    training step on two cores (benchmarks/README.md). Elsewhere than on glibc it does nothing.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            trim_threshold, mmap_threshold, gigabyte = -1, -3, 1 << 30
            libc.mallopt(mmap_threshold, gigabyte)
            libc.mallopt(trim_threshold, gigabyte)


def resolve_device(name: str) -> torch.device:
    """`auto` is the best device there is. ValueError where the named one is absent."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name, False):
        raise ValueError(f"device must be one that this machine has ({', '.join(d for d in present if present[d])}), "
                         f"got {name!r}")
    keep_freed_memory()
    return torch.device(name)


def precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 matrix products on a GPU, the plain types elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def random_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a stream of its own inside the block and leave every global stream as it was."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def make_step(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Step:
    """A function of inputs and targets (B, T) that updates `model` once and returns the mean loss in nats."""
    device = next(model.parameters()).device

    def step(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with precision(device):
            logits_BTV = model(inputs_BT)
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step
