"""Models of one size: shares of a text, what is chosen, what is never read, and what a transfer is worth in text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nanogpt.config import Config, read_shape
from nanogpt.text.corpus import Corpus
from nanogpt.training.loop import Pretraining
from nanogpt.training.sizes import sized
from nanogpt.transfer.scaling import fitted_laws, with_worth, worth_rows
from nanogpt.transfer.sizes import (
    SCRATCH,
    ShareTraining,
    budgets,
    checkpoint_rows,
    choose,
    learn,
    scratch_rows,
    share_of,
    shares,
    transfer_rows,
    untrained,
)


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    light = replace(tiny_config, train=replace(tiny_config.train, max_steps=40, log_every=40),
                    analysis=replace(tiny_config.analysis, eval_characters=1024),
                    transfer=replace(tiny_config.transfer, trials=2, transfer_steps=4, rate_low=1e-3))
    return sized(light, read_shape("1x32"))


def test_shares_of_a_text_fall_to_a_quarter_of_what_a_transfer_reads(corpora: dict[str, Corpus],
                                                                      config: Config) -> None:
    corpus, given = corpora["math"], config.transfer.shots * config.model.block_size
    of_text = shares(corpus, config)
    sizes = [len(share_of(corpus, share, 0).train) for share in of_text]
    assert of_text == [4**k for k in range(1, 1 + len(of_text))] and sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 1.5 * given
    assert {share_of(corpus, 4, number).train.text for number in range(5)} == {
        share_of(corpus, 4, number).train.text for number in range(4)}
    assert sum(len(share_of(corpus, 4, number).train) for number in range(4)) == len(corpus.train)
    assert share_of(corpus, 4, 1).test is corpus.test
    small = share_of(corpus, of_text[-1], 0).train
    places = [corpus.train.text.find(small.text[piece.begin:piece.end]) / len(corpus.train) for piece in small.pieces]
    assert len(places) >= 8 and min(places) < 0.2 and max(places) > 0.8


def test_the_steps_with_less_text_are_all_and_those_of_its_root(config: Config) -> None:
    assert budgets(4, config) == [20, 40]
    assert budgets(1, config) == [40]
    assert budgets(4**9, config) == [20, 40]


def test_rows_of_trainings_do_not_depend_on_how_they_are_made(corpora: dict[str, Corpus], config: Config) -> None:
    """Scored as they are trained, or afterwards; and one is chosen of each training, by validation alone."""
    learnt, = learn([ShareTraining(Pretraining(corpora["math"], config))])
    assert learnt.best is not None and learnt.rows[0]["step"] == 0
    (again,) = checkpoint_rows([learnt.best], corpora, config, 1)
    choose(learnt.rows)
    (chosen,) = (row for row in learnt.rows if row["chosen"])
    assert again | {"chosen": True} == chosen
    assert chosen["validation_bits_per_byte"] == min(row["validation_bits_per_byte"] for row in learnt.rows)
    assert chosen["characters"] == chosen["step"] * config.train.batch_size * config.model.block_size


def test_a_training_with_little_text_is_given_up_past_its_best(corpora: dict[str, Corpus], config: Config) -> None:
    own = replace(config, train=replace(config.train, max_steps=100, checkpoints=12))
    training = ShareTraining(Pretraining(share_of(corpora["math"], 256, 0), own), 256)
    cut, whole = (learn([training], to_the_end=to_the_end)[0] for to_the_end in (False, True))
    assert cut.is_past_its_best and len(cut.rows) < len(whole.rows)
    assert cut.rows == whole.rows[:len(cut.rows)]


def test_transfers_are_of_each_model_to_each_other_text_and_no_worse_than_no_step(corpora: dict[str, Corpus],
                                                                                  config: Config) -> None:
    first = corpora["math"]
    learnt, = learn([ShareTraining(Pretraining(first, config))])
    assert learnt.best is not None
    rows = transfer_rows([learnt.best, untrained(first, config)], corpora, config)
    assert {(row["source"], row["target"]) for row in rows} == {
        *(("math", name) for name in corpora if name != "math"), *((SCRATCH, name) for name in corpora)}
    assert all(row["learning_rate"] in config.transfer.grid_rates for row in rows)
    by_source = {row["source"]: row for row in rows if row["target"] == "shakespeare"}
    assert by_source["math"]["source_characters"] == len(first.train) and not by_source[SCRATCH]["source_characters"]
    assert by_source["math"]["test_bits_per_byte"] < by_source["math"]["zero_shot_bits_per_byte"]


def test_with_less_text_a_model_from_random_weights_is_worse(corpora: dict[str, Corpus], config: Config) -> None:
    config = replace(config, transfer=replace(config.transfer, shots=64))
    rows = list(scratch_rows([corpora["math"]], config, 1))
    choose(rows)
    chosen = pd.DataFrame(rows).query("chosen").set_index("one_in")["test_bits_per_byte"]
    assert list(chosen.index) == shares(corpora["math"], config)
    assert chosen.iloc[0] < chosen.iloc[-1]


def made_up(**changes: object) -> dict[str, object]:
    return {"size": "1x32", "block_weights": 12_288, "source": "math", "target": "shakespeare", "training_seed": 1,
            "given_characters": 1000, "source_characters": 50_000, "test_bits_per_byte": 3.0} | changes


SCRATCH_CURVE = pd.DataFrame([{"size": "1x32", "domain": "shakespeare", "unique_characters": characters,
                               "test_bits_per_byte": loss, "chosen": True}
                              for characters, loss in ((1000, 4.0), (10_000, 3.0), (100_000, 2.0))])


@pytest.mark.parametrize(("loss", "effective", "bound"), [
    (3.0, 10_000, ""), (2.5, 10_000 * 10**0.5, ""), (4.0, 1000, ""), (1.9, 100_000, "more than"),
    (4.1, 1000, "less than")])
def test_a_transfer_is_worth_the_text_with_which_random_weights_come_as_low(loss: float, effective: float,
                                                                            bound: str) -> None:
    (row,) = with_worth([made_up(test_bits_per_byte=loss)], SCRATCH_CURVE)
    assert row["effective_characters"] == pytest.approx(effective) and row["bound"] == bound
    assert row["transferred_characters"] == pytest.approx(effective - 1000)
    assert row["worth"] == pytest.approx((effective - 1000) / 50_000)


def test_the_worth_of_a_pair_is_the_mean_of_its_seeds_and_a_bound_where_one_is() -> None:
    losses = {1: 3.0, 2: 2.5, 3: 2.9}
    rows = list(with_worth([made_up(training_seed=seed, test_bits_per_byte=loss) for seed, loss in losses.items()],
                           SCRATCH_CURVE))
    (mean,) = worth_rows(pd.DataFrame(rows))
    assert mean["worth"] == pytest.approx(np.mean([row["worth"] for row in rows])) and mean["bound"] == ""
    assert mean["low"] < mean["worth"] < mean["high"]
    bounded = [*rows, *with_worth([made_up(training_seed=4, test_bits_per_byte=1.0)], SCRATCH_CURVE)]
    (mean,) = worth_rows(pd.DataFrame(bounded))
    assert mean["bound"] == "more than" and mean["low"] is None


def test_what_untrained_weights_gain_from_the_same_windows_is_taken_off() -> None:
    untrained = [made_up(source="scratch", source_characters=0, test_bits_per_byte=loss, training_seed=seed)
                 for seed, loss in ((1, 3.0), (2, 5.0))]
    adapted = [made_up(test_bits_per_byte=2.5, training_seed=seed) for seed in (1, 2)]
    control, below, first, second = with_worth([*untrained, *adapted], SCRATCH_CURVE)
    assert control["transferred_characters"] > 0 > below["transferred_characters"]
    assert first["control_characters"] == control["transferred_characters"] and second["control_characters"] == 0
    assert first["worth"] * 50_000 == pytest.approx(first["transferred_characters"] - control["transferred_characters"])
    (mean,) = worth_rows(pd.DataFrame([control, below, first, second]))
    assert mean["transferred_characters"] == pytest.approx((first["worth"] + second["worth"]) / 2 * 50_000)


def test_a_law_ends_at_the_size_that_loses_least_on_validation_text() -> None:
    rows = pd.DataFrame([
        {"size": f"{k}x64", "domain": "math", "block_weights": 10**k, "one_in": 1, "training_seed": 1,
         "unique_characters": 10**6, "step": 10, "max_steps": 10, "flops": 60 * 10**k, "chosen": True,
         "validation_bits_per_byte": abs(k - 7) + 1.0, "test_bits_per_byte": 10 * 10 ** (-0.1 * k)}
        for k in range(3, 9)])
    fits, _ = fitted_laws(rows, pd.DataFrame())
    (law,) = [fit for fit in fits if fit["law"] == "parameters"]
    assert (law["most"], law["tried_to"], law["points"]) == (1e7, 1e8, 5)


def test_the_laws_of_made_up_trainings_are_those_that_they_were_made_with() -> None:
    rows = pd.DataFrame([
        {"size": f"{k}x64", "domain": "math", "block_weights": 10**k, "one_in": share, "training_seed": seed,
         "unique_characters": 10**6 // share, "step": step, "max_steps": 10, "flops": 6 * 10**k * step,
         "chosen": step > 0} | dict.fromkeys(("validation_bits_per_byte", "test_bits_per_byte"),
                                             10 * 10 ** (-0.1 * k) * share**0.2 + (step == 0))
        for k in range(3, 9) for share in (1, 4, 16, 64) for seed in (1, 2) for step in (0, 10)])
    worth = pd.DataFrame([made_up(size=f"{k}x64", block_weights=10**k, transferred_characters=10 ** (0.5 * k), bound="")
                          for k in range(3, 9)])
    fits, curves = fitted_laws(rows, worth)
    exponents = {(fit["law"], fit["size"]): fit["exponent"] for fit in fits}
    assert exponents["parameters", ""] == pytest.approx(0.1) == exponents["compute", ""]
    assert exponents["characters", "3x64"] == pytest.approx(0.2) == exponents["characters", "8x64"]
    assert exponents["transferred", ""] == pytest.approx(0.5)
    ends = [(row["x"], row["fitted"]) for row in curves if row["law"] == "parameters"]
    assert ends[0] == pytest.approx((1e3, 10 ** 0.7)) and ends[-1] == pytest.approx((1e8, 10 ** 0.2))
