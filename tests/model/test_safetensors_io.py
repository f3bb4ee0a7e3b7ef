"""A checkpoint as safetensors: the same logits after reload, nothing lost, foreign and changed files refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nanogpt
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.safetensors_io import load_safetensors, save_safetensors


def test_logits_agree_after_reload_and_nothing_is_lost(trained: Checkpoint, tmp_path: Path) -> None:
    path = save_safetensors(trained, tmp_path / "model.safetensors")
    loaded = nanogpt.load(str(path))
    ids_BT = torch.arange(24).view(2, 12)
    assert torch.equal(loaded.build()(ids_BT), trained.build()(ids_BT))
    assert loaded.payload().keys() == trained.payload().keys()
    assert (loaded.sha256, loaded.step, loaded.domain, loaded.notes) == (
        trained.sha256, trained.step, trained.domain, trained.notes)


def test_any_reader_of_safetensors_finds_the_weights(trained: Checkpoint, tmp_path: Path) -> None:
    found = load_file(save_safetensors(trained, tmp_path / "model.safetensors"))
    assert all(torch.equal(found[name], weight) for name, weight in trained.weights.items())


def test_a_missing_a_foreign_and_a_changed_file_are_refused(trained: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="must be an existing file, got"):
        load_safetensors(path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="written by save_safetensors"):
        load_safetensors(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="written by save_safetensors"):
        load_safetensors(path)
    changed = bytearray(save_safetensors(trained, path).read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="recorded SHA-256"):
        load_safetensors(path)
