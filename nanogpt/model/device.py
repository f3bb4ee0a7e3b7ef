"""Devices, their precision, and random streams that leave all others alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from nanogpt.errors import UserError

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

def resolve_device(name: str) -> torch.device:
    """Find a device by name; `auto` is the best there is. UserError where the named one is absent."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name, False):
        raise UserError(f"device must be one that this machine has ({', '.join(d for d in present if present[d])}), "
                         f"got {name!r}")
    return torch.device(name)


def memory_bytes(device: torch.device) -> int:
    """Say how much memory the device has in all; on a CPU as much as this process may take."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):      # ValueError: "max", no limit
        sizes.append(int(CONTAINER_LIMIT.read_text()))
    return min(sizes)


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether the device multiplies matrices of bfloat16 in hardware: tensor cores, AVX512-BF16, AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def training_type(device: torch.device, precision: str) -> torch.dtype:
    """Name the type of a training's matrix products; `auto` is bfloat16 where the device has it in hardware."""
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def scoring_type(device: torch.device) -> torch.dtype:
    """Name the type of matrix products where a model is scored: bfloat16 on a GPU, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def products_in(kind: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Have the matrix products of float32 tensors in this type, inside the block."""
    return contextlib.nullcontext() if kind is torch.float32 else torch.autocast(device.type, dtype=kind)


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
