"""The loop: what it yields, that it depends on the seed alone, and that a stopped training goes on."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from nanogpt.config import Config, make_config
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus
from nanogpt.training.loop import Pretraining, Progress, is_compiled, train, train_together
from nanogpt.training.schedule import checkpoint_steps
from nanogpt.training.state import TrainingState, load_state, save_state


@pytest.fixture(params=[("float32", 0.1), ("bfloat16", 0.0)], ids=["float32 with dropout", "bfloat16"])
def config(request: pytest.FixtureRequest) -> Config:
    """2 layers × 16, context 16, 24 steps; with dropout what depends on a random stream would show."""
    precision, dropout = request.param
    return make_config("smoke", max_steps=24, n_layer=2, n_embd=16, block_size=16, batch_size=4, checkpoints=4,
                       log_every=5, dropout=dropout, precision=precision, device="cpu")


@pytest.fixture
def corpus(corpora: dict[str, Corpus]) -> Corpus:
    return corpora["shakespeare"]


def last_of(records: list[Progress]) -> Checkpoint:
    assert records[-1].checkpoint is not None
    return records[-1].checkpoint


def states_of(corpus: Corpus, config: Config) -> list[TrainingState]:
    return [record.state() for record in train(corpus, config)]


def test_records_come_at_the_logged_steps_and_the_checkpoints(corpus: Corpus, config: Config) -> None:
    records = list(train(corpus, config))
    kept = checkpoint_steps(24, 4)
    assert [record.step for record in records] == sorted({*range(0, 25, 5), *kept})
    assert tuple(record.step for record in records if record.checkpoint) == kept
    assert records[0].loss_nats is None and all(record.loss_nats is not None for record in records[1:])
    assert [record.seconds for record in records] == sorted(record.seconds for record in records)
    assert records[-1].seconds_left == 0


def test_the_seed_alone_decides_the_weights(corpus: Corpus, config: Config) -> None:
    first, again, other = (last_of(list(train(corpus, dataclasses.replace(config, seed=seed)))).sha256
                           for seed in (1, 1, 2))
    assert first == again != other


def test_training_neither_reads_nor_moves_the_global_random_stream(corpus: Corpus, config: Config) -> None:
    digests = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        digests.append(last_of(list(train(corpus, config))).sha256)
        assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1]


def test_how_often_is_logged_changes_nothing(corpus: Corpus, config: Config) -> None:
    seldom = dataclasses.replace(config, train=dataclasses.replace(config.train, log_every=1000))
    assert last_of(list(train(corpus, config))).sha256 == last_of(list(train(corpus, seldom))).sha256


def test_a_training_goes_on_from_each_state_as_if_never_stopped(corpus: Corpus, config: Config, tmp_path: Path) -> None:
    whole = list(train(corpus, config))
    for state in states_of(corpus, config):
        resumed = list(train(corpus, config, load_state(save_state(state, tmp_path / "state.pt"))))
        rest = [record for record in whole if record.step > state.step]
        assert [r.step for r in resumed] == [r.step for r in rest]
        assert [r.loss_nats for r in resumed] == [r.loss_nats for r in rest]
        assert [r.checkpoint.sha256 for r in resumed if r.checkpoint] == [
            r.checkpoint.sha256 for r in rest if r.checkpoint]
        assert all(r.seconds >= state.seconds for r in resumed)


def test_a_state_is_a_copy_that_later_steps_leave_alone(corpus: Corpus, config: Config) -> None:
    records = train(corpus, config)
    state = next(records).state()
    before = {name: tensor.clone() for name, tensor in state.weights.items()}
    list(records)
    assert all(torch.equal(state.weights[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("changes", [{"seed": 2}, {"max_steps": 25}, {"n_layer": 1}, {"batch_size": 5}])
def test_a_state_of_another_training_is_refused(corpus: Corpus, config: Config, changes: dict[str, int]) -> None:
    state = states_of(corpus, config)[1]
    settings = {key: value for key, value in config.flat().items() if key != "preset"} | changes
    with pytest.raises(ValueError, match="resume must be a state of this same training"):
        next(train(corpus, make_config("smoke", **settings), state))


def test_the_loss_falls_on_real_text(corpus: Corpus, tiny_config: Config) -> None:
    losses = [record.loss_nats for record in train(corpus, tiny_config) if record.loss_nats is not None]
    assert losses[-1] < 3.0 < losses[0]


def test_bfloat16_learns_as_float32_does(corpus: Corpus, tiny_config: Config) -> None:
    ends = {}
    for precision in ("float32", "bfloat16"):
        settings = dataclasses.replace(tiny_config.train, precision=precision)
        *_, last = train(corpus, dataclasses.replace(tiny_config, train=settings))
        ends[precision] = last
        assert last.checkpoint is not None
        assert {tensor.dtype for tensor in last.checkpoint.weights.values()} == {torch.float32}
    assert ends["bfloat16"].loss_nats == pytest.approx(ends["float32"].loss_nats, abs=0.03)
    assert ends["bfloat16"].loss_nats != ends["float32"].loss_nats


def test_blocks_are_compiled_where_the_steps_to_come_pay_for_it() -> None:
    on_gpu, on_cpu = torch.device("cuda"), torch.device("cpu")

    def compiled(preset: str, device: torch.device, trainings: int, **changes: object) -> bool:
        config = make_config(preset, **changes)
        with torch.device("meta"):
            model = GPT(config.model, 100)
        return is_compiled(model, config, device, trainings)

    assert compiled("gpu", on_gpu, 12) and not compiled("gpu", on_gpu, 9) and not compiled("standard", on_gpu, 24)
    assert not compiled("gpu", on_cpu, 12) and compiled("smoke", on_cpu, 1, compile="on")
    assert not compiled("gpu", on_gpu, 12, compile="off")


def test_a_consumer_may_leave_early(corpus: Corpus, config: Config) -> None:
    records = train(corpus, config)
    assert next(records).step == 0
    records.close()


def spoilt(state: TrainingState) -> TrainingState:
    """A state whose next loss is not finite."""
    state = copy.deepcopy(state)
    next(iter(state.weights.values())).fill_(math.inf)
    return state


def test_a_training_that_diverges_ends_and_leaves_the_others_alone(corpus: Corpus, config: Config) -> None:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    records = list(train(corpus, config))
    state = next(record.state() for record in train(corpus, config) if record.step == 5)
    (last,) = train(corpus, config, spoilt(state))
    assert last.diverged_at == 5 and not math.isfinite(last.loss_nats or 0) and last.step < 24
    members = [Pretraining(corpus, config, own) for own in (state, spoilt(state))]
    together = list(train_together(members))
    assert [record.step for record, _ in together] == [record.step for record in records if record.step > 5]
    assert {(record.diverged_at, other.diverged_at) for record, other in together} == {(None, 5)}
    assert together[-1][0].loss_nats == pytest.approx(records[-1].loss_nats, rel=1e-2)
