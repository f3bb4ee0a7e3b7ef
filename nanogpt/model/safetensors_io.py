"""A checkpoint as one safetensors file: weights that other programs read without running any code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nanogpt.errors import UserError, require
from nanogpt.model.checkpoint import Checkpoint, check, model_config_of, refusal, require_finite
from nanogpt.model.payload import DIGEST, atomic_path, digest_of
from nanogpt.text.vocabulary import Vocabulary

COUNTS = "character_counts"
FACTS = {"domain", "step", "config", "vocabulary", "notes", "sha256"}


def save_safetensors(checkpoint: Checkpoint, path: Path) -> Path:
    """Write weights and character counts as tensors, and everything else as JSON texts in the file's metadata.

    UserError where the file cannot be written, or a weight is not finite.
    """
    require(path.is_file() or not path.exists(), "output must be a file that can be written", str(path))
    require_finite(checkpoint)
    tensors = {**checkpoint.weights, COUNTS: checkpoint.character_counts_V}
    facts = {"domain": checkpoint.domain, "step": checkpoint.step, "config": asdict(checkpoint.model_config),
             "vocabulary": checkpoint.vocabulary.characters, "notes": dict(checkpoint.notes),
             "sha256": checkpoint.sha256}
    metadata = {**facts, DIGEST: digest_of([facts, tensors], numbers=False)}
    try:
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary,
                      metadata={name: json.dumps(value) for name, value in metadata.items()})
    except (OSError, SafetensorError) as error:
        raise UserError(f"output must be a file that can be written, got {str(path)!r} ({error})") from error
    return path


def load_safetensors(path: Path | str) -> Checkpoint:
    """Read and verify a checkpoint. UserError where the file is missing, changed or not from `save_safetensors`."""
    require(Path(path).is_file(), "checkpoint must be an existing file", str(path))
    try:
        with safe_open(path, "pt") as file:
            facts = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        recorded = facts.pop(DIGEST, None)      # files of earlier versions have none
        require(facts.keys() == FACTS, f"metadata must be {', '.join(sorted(FACTS))}", sorted(facts))
        require(recorded in (None, digest_of([facts, tensors], numbers=False)),
                "the file must have its recorded SHA-256", recorded)
        checkpoint = Checkpoint(
            domain=facts["domain"], step=facts["step"], model_config=model_config_of(facts["config"]),
            vocabulary=Vocabulary(facts["vocabulary"]), character_counts_V=tensors.pop(COUNTS), weights=tensors,
            notes=facts["notes"])
        check(checkpoint, facts["sha256"])
    except Exception as error:    # of the format, of its JSON, of values of other types
        raise refusal("save_safetensors", path, error) from error
    return checkpoint
