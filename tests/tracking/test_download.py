"""Downloads: no file is left behind, and a local store keeps its own (a store elsewhere: test_server.py)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import nanogpt
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint


def test_loading_from_a_local_store_keeps_the_stores_own_file(models: str, tmp_path: Path, trained: Checkpoint,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        assert nanogpt.load("models:/nanogpt-shakespeare@late").sha256 == trained.sha256
        with pytest.raises(UserError, match="model must exist"):
            nanogpt.load("models:/nanogpt-shakespeare/99")
        assert list(tmp_path.iterdir()) == []
