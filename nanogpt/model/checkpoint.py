"""A model at a step with everything needed to rebuild it; save, load, verify."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt.config import SPLIT_WAYS, ModelConfig
from nanogpt.errors import UserError, one_line, require
from nanogpt.model.gpt import GPT, count_weights
from nanogpt.model.payload import bytes_of, is_finite, load_payload, save_payload
from nanogpt.model.skip_initialization import skip_initialization
from nanogpt.text.vocabulary import Vocabulary

PARTS = {"model", "config", "vocabulary", "vocabulary_sha256", "step", "domain", "character_counts", "notes", "sha256"}
"""What a file has; and the digest of all of it (`payload.py`)."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,199}")
"""A domain's name, also "a-to-b" of an adapted model: it becomes part of file and model names."""
NOTE_TYPES: dict[str, type] = {"seed": int, "max_steps": int, "split": str}
"""The notes that are read."""
PLAIN = (str, int, float, bool, type(None))


class CheckpointError(UserError):
    """A file that was read is no whole checkpoint: another file than the one that was written."""


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


def weights_of(model: GPT) -> dict[str, Tensor]:
    """Copy the weights to the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> Path:
    """Write the checkpoint whole or not at all.

    FileExistsError where `path` is taken: none is ever overwritten. UserError where a weight is not finite.
    """
    if path.exists():
        raise FileExistsError(f"a checkpoint is never overwritten: {path}")
    require_finite(checkpoint)
    return save_payload(checkpoint.payload(), path, numbers=False)      # `sha256` is of them


def load_checkpoint(path: Path | str, name: str = "") -> Checkpoint:
    """Read and verify a checkpoint. UserError where it cannot be read, CheckpointError where it is none or was changed.

    An error names `name`, by default the path.
    The digest of files of earlier versions covers shape, vocabulary, weights and counts alone.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint must be an existing file, got {str(path)!r}")
    try:
        stored = load_payload(path, PARTS, numbers=False, earlier=True)
        checkpoint = Checkpoint(
            domain=stored["domain"], step=stored["step"], model_config=model_config_of(stored["config"]),
            vocabulary=Vocabulary("".join(stored["vocabulary"])), weights=stored["model"],
            character_counts_V=stored["character_counts"], notes=stored["notes"])
        check(checkpoint, stored["sha256"])
        require(checkpoint.vocabulary.sha256 == stored["vocabulary_sha256"], "vocabulary must have its SHA-256",
                checkpoint.vocabulary.sha256)
    except Exception as error:  # torch.load raises many kinds on foreign bytes, in many lines
        raise refusal("save_checkpoint", name or path, error) from error
    return checkpoint


def refusal(writer: str, path: Path | str, error: Exception) -> UserError:
    """Say in one line why a file is no checkpoint: our own reason, or the name of the error that came."""
    reason = str(error) if type(error) in (UserError, ValueError) else type(error).__name__
    kind = UserError if isinstance(error, OSError | MemoryError) else CheckpointError   # it may be whole all the same
    return kind(f"checkpoint must be a file written by {writer}, got {str(path)!r} ({one_line(reason)})")


def model_config_of(stored: Mapping[str, Any]) -> ModelConfig:
    """Read a model's shape. UserError where it is none: the types of its numbers count too."""
    types = {name: type(value) for name, value in asdict(ModelConfig()).items()}
    require(all(types.get(name) is type(value) for name, value in stored.items()), "config must be a model's shape",
            stored)
    return ModelConfig(**stored)


def check(checkpoint: Checkpoint, recorded: object) -> None:
    """Raise UserError for a checkpoint that no training of ours writes, or that has another SHA-256 than was recorded.

    Nothing is made of it before.
    """
    size, weights, counts_V = len(checkpoint.vocabulary), checkpoint.weights, checkpoint.character_counts_V
    require(bool(NAME.fullmatch(checkpoint.domain)), "domain must be a name", checkpoint.domain)
    require(type(checkpoint.step) is int and 0 <= checkpoint.step < 2**53, "step must be a number", checkpoint.step)
    held = sum(tensor.numel() for tensor in weights.values())
    expected = count_weights(checkpoint.model_config, size)
    require(held == expected, f"weights must be the {expected} of the shape", held)
    check_weights(weights, checkpoint.model_config, size)
    require_finite(checkpoint)
    require(counts_V.dtype is torch.int64 and counts_V.shape == (size,) and bool((counts_V >= 0).all()),
            f"character counts must be {size} whole numbers", f"{counts_V.dtype} {tuple(counts_V.shape)}")
    for name, value in checkpoint.notes.items():
        plain = isinstance(name, str) and type(value) in (NOTE_TYPES.get(name), *(() if name in NOTE_TYPES else PLAIN))
        require(plain, "notes must be plain values", {name: value})
    require(checkpoint.notes.get("split", SPLIT_WAYS[0]) in SPLIT_WAYS, "split must be a known one", checkpoint.notes)
    if checkpoint.sha256 != recorded:
        raise UserError(f"the weights must have their recorded SHA-256 {str(recorded)[:12]}…, got "
                        f"{checkpoint.sha256[:12]}…")


def check_weights(weights: Mapping[str, Tensor], config: ModelConfig, vocab_size: int) -> None:
    """Raise UserError where names, shapes or types are not those of the model of this shape."""
    expected = weight_shapes(config, vocab_size)
    found = {name: tensor.shape for name, tensor in weights.items() if tensor.dtype is torch.float32}
    wrong = [name for name in {**expected, **weights} if expected.get(name) != found.get(name)]
    require(not wrong, "weights must have the names, shapes and types of the model", wrong[:3])


@functools.lru_cache(maxsize=4)
def weight_shapes(config: ModelConfig, vocab_size: int) -> Mapping[str, torch.Size]:
    """List the names and shapes of a model's weights."""
    with skip_initialization():
        return {name: tensor.shape for name, tensor in GPT(config, vocab_size).state_dict().items()}


def require_finite(checkpoint: Checkpoint) -> None:
    """Raise UserError for weights that are not finite: those of a training that diverged are not kept."""
    wrong = [name for name, tensor in checkpoint.weights.items() if not is_finite(tensor)]
    require(not wrong, f"weights of {checkpoint.title} must be finite", wrong[:3])
