"""Commits to SQLite that do not wait for the disk.

MLflow makes about twenty commits for each checkpoint, and by default each waits until the disk has written it: a
quarter of the time of logging. With a write-ahead log and `synchronous=NORMAL` (https://sqlite.org/wal.html) a killed
process loses nothing; a power failure may take the last commits, but leaves a whole database. This file may go when
MLflow does the same itself.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Engine, event


def commit_lightly() -> None:
    """Let every connection to SQLite that this process opens from now on commit without waiting for the disk."""
    if not event.contains(Engine, "connect", set_pragmas):
        event.listen(Engine, "connect", set_pragmas)


def set_pragmas(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
