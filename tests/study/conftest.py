"""The store of a whole smoke study, made by a real `mlflow run` of a git address, and a user of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from support import HAS_REPOSITORY, ROOT, free_port, mlflow_run, wait_for_port


@contextmanager
def git_server(folder: Path) -> Iterator[str]:
    """The address of this project as it stands, in a repository of its own that git serves.

    Without git, or without a repository (an unpacked archive), its folder, which `mlflow run` takes as well.
    """
    if not HAS_REPOSITORY:
        yield str(ROOT)
        return
    project, port = folder / "project.git", free_port()
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             check=True, capture_output=True).stdout
    names = [name for name in tracked.decode().split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    for command in (["init", "-q", "-b", "main"], ["add", "-f", "."],
                    ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "as it stands"]):
        subprocess.run(["git", "-C", project, *command], check=True)
    daemon = ["git", "daemon", "--export-all", f"--base-path={folder}", "--listen=127.0.0.1", f"--port={port}"]
    with subprocess.Popen(daemon, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port, process)
            yield f"git://127.0.0.1:{port}/project.git"
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a smoke study that `mlflow run` of a git address made."""
    folder = tmp_path_factory.mktemp("store")
    created = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    created.create_experiment("domains", artifact_location=str(folder / "mlruns"))
    with git_server(tmp_path_factory.mktemp("git")) as project:
        done = mlflow_run(folder, "main", "preset=smoke", f"storage={folder}/optuna.journal", project=project,
                          experiment="domains")
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture
def client(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """A user in another folder who has set MLFLOW_TRACKING_URI."""
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    mlflow.set_experiment("domains")
    yield MlflowClient()
    mlflow.set_tracking_uri(None)
