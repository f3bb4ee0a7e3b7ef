"""What the tests share: real text from installed packages, a tiny configuration, a checkpoint trained on it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch

from nanogpt import registry
from nanogpt.checkpoint import Checkpoint
from nanogpt.config import Config, ModelConfig, make_config
from nanogpt.corpus import Corpus, make_corpora
from nanogpt.domains import DOMAINS, DomainText, load_domain
from nanogpt.model import GPT
from nanogpt.tracking import open_run
from nanogpt.training import train

torch.set_num_threads(1)  # two OpenMP threads wait for each other for seconds where another process keeps a core busy
CHARACTERS = 40_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_study.py")


def domain_text(name: str, text: str) -> DomainText:
    """A text as `load_domain` would give it, for tests that make up their own."""
    return DomainText(name, text, "file", f"{name}.txt", "unknown", hashlib.sha256(text.encode()).hexdigest(),
                      len(text.encode()))


@pytest.fixture(scope="session")
def texts() -> list[DomainText]:
    """Real text of the three domains, the first 40 000 characters of each."""
    return [domain_text(name, load_domain(name).text[:CHARACTERS]) for name in DOMAINS]


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """2 layers × 32, context 32, 48 steps."""
    return make_config("smoke", max_steps=48, n_layer=2, n_head=2, n_embd=32, block_size=32, device="cpu")


@pytest.fixture(scope="session")
def corpora(texts: list[DomainText], tiny_config: Config) -> dict[str, Corpus]:
    return make_corpora(texts, tiny_config.data, tiny_config.model.block_size)


@pytest.fixture(scope="session")
def checkpoints(corpora: dict[str, Corpus], tiny_config: Config) -> list[Checkpoint]:
    """All checkpoints of one training on Shakespeare, step 0 first."""
    return [record.checkpoint for record in train(corpora["shakespeare"], tiny_config) if record.checkpoint]


@pytest.fixture(scope="session")
def trained(checkpoints: list[Checkpoint]) -> Checkpoint:
    return checkpoints[-1]


@pytest.fixture
def noisy_model() -> GPT:
    """A small model none of whose weights is zero, in float64: what an untrained model would hide shows in it."""
    return make_noisy_model(ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=12), 11)


def make_noisy_model(config: ModelConfig, vocab_size: int) -> GPT:
    model = GPT(config, vocab_size).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


def elsewhere_environment(tracking_uri: str) -> dict[str, str]:
    """The environment of a process of another user: the store and nothing else of this one, no repository."""
    inherited = {name: value for name, value in os.environ.items()
                 if not name.startswith("MLFLOW_") and name != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return inherited | QUIET | {"MLFLOW_TRACKING_URI": tracking_uri, "PATH": path}


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


@pytest.fixture(scope="session")
def model_store(checkpoints: list[Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store where the tiny training's checkpoints are registered as nanogpt-shakespeare."""
    folder = tmp_path_factory.mktemp("models")
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("domains", str(folder / "mlruns")))
    with open_run("train shakespeare") as run:
        for checkpoint in checkpoints:
            model_id = registry.log_model(checkpoint, run.checkpoint(checkpoint), {"step": checkpoint.step})
            version = registry.register(checkpoint, model_id, run.id, {"bits_per_byte": "4.0000"})
            registry.set_alias(version, "early" if checkpoint.step else "late")
    registry.set_alias(version, "late")
    mlflow.set_tracking_uri(None)
    return uri


@pytest.fixture
def models(model_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user in another folder who has set the store of `model_store`; its address."""
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(model_store)
    mlflow.set_experiment("domains")
    yield model_store
    mlflow.set_tracking_uri(None)


def browse(address: str, folder: Path) -> tuple[str, list[str]]:
    """The page as headless Chromium has it after its scripts, and what its console said."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
               "--enable-logging=stderr", "--virtual-time-budget=8000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
