"""What the tests share: real text from installed packages, a tiny configuration, a checkpoint trained on it."""

from __future__ import annotations

import hashlib

import pytest
import torch

from nanogpt.checkpoint import Checkpoint
from nanogpt.config import Config, ModelConfig, make_config
from nanogpt.corpus import Corpus, make_corpora
from nanogpt.domains import DOMAINS, DomainText, load_domain
from nanogpt.model import GPT
from nanogpt.training import train

torch.set_num_threads(1)  # two OpenMP threads wait for each other for seconds where another process keeps a core busy
CHARACTERS = 40_000


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
