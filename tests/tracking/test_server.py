"""A team's server: PostgreSQL, artifacts through the server, names and passwords; started here and removed after."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from support import elsewhere_environment, free_port
from support.database import postgres
from werkzeug.security import generate_password_hash

import nanogpt
from nanogpt.commands.registry import registry as registry_command
from nanogpt.commands.train import train

NAME, PASSWORD = "ada", "a-long-password"


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
                make_passwords_cheap(folder / "auth.db")
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def make_passwords_cheap(database: Path) -> None:
    """The server hashes the password two or three times for each request, 0.1 s each: here by one round."""
    with closing(sqlite3.connect(database)) as users, users:
        cheap = generate_password_hash(PASSWORD, method="pbkdf2:sha256:1")
        assert users.execute("UPDATE users SET password_hash = ?", (cheap,)).rowcount == 1


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


def test_a_training_is_kept_by_a_server_and_its_model_comes_back_by_name(user: str, tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(train, ["--domain", "math", "--preset", "smoke", "--max-steps", "4",
                                        "--checkpoints", "1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (run,) = mlflow.search_runs(filter_string="tags.phase = 'train'", output_format="list")
    assert run.info.status == "FINISHED" and run.info.artifact_uri.startswith("mlflow-artifacts:")
    checkpoint = nanogpt.load(f"runs:/{run.info.run_id}/checkpoints/final.pt")
    assert checkpoint.step == 4 and checkpoint.sha256 == nanogpt.load("models:/nanogpt-math@best").sha256
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for uri in ("models:/nanogpt-math@best", f"runs:/{run.info.run_id}/checkpoints/final.pt"):
        assert nanogpt.load(uri).sha256 == checkpoint.sha256
        assert list(tmp_path.iterdir()) == [], "a download is removed once it is read"
    assert "best" in CliRunner().invoke(registry_command).output
    assert list(tmp_path.iterdir()) == []     # nothing is written beside the user


def test_a_wrong_password_is_one_line(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    result = CliRunner().invoke(registry_command)
    assert result.exit_code == 2 and "MLFLOW_TRACKING_PASSWORD" in result.stderr and "Traceback" not in result.output
