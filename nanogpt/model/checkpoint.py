"""A model at a step with everything needed to rebuild it; save, load, verify."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.errors import UserError
from nanogpt.model.gpt import GPT
from nanogpt.model.skip_initialization import skip_initialization
from nanogpt.text.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights on the CPU, the shape that they fit, the vocabulary, and where in which training they stood."""

    domain: str
    step: int
    model_config: ModelConfig
    vocabulary: Vocabulary
    weights: Mapping[str, Tensor] = field(repr=False)
    character_counts_V: Tensor = field(repr=False)    # of the training text: what the model has seen
    notes: Mapping[str, Any] = field(default_factory=dict)   # plain values: seed, preset, corpus SHA-256, parent …

    @property
    def file_name(self) -> str:
        """Name the file: `iter_000500.pt`."""
        return f"iter_{self.step:06d}.pt"

    @property
    def title(self) -> str:
        return f"{self.domain} step {self.step}"

    @cached_property
    def sha256(self) -> str:
        """Digest shape, vocabulary, weights and character counts: equal digests mean equal evaluations on any text."""
        head = [asdict(self.model_config), self.vocabulary.characters]
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for name, tensor in sorted({**self.weights, "character_counts": self.character_counts_V}.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(bytes_of(tensor))
        return digest.hexdigest()

    def build(self, device: torch.device | str = "cpu") -> GPT:
        """Build the model, in evaluation mode; a new one at each call."""
        with torch.device(device), skip_initialization():
            model = GPT(self.model_config, len(self.vocabulary))
        model.load_state_dict(self.weights)
        return model.eval()

    def payload(self) -> dict[str, Any]:
        """Give plain values and tensors, which `torch.load(weights_only=True)` reads."""
        return {"model": dict(self.weights), "config": asdict(self.model_config),
                "vocabulary": list(self.vocabulary.characters), "vocabulary_sha256": self.vocabulary.sha256,
                "step": self.step, "domain": self.domain, "character_counts": self.character_counts_V,
                "notes": dict(self.notes), "sha256": self.sha256}


def bytes_of(tensor: Tensor) -> bytes:
    """Copy the numbers of a tensor on the CPU as they lie in memory (`.numpy()` would need numpy)."""
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes)


def weights_of(model: GPT) -> dict[str, Tensor]:
    """Copy the weights to the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it becomes `path` when the block ends well, else it vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> Path:
    """Write the checkpoint whole or not at all. FileExistsError where `path` is taken: none is ever overwritten."""
    if path.exists():
        raise FileExistsError(f"a checkpoint is never overwritten: {path}")
    with atomic_path(path) as temporary:
        torch.save(checkpoint.payload(), temporary)
    return path


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read and verify a checkpoint. UserError where the file is missing, is no checkpoint or was changed."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint must be an existing file, got {str(path)!r}")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint = Checkpoint(
            domain=stored["domain"], step=stored["step"], model_config=ModelConfig(**stored["config"]),
            vocabulary=Vocabulary("".join(stored["vocabulary"])), weights=stored["model"],
            character_counts_V=stored["character_counts"], notes=stored["notes"])
        recorded, actual = str(stored["sha256"]), checkpoint.sha256
    except Exception as error:  # torch.load raises many kinds on foreign bytes, in many lines
        raise UserError(f"checkpoint must be a file written by save_checkpoint, got {str(path)!r} "
                         f"({type(error).__name__})") from error
    if actual != recorded:
        raise UserError(f"checkpoint must have its recorded SHA-256 {recorded[:12]}…, got {actual[:12]}… "
                         f"in {str(path)!r}")
    return checkpoint
