"""The states of a training: two are kept, and a spoilt one is left out with a word."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from nanogpt.config import Config
from nanogpt.study.train import STATES, keep_state, kept_state
from nanogpt.text.corpus import Corpus
from nanogpt.tracking.run import open_run
from nanogpt.training.loop import train


def test_two_states_are_kept_and_the_one_before_stands_in_for_a_spoilt_one(
        models: str, corpora: dict[str, Corpus], tiny_config: Config, caplog: pytest.LogCaptureFixture) -> None:
    first = next(train(corpora["math"], tiny_config)).state()
    logging.getLogger("nanogpt").propagate = True
    with open_run("train math") as run:
        for step in (5, 999_999_999, 10):
            keep_state(run, replace(first, step=step))
        assert run.files(STATES) == ["states/step_000000010.pt", "states/step_999999999.pt"]
        newest = Path(run.artifact("states/step_999999999.pt"))
        assert kept_state(run).step == 999_999_999  # type: ignore[union-attr]
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 4
        newest.write_bytes(content)
        assert kept_state(run).step == 10  # type: ignore[union-attr]
        assert "a state is left out: path must hold a training state, got" in caplog.text
        newest.write_bytes(b"half")         # cut off while it was written
        assert kept_state(run).step == 10  # type: ignore[union-attr]
        keep_state(run, replace(first, step=999_999_999))
        assert kept_state(run).step == 999_999_999  # type: ignore[union-attr]
        run.delete(*run.files(STATES))
        assert kept_state(run) is None
