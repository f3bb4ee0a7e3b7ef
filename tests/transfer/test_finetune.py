"""Laws of a transfer and of its tuning."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import optuna
import pytest
import torch
from support import domain_text

from nanogpt.config import Config
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nanogpt.text.corpus import Corpus, Split, make_corpora
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, adapt, batches, extend_vocabulary, few_shot_windows
from nanogpt.transfer.tuning import (
    PROCESS,
    RunningTrial,
    Trial,
    ask,
    best_rate,
    open_study,
    pair_title,
    run_trials,
    shared_rate,
    study_name,
    this_process,
    tune,
)


class Closed:
    """A split that must not be read."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"test text was read: {name}")


def with_transfer(config: Config, **changes: object) -> Config:
    return dataclasses.replace(config, transfer=dataclasses.replace(config.transfer, **changes))


def curve(checkpoint: Checkpoint, target: Corpus, config: Config, rate: float, seed: int = 1) -> list[AdaptationPoint]:
    """The learning curve of one fine-tuning by itself."""
    return [point for (point,) in adapt([FineTuning(checkpoint, target, rate, seed)], config)]


def final_weights(checkpoint: Checkpoint, target: Corpus, config: Config, rate: float, seed: int = 1) -> Checkpoint:
    last = curve(checkpoint, target, config, rate, seed)[-1].checkpoint
    assert last is not None
    return last


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
    windows = torch.arange(16).view(2, 8, 1).expand(2, 8, 3)
    shown = torch.stack([inputs[:, 0].view(2, 2) for inputs, _ in batches(windows, 2, 4, seeds=(1, 5))])
    assert [sorted(shown[:, member].flatten().tolist()) for member in (0, 1)] == [[*range(8)], [*range(8, 16)]]
    assert not torch.equal(shown[:, 0], shown[:, 1] - 8)
    ((inputs, _),) = batches(windows[:1, :3], 16, 1, seeds=(1,))
    assert sorted(inputs[:, 0].tolist()) == [0, 1, 2]


def test_no_steps_or_no_rate_is_the_zero_shot_cell(trained, corpora, tiny_config) -> None:
    target = corpora["math"]
    split = target.validation.spread(tiny_config.transfer.curve_characters)
    zero_shot = evaluate(trained.build(), trained, split).bits_per_byte
    (point,) = curve(trained, target, with_transfer(tiny_config, transfer_steps=0), 0.01)
    assert point.bits_per_byte == zero_shot
    assert all(point.bits_per_byte == zero_shot for point in curve(trained, target, tiny_config, 0.0))


def test_the_source_stays_as_it_was_and_the_target_is_learnt(trained, corpora, tiny_config, tmp_path: Path) -> None:
    before = trained.sha256
    source = save_checkpoint(trained, tmp_path / "source.pt")
    held = source.read_bytes()
    config = with_transfer(tiny_config, transfer_steps=20, shots=128)
    points = curve(load_checkpoint(source), corpora["math"], config, 0.003)
    assert points[-1].bits_per_byte < points[0].bits_per_byte
    assert source.read_bytes() == held and dataclasses.replace(trained).sha256 == before
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


def opened(source: Checkpoint, target: Corpus, config: Config, journal: Path) -> optuna.Study:
    return open_study(study_name([(source, target)], pair_title(source, target), config), str(journal))


def tuned(sources: list[Checkpoint], target: Corpus, config: Config, journal: Path) -> list[list[Trial]]:
    """The trials of a study for each source."""
    return tune([opened(source, target, config, journal) for source in sources],
                [[(source, target)] for source in sources], config)


def begin_and_die(study: optuna.Study, number: int, config: Config) -> None:
    """Begin a trial in a process of its own, which is killed at once."""
    if not (child := os.fork()):
        ask(study, number, config)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_opening_a_study_closes_the_trials_of_dead_processes_alone(trained, sealed, tiny_config,
                                                                   tmp_path: Path) -> None:
    study = opened(trained, sealed, tiny_config, tmp_path / "journal")
    begin_and_die(study, 0, tiny_config)
    live = ask(study, 1, tiny_config)
    elsewhere = ask(study, 2, tiny_config)
    elsewhere.set_user_attr(PROCESS, {"host": "another", "pid": 1, "started": 0.0})
    reused = ask(study, 3, tiny_config)
    reused.set_user_attr(PROCESS, this_process() | {"started": 0.0})
    again = opened(trained, sealed, tiny_config, tmp_path / "journal")
    assert [trial.state.name for trial in again.get_trials()] == ["FAIL", "RUNNING", "RUNNING", "FAIL"]
    assert study.tell(live, 2.0).value == 2.0


def test_each_member_of_a_batch_is_scored_on_its_own_validation_text(trained, corpora, tiny_config) -> None:
    math = corpora["math"]
    short = dataclasses.replace(math, validation=math.validation.spread(301))
    config = with_transfer(tiny_config, curve_characters=1000)
    together = list(adapt([FineTuning(trained, target, 0.003, 1) for target in (short, math)], config))
    for i, target in enumerate((short, math)):
        for points, (alone,) in zip(together, adapt([FineTuning(trained, target, 0.003, 1)], config), strict=True):
            assert points[i].bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-5)
    first = evaluate(trained.build(), trained, math.validation.spread(1000)).bits_per_byte
    assert together[0][1].bits_per_byte == pytest.approx(first, rel=1e-6)


