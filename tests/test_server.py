"""A team's server: PostgreSQL, artifacts through the server, names and passwords; started here and removed after."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from conftest import elsewhere_environment

import nanogpt
from entrypoints.registry import registry as registry_command
from nanogpt import registry
from nanogpt.checkpoint import Checkpoint
from nanogpt.config import Config
from nanogpt.tracking import open_run

NAME, PASSWORD = "ada", "a-long-password"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def postgres_binary(name: str) -> str | None:
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return shutil.which(name, path=os.pathsep.join([*places, os.environ["PATH"]]))


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a database of our own; PostgreSQL refuses to run as root, so then as `nobody`."""
    initdb, server = postgres_binary("initdb"), postgres_binary("postgres")
    if not initdb or not server:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    user = "nobody" if os.geteuid() == 0 else None
    folder, port = Path(tempfile.mkdtemp(prefix="nanogpt-postgres-")), free_port()
    try:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        subprocess.run([initdb, "-D", folder / "data", "-U", NAME, "-A", "trust", "--no-sync"], user=user, cwd=folder,
                       check=True, capture_output=True)
        command = [server, "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
        with subprocess.Popen(command, user=user, cwd=folder, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for_port(port, process)
                yield f"postgresql://{NAME}@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGQUIT)     # at once: what it keeps is removed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert process.poll() is None, "the server ended"
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(port)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow server` with proxied artifacts and basic auth on PostgreSQL."""
    pytest.importorskip("flask_wtf", reason="basic auth needs the extra mlflow[auth]")
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = {NAME}\n"
        f"admin_password = {PASSWORD}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n")
    environment = elsewhere_environment("") | {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with postgres() as database, (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--artifacts-destination",
                   str(folder / "artifacts"), "--app-name", "basic-auth", "--workers", "1", "--port", str(port)]
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as process:
            try:
                for _ in range(1200):
                    assert process.poll() is None, (folder / "log").read_text()
                    try:
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                        break
                    except OSError:
                        time.sleep(0.1)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


@pytest.fixture
def user(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user in an empty folder who has set address, name and password."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", NAME)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    mlflow.set_tracking_uri(server)
    mlflow.set_experiment("team")
    yield server
    mlflow.set_tracking_uri(None)


def test_a_run_is_kept_by_a_server_and_its_model_comes_back_by_name(user: str, trained: Checkpoint, tmp_path: Path,
                                                                    tiny_config: Config) -> None:
    with open_run("train", tiny_config) as run:
        model_id = registry.log_model(trained, run.checkpoint(trained, "final.pt"), {})
        run.metrics({"validation/bits_per_byte": 3.0}, trained.step, model_id)
        registry.set_alias(registry.register(trained, model_id, run.id, {"bits_per_byte": "3.0000"}), "late")
    stored = mlflow.get_run(run.id)
    assert stored.info.status == "FINISHED" and stored.info.artifact_uri.startswith("mlflow-artifacts:")
    checkpoint = nanogpt.load(f"runs:/{run.id}/checkpoints/final.pt")
    assert checkpoint.sha256 == nanogpt.load("models:/nanogpt-shakespeare@late").sha256 == trained.sha256
    assert "late" in CliRunner().invoke(registry_command).output
    assert list(tmp_path.iterdir()) == []     # nothing is written beside the user


def test_a_wrong_password_is_one_line(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    result = CliRunner().invoke(registry_command)
    assert result.exit_code == 2 and "MLFLOW_TRACKING_PASSWORD" in result.stderr and "Traceback" not in result.output
