"""The beginning of a store: a new database is there wholly or not at all, whoever makes it and whenever it is killed.

MLflow makes the tables of a new SQLite file in place, one after the other: a kill, or a second process, in the first
second leaves a file that cannot be used.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow

log = logging.getLogger("nanogpt")


def create_missing_store() -> None:
    """Make the SQLite database of the tracking store where it is not there yet; others that need it wait for it.

    Called where a store is first read or written: what is refused before leaves none behind.
    """
    scheme, _, path = mlflow.get_tracking_uri().partition(":///")
    file = Path(path.partition("?")[0])
    if scheme == "sqlite" and path != ":memory:" and not is_there(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_name(f"{file.name}.lock")):
            if not is_there(file):
                create(file)


def is_there(file: Path) -> bool:
    """Tell whether a database has been begun: an empty file is none yet."""
    return file.is_file() and file.stat().st_size > 0


def create(file: Path) -> None:
    """Make the database beside its place and move it there; what an earlier process has left of one is removed."""
    # here: half a second of imports, which a store that is there need not spend
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = file.with_name(f"{file.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    SqlAlchemyStore(f"sqlite:///{folder / file.name}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
    os.replace(folder / file.name, file)
    shutil.rmtree(folder)


@contextlib.contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold the lock, and remove its file at the end: by then the database is there, which whoever waits looks for."""
    with lock.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is making the tracking store: waiting for it")
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
        lock.unlink(missing_ok=True)
