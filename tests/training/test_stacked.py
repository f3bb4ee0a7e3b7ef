"""Stacked models are the models that were stacked."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nanogpt.config import make_config
from nanogpt.evaluation import evaluate as evaluation
from nanogpt.evaluation.evaluate import score_split, stacked_losses
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus, make_split
from nanogpt.training.loop import Pretraining, train, train_together
from nanogpt.training.optimizer import set_rate_factor
from nanogpt.training.stacked import MemberAdam, stack, weights_of_member
from nanogpt.training.step import make_step
from nanogpt.transfer.finetune import FineTuning, adapt

RATES = (0.0003, 0.001, 0.003)


@pytest.fixture
def members(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    return [checkpoints[0], checkpoints[1], checkpoints[-1]]


def test_each_member_reads_its_own_rows_with_its_own_weights(members) -> None:
    model, ids_NT = stack(members), torch.randint(1, 40, (6, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        alone = [member.build()(ids_NT[2 * i:2 * i + 2]) for i, member in enumerate(members)]
        torch.testing.assert_close(model(ids_NT), torch.cat(alone), rtol=1e-5, atol=1e-5)
    for i, member in enumerate(members):
        found = weights_of_member(model, i)
        assert found.keys() == member.weights.keys()
        assert all(torch.equal(found[name], member.weights[name]) for name in found)


def test_losses_are_those_of_evaluation(members, corpora, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each character; texts of one and of many windows are read beside each other, some batches hold one alone."""
    monkeypatch.setattr(evaluation, "CHARACTERS_PER_BATCH", 320)
    splits = [corpora["math"].validation.spread(1000), *(
        make_split(corpora[name].validation.text[:length], corpora[name].vocabulary)
        for name, length in (("wikipedia", 431), ("shakespeare", 17)))]
    losses = stacked_losses(stack(members), splits)
    assert [len(losses_N) for losses_N in losses] == [len(split) for split in splits] and len(splits[0].pieces) > 1
    for losses_N, member, split in zip(losses, members, splits, strict=True):
        torch.testing.assert_close(losses_N, score_split(member.build(), split).loss_N, rtol=1e-4, atol=1e-4)
    shared = stacked_losses(stack(members), [splits[1]] * 3)
    assert all(len(losses_N) == 431 for losses_N in shared) and torch.equal(shared[1], losses[1])


def test_a_batched_step_is_torch_adamw_of_each_member(members) -> None:
    model, generator = stack(members), torch.Generator().manual_seed(2)
    optimizer = MemberAdam(model.parameters(), torch.tensor(RATES))
    step = make_step(model, [optimizer], members=len(members))
    solo = [member.build() for member in members]
    torch_optimizers = [torch.optim.AdamW(alone.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
                        for alone, rate in zip(solo, RATES, strict=True)]
    for factor in (0.25, 1.0, 0.5):
        ids_NT, targets_NT = torch.randint(1, 40, (2, 6, 32), generator=generator)
        set_rate_factor([optimizer], factor)
        step(ids_NT, targets_NT)
        for i, (alone, adamw, rate) in enumerate(zip(solo, torch_optimizers, RATES, strict=True)):
            adamw.param_groups[0]["lr"] = rate * factor
            rows = slice(2 * i, 2 * i + 2)
            F.cross_entropy(alone(ids_NT[rows]).flatten(0, 1), targets_NT[rows].flatten()).backward()
            adamw.step()
            adamw.zero_grad()
    for i, alone in enumerate(solo):
        for name, tensor in weights_of_member(model, i).items():
            torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=1e-3, atol=2e-4)


def test_members_equal_their_solo_runs_whatever_trains_beside_them(members, corpora, tiny_config) -> None:
    jobs = [FineTuning(member, corpora[target], rate, seed) for member, target, rate, seed
            in zip(members, ("math", "wikipedia", "math"), RATES, (1, 2, 3), strict=True)]
    *_, together = adapt(jobs, tiny_config)
    for job, point in zip(jobs, together, strict=True):
        *_, (alone,) = adapt([job], tiny_config)
        assert point.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-4)
    beside = dataclasses.replace(jobs[0], learning_rate=1e6)  # a member that diverges
    *_, (_, spoilt) = adapt([beside, jobs[1]], tiny_config)
    assert spoilt.bits_per_byte == pytest.approx(together[1].bits_per_byte, rel=1e-4)


def test_models_of_different_shape_are_refused(trained) -> None:
    other = dataclasses.replace(trained, model_config=dataclasses.replace(trained.model_config, n_head=1))
    with pytest.raises(ValueError, match="checkpoints must have one shape to be stacked"):
        stack([trained, other])


@pytest.fixture(params=["float32", "bfloat16"])
def pretrainings(request: pytest.FixtureRequest, corpora: dict[str, Corpus]) -> list[Pretraining]:
    """Two seeds of one text and another text: 2 layers × 16, context 16, 24 steps."""
    configs = [make_config("smoke", max_steps=24, n_layer=2, n_embd=16, block_size=16, batch_size=4, checkpoints=4,
                           log_every=5, weight_decay=0.1, precision=request.param, device="cpu", seed=seed)
               for seed in (1, 2, 2)]
    return [Pretraining(corpora[name], config)
            for name, config in zip(("math", "math", "wikipedia"), configs, strict=True)]


def test_a_stacked_training_is_the_training_alone(pretrainings: list[Pretraining]) -> None:
    together = zip(*train_together(pretrainings), strict=True)
    for member, records in zip(pretrainings, together, strict=True):
        tolerance = {"float32": 1e-4, "bfloat16": 0.02}[member.config.train.precision]
        for own, alone in zip(records, train(member.corpus, member.config), strict=True):
            assert own.step == alone.step and own.loss_nats == pytest.approx(alone.loss_nats, abs=tolerance)
            assert (own.checkpoint is None) == (alone.checkpoint is None)
            if own.checkpoint and alone.checkpoint:
                assert own.checkpoint.notes == alone.checkpoint.notes
                assert own.step or own.checkpoint.sha256 == alone.checkpoint.sha256
                for name, weight in alone.checkpoint.weights.items():
                    torch.testing.assert_close(own.checkpoint.weights[name], weight, rtol=0, atol=10 * tolerance)


def test_a_stacked_training_goes_on_stacked_to_the_same_bits_and_alone_to_the_tolerance(pretrainings) -> None:
    records = list(train_together(pretrainings))
    at = [progress.step for progress, *_ in records].index(10)
    stopped = [replace(member, state=progress.state()) for member, progress in zip(
        pretrainings, next(itertools.islice(train_together(pretrainings), at, None)), strict=True)]
    *_, resumed = train_together(stopped)
    assert [p.checkpoint.sha256 for p in resumed] == [p.checkpoint.sha256 for p in records[-1]]
    *_, (alone,) = train_together(stopped[1:2])
    assert alone.loss_nats == pytest.approx(resumed[1].loss_nats, abs=0.02)


def test_members_that_cannot_train_as_one_are_refused(pretrainings: list[Pretraining]) -> None:
    longer = replace(pretrainings[0].config, train=replace(pretrainings[0].config.train, max_steps=25))
    for other in (replace(pretrainings[0], config=longer), replace(pretrainings[0], state=next(
            train(pretrainings[0].corpus, pretrainings[0].config)).state())):
        with pytest.raises(ValueError, match="members must share"):
            next(train_together([other, *pretrainings[1:]]))
