"""A store begins wholly or not at all: a process is killed while it makes one, and several make one at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from support import ROOT, elsewhere_environment

from nanogpt.commands.registry import registry
from nanogpt.tracking.store_errors import check_writable

PROGRAM = """
import logging, mlflow
from nanogpt.tracking.new_store import create_missing_store
logging.basicConfig(level=logging.INFO)
create_missing_store()
assert mlflow.MlflowClient().search_registered_models() == []
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """A program that needs a store which may not be there yet."""
    environment = elsewhere_environment(f"sqlite:///{folder}/mlflow.db") | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, text=True,
                            stderr=subprocess.PIPE)


def test_a_killed_process_leaves_no_broken_store_and_several_at_once_make_one(tmp_path: Path) -> None:
    process, end = start(tmp_path), time.monotonic() + 60
    while not (tmp_path / "mlflow.db.new").exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    assert not (tmp_path / "mlflow.db").exists() and (tmp_path / "mlflow.db.lock").exists()
    several = [start(tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in several]
    assert [process.returncode for process in several] == [0, 0], said
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert any("another process is making the tracking store: waiting for it" in text for text in said)


@pytest.fixture
def own_store(model_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.db"
    with closing(sqlite3.connect(model_store.removeprefix("sqlite:///"))) as source, closing(
            sqlite3.connect(path)) as copy:
        source.backup(copy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    mlflow.set_tracking_uri(None)
    return path


def test_a_store_that_is_half_made_is_refused_with_the_way_out(own_store: Path) -> None:
    with closing(sqlite3.connect(own_store)) as database, database:
        database.execute("DELETE FROM alembic_version")
        database.execute("DROP TABLE logged_models")
    result = CliRunner().invoke(registry)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.exit_code == 2 and "move its file away" in line


def test_a_lock_is_waited_for_and_then_refused(own_store: Path) -> None:
    check_writable(own_store, seconds=0)
    with closing(sqlite3.connect(own_store, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ValueError, match="another program keeps the tracking store locked"):
            check_writable(own_store, seconds=0.3)


def test_a_server_that_does_not_answer_is_refused_before_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogpt.tracking.store_errors.SERVER_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    mlflow.set_tracking_uri(None)
    result = CliRunner().invoke(registry)
    assert result.exit_code == 2 and "must be the address of a server that answers" in result.stderr
