"""Known errors of the store: each ends as one line that says what to do, with exit code 2 and no run left RUNNING."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support import ROOT, elsewhere_environment

from nanogpt.commands.generate import generate
from nanogpt.model.checkpoint import Checkpoint, save_checkpoint
from nanogpt.tracking.run import TrackedRun
from nanogpt.tracking.store_errors import closed_in_any_case


@pytest.fixture
def store(model_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A database of the test's own."""
    path = tmp_path / "own.db"
    with sqlite3.connect(model_store.removeprefix("sqlite:///")) as source, sqlite3.connect(path) as copy:
        source.backup(copy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)     # set by set_experiment in other tests
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    mlflow.create_experiment("mine", str(tmp_path / "mlruns"))
    yield path
    mlflow.set_tracking_uri(None)


def write(trained: Checkpoint) -> Result:
    """A small program that opens a run and logs."""
    if not Path("model.pt").exists():
        save_checkpoint(trained, Path("model.pt"))
    return CliRunner().invoke(generate, ["--model", "model.pt", "--generate-characters", "5"])


def refused(result: Result) -> str:
    assert result.exit_code == 2 and "Traceback" not in result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


def statuses(path: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{path}")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def test_a_store_in_order_takes_the_run(store: Path, trained: Checkpoint) -> None:
    assert write(trained).exit_code == 0 and statuses(store) == ["FINISHED"]


def test_an_experiment_that_mlflow_ui_made(store: Path, trained: Checkpoint) -> None:
    with sqlite3.connect(store) as database:
        database.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/7' WHERE name = 'mine'")
    assert "set MLFLOW_TRACKING_URI to the server's address" in refused(write(trained))
    assert statuses(store) == ["FAILED"]


def test_a_deleted_experiment(store: Path, trained: Checkpoint) -> None:
    client = MlflowClient()
    client.delete_experiment(client.get_experiment_by_name("mine").experiment_id)
    assert "the experiment was deleted: restore it" in refused(write(trained))


@pytest.mark.parametrize(("error", "advice"), [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full: free some space"),
    (sqlite3.OperationalError("database or disk is full"), "the disk is full: free some space"),
    (sqlite3.OperationalError("database is locked"), "another program keeps the tracking store locked")])
def test_what_a_store_says_while_a_run_is_open(store: Path, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch,
                                               error: Exception, advice: str) -> None:
    def fail(*_: object) -> None:
        raise error if isinstance(error, OSError) else MlflowException(str(error)) from error

    monkeypatch.setattr(TrackedRun, "table", fail)
    assert advice in refused(write(trained))
    assert statuses(store) == ["FAILED"]


def test_a_run_that_a_lock_kept_open_is_closed_when_the_lock_is_gone(store: Path) -> None:
    run_id = MlflowClient().create_run(MlflowClient().get_experiment_by_name("mine").experiment_id).info.run_id
    writer = sqlite3.connect(store, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    threading.Timer(0.5, writer.rollback).start()
    with pytest.raises(OSError, match="gone"), closed_in_any_case() as ids:
        ids.append(run_id)
        raise OSError("gone")
    assert statuses(store) == ["FAILED"]


def test_a_relative_store_in_mlflow_run(store: Path, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.set_tracking_uri("sqlite:///relative.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0a1b")
    assert "must be absolute with mlflow run" in refused(write(trained))
    assert not Path("relative.db").exists()


@pytest.mark.parametrize(("uri", "message"), [
    ("sqlite:///folder", "a folder is none, got 'sqlite:///folder'"),
    ("sqlite:///text.txt", "the file is none, got 'sqlite:///text.txt'"),
    ("folder", "MLFLOW_TRACKING_URI must be a database"),
    ("foo://x", "MLFLOW_TRACKING_URI must be a database"),
    ("postgresql+psycopg://ada:secret@127.0.0.1:1/x", "must be a database that answers, got '127.0.0.1:1/x'"),
    ("mysql+nothing://127.0.0.1/x", "must be a database that answers")])
def test_an_address_that_is_no_store(store: Path, trained: Checkpoint, uri: str, message: str) -> None:
    Path("folder").mkdir()
    Path("text.txt").write_text("Boil the water.\n")
    mlflow.set_tracking_uri(uri)
    line = refused(write(trained))
    assert message in line and "secret" not in line


@pytest.mark.parametrize(("name", "value", "message"), [
    ("MLFLOW_EXPERIMENT_ID", "77", "MLFLOW_EXPERIMENT_ID must be the id of an experiment of this store"),
    ("MLFLOW_EXPERIMENT_NAME", "n" * 600, "a name is too long for the store"),
    ("MLFLOW_RUN_ID", "nothing", "MLFLOW_RUN_ID must be a run of the store")])
def test_names_that_the_store_does_not_know(store: Path, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch,
                                            name: str, value: str, message: str) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv(name, value)
    assert message in refused(write(trained))


SLEEPING = ("import time, click\nfrom nanogpt.commands import options\nfrom nanogpt.tracking.run import open_run\n"
            "@options.command()\n"
            "def study(config):\n    with open_run('outer'), open_run('inner'):\n        print('open', flush=True)\n"
            "        {}\nstudy()")


def signalled(store: Path, number: int, times: int = 1, sleep: str = "time.sleep(60)") -> tuple[int, str, float]:
    """The exit code of a program that is told to end while it has runs open, what it said, and after how long."""
    environment = elsewhere_environment(f"sqlite:///{store}") | {
        "MLFLOW_EXPERIMENT_NAME": "mine", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", SLEEPING.format(sleep)], cwd=store.parent, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == "open\n"
        time.sleep(0.1)
        began = time.monotonic()
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.2)
        said = process.communicate(timeout=30)[1]
        return process.returncode, said.splitlines()[-1] if said else "", time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_that_is_told_to_end_closes_its_runs_and_says_how_to_go_on(store: Path, number: int) -> None:
    code, line, seconds = signalled(store, number)
    assert code == 128 + number and seconds < 5
    assert line == f"stopped by signal {number}; the same command goes on from here (--resume off begins anew)"
    assert statuses(store) == ["KILLED", "KILLED"]


def test_a_program_that_cannot_end_in_order_ends_in_time_and_at_once_at_the_second_signal(store: Path) -> None:
    stubborn = "\n        while True:\n            try: time.sleep(60)\n            except SystemExit: pass"
    code, _, seconds = signalled(store, signal.SIGTERM, 1, stubborn)
    assert code == 128 + signal.SIGTERM and seconds < 5.5
    assert statuses(store) == ["KILLED", "KILLED"]
    code, _, seconds = signalled(store, signal.SIGINT, 2, stubborn)
    assert code == 128 + signal.SIGINT and seconds < 2
