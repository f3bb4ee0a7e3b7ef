"""Laws of a transfer and of its tuning."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from nanogpt.checkpoint import Checkpoint
from nanogpt.config import Config
from nanogpt.corpus import Corpus, Split
from nanogpt.evaluation import evaluate
from nanogpt.transfer import adapt, batches, few_shot_windows
from nanogpt.tuning import best_rate, open_study, tune


class Closed:
    """A split that must not be read."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"test text was read: {name}")


def with_transfer(config: Config, **changes: object) -> Config:
    return dataclasses.replace(config, transfer=dataclasses.replace(config.transfer, **changes))


def final_weights(checkpoint: Checkpoint, target: Corpus, config: Config, rate: float, seed: int = 1) -> Checkpoint:
    *_, last = adapt(checkpoint, target, config, rate, seed=seed)
    assert last.checkpoint is not None
    return last.checkpoint


def test_fewer_shots_are_the_first_of_more(corpora: dict[str, Corpus]) -> None:
    split = corpora["math"].train
    many = few_shot_windows(split, 32, 64, seed=3)
    for shots in (1, 4, 16):
        assert torch.equal(few_shot_windows(split, 32, shots, seed=3), many[:shots])
    assert not torch.equal(few_shot_windows(split, 32, 64, seed=4), many)
    assert len({tuple(window.tolist()) for window in many}) == 64
    with pytest.raises(ValueError, match=r"shots must be at most the \d+ windows .*, got 100000"):
        few_shot_windows(split, 32, 100_000, seed=3)


def test_an_epoch_of_batches_shows_every_window_once() -> None:
    windows = torch.arange(8)[:, None].expand(8, 3)
    shown = torch.cat([inputs[:, 0] for inputs, _ in batches(windows, 2, 4, seed=1)])
    assert sorted(shown.tolist()) == list(range(8))
    ((inputs, _),) = batches(windows[:3], 16, 1, seed=1)
    assert sorted(inputs[:, 0].tolist()) == [0, 1, 2]


def test_no_steps_or_no_rate_is_the_zero_shot_cell(trained, corpora, tiny_config) -> None:
    target = corpora["math"]
    split = target.validation.head(tiny_config.transfer.curve_characters)
    zero_shot = evaluate(trained.build(), trained, split).bits_per_byte
    (point,) = adapt(trained, target, with_transfer(tiny_config, transfer_steps=0), 0.01, seed=1)
    assert point.bits_per_byte == zero_shot
    assert all(point.bits_per_byte == zero_shot for point in adapt(trained, target, tiny_config, 0.0, seed=1))


def test_the_source_stays_as_it_was_and_the_target_is_learnt(trained, corpora, tiny_config) -> None:
    before = trained.sha256
    config = with_transfer(tiny_config, transfer_steps=20, shots=128)
    points = list(adapt(trained, corpora["math"], config, 0.003, seed=1))
    assert points[-1].bits_per_byte < points[0].bits_per_byte
    assert dataclasses.replace(trained).sha256 == before
    assert points[-1].checkpoint.notes["parent_sha256"] == before
    assert [point.checkpoint is not None for point in points] == [False] * (len(points) - 1) + [True]


def test_the_seed_decides(trained, corpora, tiny_config) -> None:
    same = [final_weights(trained, corpora["math"], tiny_config, 0.003).sha256 for _ in range(2)]
    assert same[0] == same[1] != final_weights(trained, corpora["math"], tiny_config, 0.003, seed=2).sha256


@pytest.fixture
def sealed(corpora: dict[str, Corpus]) -> Corpus:
    """A target whose test text raises when it is read."""
    corpus = corpora["math"]
    row = corpus.row()

    class Sealed(Corpus):
        def row(self) -> dict[str, object]:
            return row

    closed: Split = Closed()  # type: ignore[assignment]
    return Sealed(corpus.source, corpus.train, corpus.validation, closed)


def test_tuning_reads_no_test_text_and_resumes_where_it_stopped(trained, sealed, tiny_config, tmp_path: Path) -> None:
    config = with_transfer(tiny_config, trials=6, transfer_steps=3)
    at_once = list(tune(open_study(trained, sealed, config, str(tmp_path / "a")), trained, sealed, config))
    journal = str(tmp_path / "b")
    half = with_transfer(config, trials=3)
    list(tune(open_study(trained, sealed, half, journal), trained, sealed, half))
    open_study(trained, sealed, config, journal).ask()  # a process that was killed in a trial
    resumed = list(tune(open_study(trained, sealed, config, journal), trained, sealed, config))
    assert [(t.learning_rate, t.validation_bits_per_byte, t.state) for t in resumed] == [
        (t.learning_rate, t.validation_bits_per_byte, t.state) for t in at_once]
    assert len(at_once) == 6
    assert all(config.transfer.rate_low <= t.learning_rate <= config.transfer.rate_high for t in at_once)
    losses = [t.validation_bits_per_byte for t in at_once if t.validation_bits_per_byte is not None]
    best = next(t for t in at_once if t.validation_bits_per_byte == min(losses))
    assert best_rate(at_once) == best.learning_rate


def test_no_finite_loss_is_said(trained, sealed, tiny_config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one finite loss, got none in 0 trials"):
        best_rate([])
