"""What does not fit into memory is refused before the first step, with the estimate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nanogpt.config import make_config
from nanogpt.errors import UserError
from nanogpt.model import device
from nanogpt.model.device import memory_bytes
from nanogpt.study.checks import check_cache, check_memory, training_bytes
from nanogpt.text.corpus import Corpus


def test_a_training_that_does_not_fit_is_refused_with_the_estimate(corpora: dict[str, Corpus]) -> None:
    check_memory(make_config("standard", device="cpu"), corpora.values())
    for changes in ({"batch_size": 10**7}, {"n_embd": 65_536, "n_layer": 4, "block_size": 8},
                    {"max_steps": 10**8, "batch_size": 10**4},
                    {"block_size": 65_536, "n_embd": 8, "batch_size": 10**4}):
        with pytest.raises(UserError, match=r"must fit into the [\d.]+ GB of this .*, got 'about [\d.]+ GB'"):
            check_memory(make_config("quick", device="cpu", **changes), corpora.values())


def test_the_estimate_grows_with_all_that_takes_memory() -> None:
    least = training_bytes(make_config("smoke"), 100)
    for changes in ({"n_layer": 3}, {"n_embd": 64}, {"block_size": 64}, {"batch_size": 16}, {"max_steps": 10**6}):
        assert training_bytes(make_config("smoke", **changes), 100) > least
    assert training_bytes(make_config("smoke"), 1000) > least


def test_a_container_may_take_less_than_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, expected in (("1000000\n", 1_000_000), ("max\n", None)):
        (tmp_path / "limit").write_text(content)
        monkeypatch.setattr(device, "CONTAINER_LIMIT", tmp_path / "limit")
        found = memory_bytes(torch.device("cpu"))
        assert found == expected if expected else found > 10**9


def test_a_cache_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="cache must be a folder, got"):
        check_cache(make_config("smoke", cache=str(tmp_path / "file")))
    check_cache(make_config("smoke", cache=str(tmp_path / "none")))