def test_an_adapted_model_has_seen_its_shots_alone(trained, corpora, tiny_config) -> None:
    config = with_transfer(tiny_config, shots=4)
    adapted = final_weights(trained, corpora["math"], config, 0.003)
    new_V = adapted.character_counts_V - trained.character_counts_V
    windows = few_shot_windows(corpora["math"].train, 32, 4, seed=1)
    assert int(new_V.sum()) == 4 * 33 and torch.equal(new_V, torch.bincount(windows.flatten(), minlength=len(new_V)))
    unmoved = final_weights(trained, corpora["math"], with_transfer(config, transfer_steps=0), 0.003)
    assert torch.equal(unmoved.character_counts_V, trained.character_counts_V)


def test_the_best_rate_is_that_of_the_lowest_end_and_never_a_pruned_one() -> None:
    trials = [Trial(0, 0.1, 3.0, 3.0, "complete"), Trial(1, 0.2, 2.0, 2.0, "complete"),
              Trial(2, 0.3, None, 1.0, "pruned"), Trial(3, 0.4, 2.0, 2.0, "complete")]
    assert best_rate(trials) == 0.2


def test_tuning_finds_a_rate_that_is_better_than_most(trained, sealed, tiny_config, tmp_path: Path) -> None:
    config = with_transfer(tiny_config, trials=12, transfer_steps=12, rate_low=1e-6, rate_high=1.0)
    (trials,) = tuned([trained], sealed, config, tmp_path / "journal")
    chosen = curve(trained, sealed, config, best_rate(trials))[-1].bits_per_byte
    others = [curve(trained, sealed, config, 10.0**exponent)[-1].bits_per_byte for exponent in range(-6, 1)]
    assert sum(chosen < other for other in others) >= 5


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_tuning_reads_no_test_text_and_resumes_where_it_stopped(trained, sealed, tiny_config, tmp_path: Path,
                                                                sampler: str) -> None:
    config = with_transfer(tiny_config, trials=6, transfer_steps=3, sampler=sampler)
    (at_once,) = tuned([trained], sealed, config, tmp_path / "a")
    journal = tmp_path / "b"
    for trials in (0, 3):  # a process that was killed in its first trial, and one in its fourth
        study = opened(trained, sealed, config, journal)
        for number in range(trials):
            trial = RunningTrial(ask(study, number, config), [(trained, sealed)], config)
            run_trials([trial], config)
            trial.end(study)
        begin_and_die(study, trials, config)
    (resumed,) = tuned([trained], sealed, config, journal)
    assert [(t.learning_rate, t.validation_bits_per_byte, t.state) for t in resumed] == [
        (t.learning_rate, t.validation_bits_per_byte, t.state) for t in at_once]
    assert len(at_once) == 6
    if sampler == "grid":
        assert sorted(t.learning_rate for t in at_once) == pytest.approx(config.transfer.grid_rates)
    assert all(config.transfer.rate_low <= t.learning_rate <= config.transfer.rate_high for t in at_once)
    losses = [t.validation_bits_per_byte for t in at_once if t.validation_bits_per_byte is not None]
    best = next(t for t in at_once if t.validation_bits_per_byte == min(losses))
    assert best_rate(at_once) == best.learning_rate


def test_a_trial_of_several_pairs_is_the_mean_of_their_lowest_losses(checkpoints, corpora, tiny_config,
                                                                     tmp_path: Path) -> None:
    """Whether they train one by one or as one model; each pair's own trial is what it would be alone."""
    config = with_transfer(tiny_config, trials=3, transfer_steps=6, curve_points=3, rate_low=1e-3, rate_high=1.0,
                           tuning_seeds=2)
    pairs = [(checkpoints[-1], corpora["math"]), (checkpoints[2], corpora["wikipedia"])]
    found = []
    for together in (1, 3):
        own = with_transfer(config, together=together)
        study = open_study(study_name(pairs, "both", own), str(tmp_path / str(together)))
        (trials,) = tune([study], [pairs], own)
        found.append(sorted(trials, key=lambda trial: trial.learning_rate))
    for trial, stacked in zip(*found, strict=True):
        assert stacked.validation_bits_per_byte == pytest.approx(trial.validation_bits_per_byte, rel=1e-4)
        if trial.by_pair:
            assert trial.validation_bits_per_byte == pytest.approx(sum(trial.by_pair) / 2)
            for number, pair in enumerate(pairs):
                lowest = [min(p.bits_per_byte for p in curve(*pair, config, trial.learning_rate, seed))
                          for seed in (10_001, 10_002)]
                assert trial.of_pair(number).validation_bits_per_byte == pytest.approx(sum(lowest) / 2, rel=1e-4)
    assert any(trial.by_pair for trial in found[0])


