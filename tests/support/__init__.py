"""Functions that several tests call: texts and models made up, ports, a browser, another user's environment."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
import torch
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

from nanogpt.config import ModelConfig
from nanogpt.model.checkpoint import Checkpoint, save_checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.text.sources import DomainText
from nanogpt.tracking import registry
from nanogpt.tracking.run import TrackedRun, open_run
from nanogpt.tracking.scratch import scratch_path

ROOT = Path(__file__).parents[2]
HAS_REPOSITORY = shutil.which("git") is not None and (ROOT / ".git").exists()


def domain_text(name: str, text: str) -> DomainText:
    """A text as `load_domain` would give it, for tests that make up their own."""
    return DomainText(name, text, "file", f"{name}.txt", "unknown", hashlib.sha256(text.encode()).hexdigest(),
                      len(text.encode()))


def make_noisy_model(config: ModelConfig, vocab_size: int) -> GPT:
    model = GPT(config, vocab_size).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def log_file(run: TrackedRun, checkpoint: Checkpoint) -> Path:
    """A checkpoint as an artifact of a run, as trainings log it; returns the local copy."""
    path = save_checkpoint(checkpoint, scratch_path(checkpoint.file_name))
    run.file(path, "checkpoints")
    return path


def make_model_store(folder: Path, *trainings: Sequence[Checkpoint]) -> str:
    """The address of a new store where the checkpoints of each training are registered, the last one as `late`."""
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("domains", str(folder / "mlruns")))
    for checkpoints in trainings:
        with open_run(f"train {checkpoints[0].domain}") as run:
            for checkpoint in checkpoints:
                model_id = registry.log_model(checkpoint, log_file(run, checkpoint), {"step": checkpoint.step}, run.id)
                logged = registry.ToRegister(checkpoint, model_id, {"bits_per_byte": "4.0000"})
                (version,) = registry.register([logged], run.id)
                registry.set_alias(version, "early" if checkpoint.step else "late")
        registry.set_alias(version, "late")
    mlflow.set_tracking_uri(None)
    return uri


QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


def elsewhere_environment(tracking_uri: str) -> dict[str, str]:
    """The environment of a process of another user: the store and nothing else of this one, no repository."""
    inherited = {name: value for name, value in os.environ.items()
                 if not name.startswith("MLFLOW_") and name != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return inherited | QUIET | {"MLFLOW_TRACKING_URI": tracking_uri, "PATH": path}


def mlflow_run(folder: Path, entry_point: str, *parameters: str, project: str = str(ROOT),
               experiment: str = "") -> subprocess.CompletedProcess[str]:
    """`mlflow run` of this project, as the README says it, with the store `mlflow.db` of a folder of the test."""
    command = [sys.executable, "-m", "mlflow", "run", project, "-e", entry_point, "--env-manager", "local",
               *(("--experiment-name", experiment) if experiment else ()),
               *(word for parameter in parameters for word in ("-P", parameter))]
    return subprocess.run(command, cwd=folder, env=elsewhere_environment(f"sqlite:///{folder}/mlflow.db"),
                          capture_output=True, text=True, timeout=170)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert process.poll() is None, "the server ended"
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(port)


@contextmanager
def tracking_server(folder: Path, database: str = "") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address and the process of an MLflow server with its files in a folder; it ends with all that it started.

    Its store is the database of this address, else a file there.
    """
    port, database = free_port(), database or f"sqlite:///{folder}/server/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database,
               "--artifacts-destination", str(folder / "artifacts"), "--workers", "1", "--port", str(port)]
    (folder / "server").mkdir()
    environment = elsewhere_environment("") | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log, subprocess.Popen(
            command, cwd=folder / "server", env=environment, stdout=log, stderr=log,
            start_new_session=True) as process:
        try:
            wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}", process
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)


@contextmanager
def served_model(model_uri: str, tracking_uri: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address and the process of `mlflow models serve`, as the README says it."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri, "--env-manager", "local", "-p",
               str(port)]
    with (folder / "log").open("w") as log, subprocess.Popen(
            command, cwd=folder, env=elsewhere_environment(tracking_uri), stdout=log, stderr=log) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/invocations", process
        finally:
            process.terminate()


def chromium_path() -> str:
    """Where Chromium is; the test is skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    return chromium


@contextmanager
def steered_browser() -> Iterator[WebDriver]:
    """A headless Chromium that a test steers."""
    driver = shutil.which("chromedriver")
    if not driver:
        pytest.skip("no chromedriver is installed: apt-get install chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium_path()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,900"):
        options.add_argument(argument)
    with Chrome(options=options, service=Service(driver)) as browser:
        yield browser


def show_as(browser: WebDriver, width: int, scheme: str) -> None:
    """Make a browser as wide as a phone, in light or dark."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True})


def browse(address: str, folder: Path) -> tuple[str, list[str]]:
    """The page as headless Chromium has it after its scripts, and what its console said."""
    command = [chromium_path(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
               "--enable-logging=stderr", "--virtual-time-budget=8000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
