"""Which process does a work, so that another one can tell whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """Name this process by its host, its number and the time when it was started."""
    return named(psutil.Process())


def parent_process() -> dict[str, Any]:
    """Name the process that has started this one."""
    return named(psutil.Process(os.getppid()))


def named(process: psutil.Process) -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def is_dead(process: Mapping[str, Any] | None) -> bool:
    """Tell whether a process is provably dead: of this host, and gone, or its number is another process's by now."""
    if process is None or process["host"] != socket.gethostname():
        return False
    try:
        return psutil.Process(process["pid"]).create_time() != process["started"]
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