class PrunedAtOnce(RunningTrial):
    """A trial that the pruner stops at its first point."""

    def report(self, points) -> None:
        super().report(points)
        self.is_pruned = True


def test_a_trial_goes_on_to_its_end_beside_one_that_was_pruned(trained, sealed, tiny_config, tmp_path: Path) -> None:
    config = with_transfer(tiny_config, together=1)
    study = opened(trained, sealed, config, tmp_path / "journal")
    pruned, whole = (kind(ask(study, number, config), [(trained, sealed)], config)
                     for number, kind in enumerate((PrunedAtOnce, RunningTrial)))
    run_trials([pruned, whole], config)
    assert pruned.value is None and whole.value is not None
    reported = {trial.number: trial.intermediate_values for trial in study.get_trials()}
    assert list(reported[0]) == [0] and len(reported[1]) == config.transfer.curve_points + 1


def test_the_shared_rate_is_the_best_on_average_of_those_that_ended_everywhere() -> None:
    def trials(*losses: float | None) -> list[Trial]:
        return [Trial(i, 10.0**-i, loss, loss, "complete" if loss else "pruned") for i, loss in enumerate(losses)]

    assert shared_rate([trials(1.0, 2.0, 3.0), trials(4.0, 2.5, 2.4)]) == 0.1
    assert shared_rate([trials(None, 2.0, 3.0), trials(1.0, None, 2.4)]) == 0.01
    with pytest.raises(ValueError, match="at least one finite loss, got none in 1 studies"):
        shared_rate([trials(None)])


def test_an_adapted_model_is_that_of_its_lowest_validation_loss(trained, corpora, tiny_config) -> None:
    """And the source itself where every step did harm."""
    config = with_transfer(tiny_config, transfer_steps=12, curve_points=4)
    for rate in (0.003, 3.0):
        points = curve(trained, corpora["math"], config, rate)
        adapted = points[-1].checkpoint
        lowest = min(points, key=lambda point: point.bits_per_byte)
        assert adapted is not None and adapted.step == lowest.step
        split = corpora["math"].validation.spread(config.transfer.curve_characters)
        assert evaluate(adapted.build(), adapted, split).bits_per_byte == pytest.approx(lowest.bits_per_byte, rel=1e-5)
    assert adapted.step == 0 and all(torch.equal(adapted.weights[name], tensor)
                                     for name, tensor in trained.weights.items())


def test_studies_side_by_side_are_the_same_as_alone(checkpoints, sealed, tiny_config, tmp_path: Path) -> None:
    config, sources = with_transfer(tiny_config, trials=5, transfer_steps=3), [checkpoints[0], checkpoints[-1]]
    together = tuned(sources, sealed, config, tmp_path / "together")
    for source, trials in zip(sources, together, strict=True):
        (alone,) = tuned([source], sealed, config, tmp_path / "alone")
        assert [t.state for t in trials] == [t.state for t in alone]
        assert [t.learning_rate for t in trials] == pytest.approx([t.learning_rate for t in alone], rel=1e-3)


def test_the_head_alone_learns(trained, corpora, tiny_config) -> None:
    weights = final_weights(trained, corpora["math"], with_transfer(tiny_config, fine_tune="head"), 0.01).weights
    changed = {name for name, tensor in weights.items() if not torch.equal(tensor, trained.weights[name])}
    assert changed == {"head.weight"}


def test_an_extended_vocabulary_leaves_the_source_as_it_was(trained, corpora, tiny_config) -> None:
    target = "añb☃ño☃" * 400
    extended = extend_vocabulary(trained, target, min_count=20)
    added = set(extended.vocabulary.characters) - set(trained.vocabulary.characters)
    assert added == {"ñ", "☃"}
    new = extended.vocabulary.encode("".join(sorted(added)))
    old = torch.tensor([i for i in range(len(extended.vocabulary)) if i not in new.tolist()])
    ids = trained.vocabulary.encode(corpora["shakespeare"].test.text[:32])[None]
    same = extended.vocabulary.encode(corpora["shakespeare"].test.text[:32])[None]
    with torch.inference_mode():
        masked = extended.build()(same)[..., old].log_softmax(-1)
        assert torch.allclose(masked, trained.build()(ids).log_softmax(-1), atol=1e-6)
    assert torch.equal(extended.weights["head.weight"][new[0]], trained.weights["head.weight"].mean(0))
    assert int(extended.character_counts_V[new].sum()) == 0
    corpus = make_corpora([domain_text("letters", target)], tiny_config.data, 32, extended.vocabulary)["letters"]
    points = curve(extended, corpus, with_transfer(tiny_config, transfer_steps=20, shots=16), 0.01)
    assert points[-1].bits_per_byte < points[0].bits_per_byte
    with pytest.raises(ValueError, match="target must be encoded with the vocabulary of shakespeare"):
        curve(trained, corpus, tiny_config, 0.01)


def test_no_finite_loss_is_said(trained, sealed, tiny_config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one finite loss, got none in 0 trials"):
        best_rate([])
