"""A folder for files on their way to or from the store: it goes with its process, or, where that was killed, with the
next one."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import IO

PREFIX = "nanogpt-"
LOCK = "in-use"
"""The file inside that a process holds locked for as long as it lives."""

_folder: list[tempfile.TemporaryDirectory[str]] = []
_lock: list[IO[str]] = []


def scratch_folder() -> str:
    """Make the folder of this process, and remove those of processes that were killed."""
    if not _folder:
        remove_abandoned()
        _folder.append(tempfile.TemporaryDirectory(prefix=PREFIX))
        lock = Path(_folder[0].name) / LOCK
        _lock.append(lock.with_suffix(".new").open("w"))
        fcntl.flock(_lock[0], fcntl.LOCK_EX)
        lock.with_suffix(".new").rename(lock)      # it is never seen unlocked
    return _folder[0].name


def scratch_path(name: str) -> Path:
    """Give a path of this name in a new folder that is removed when the process ends."""
    return Path(tempfile.mkdtemp(dir=scratch_folder())) / name


def remove_abandoned() -> None:
    """Remove the folders whose lock nobody holds; one without a lock is left, it may be about to get it."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError), lock.open("r+") as file:      # BlockingIOError: its process lives
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
