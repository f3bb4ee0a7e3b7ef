"""What the tests share: real text from installed packages, a tiny configuration, a checkpoint trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from support import domain_text, make_model_store, make_noisy_model

from nanogpt.config import Config, ModelConfig, make_config
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, make_corpora
from nanogpt.text.sources import DomainText, load_domain
from nanogpt.training.loop import train

torch.set_num_threads(1)  # two OpenMP threads wait for each other for seconds where another process keeps a core busy
CHARACTERS = 40_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def texts() -> list[DomainText]:
    """Real text of the three default domains, the first 40 000 characters of each."""
    return [domain_text(name, load_domain(name).text[:CHARACTERS]) for name in make_config().data.domain_specs]


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


@pytest.fixture(scope="session")
def model_store(checkpoints: list[Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store where the tiny training's checkpoints are registered as nanogpt-shakespeare."""
    return make_model_store(tmp_path_factory.mktemp("models"), checkpoints)


@pytest.fixture
def models(model_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user in another folder who has set the store of `model_store`; its address."""
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(model_store)
    mlflow.set_experiment("domains")
    yield model_store
    mlflow.set_tracking_uri(None)
