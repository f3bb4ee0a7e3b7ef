"""Means over seeds, stages compared, and sentences, on rows whose answer is known."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from nanogpt.evaluation.intervals import clustered_interval
from nanogpt.transfer.tables import (
    cell_measures,
    curve_means,
    run_measures,
    sentences,
    stage_comparisons,
    view_means,
    views_that_differ,
    with_front,
)

GAIN = {("a", "b"): 0.4, ("b", "a"): 0.6, ("a", "c"): 0.5}
START = {"scratch": 6.0, "early": 4.0, "late": 3.5}


def rows(gain: dict[tuple[str, str], float] = GAIN) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves that fall by 1 in 10 steps, late ones `gain` lower; what differs between seeds is the same everywhere."""
    transfers, curves = [], list[dict[str, Any]]()
    cells = [(source, target, stage) for source, target in gain for stage in ("early", "late")]
    cells += [("scratch", target, "scratch") for target in ("a", "b", "c")]
    for (source, target, stage), view, seed in itertools.product(cells, ("tuned", "fixed"), (2, 3, 4)):
        start = START["early"] - gain[source, target] if stage == "late" else START[stage]
        run = {"source": source, "training_seed": 1, "stage": stage,
               "checkpoint_step": {"early": 10, "late": 90}.get(stage, 0),
               "target": target, "shots": 4, "view": view, "seed": seed, "learning_rate": 0.003}
        losses = [start + 0.01 * seed - 0.1 * step for step in (0, 5, 10)]
        curves += [run | {"step": step, "validation_bits_per_byte": loss}
                   for step, loss in zip((0, 5, 10), losses, strict=True)]
        transfers.append(run | {"trials": 3, "zero_shot_bits_per_byte": start, "test_bits_per_byte": losses[-1],
                                "source_bits_per_byte_before": None if source == "scratch" else 2.0,
                                "source_bits_per_byte_after": None if source == "scratch" else 2.0 + 0.1 * seed})
    return pd.DataFrame(transfers), pd.DataFrame(curves)


def test_a_cell_is_measured_over_its_seeds_and_against_scratch() -> None:
    runs = run_measures(*rows())
    measures = cell_measures(runs, pd.DataFrame()).set_index(["source", "target", "stage", "view"])
    late = measures.loc[("a", "b", "late", "tuned")]
    losses = [2.6 + 0.01 * seed for seed in (2, 3, 4)]
    expected = stats.ttest_1samp(losses, 0).confidence_interval(0.95)
    assert late["test_bits_per_byte"] == pytest.approx(2.63) and late["seeds"] == 3
    assert (late["test_bits_per_byte_low"], late["test_bits_per_byte_high"]) == pytest.approx(tuple(expected))
    assert late["best_test_bits_per_byte"] == pytest.approx(2.62)
    assert late["area_bits_per_byte"] == pytest.approx(3.13)
    assert late["forgetting_bits_per_byte"] == pytest.approx(0.3)
    assert late["jumpstart_bits_per_byte"] == pytest.approx(6.0 - 3.6)
    assert late["transfer_ratio"] == pytest.approx((5.53 - 3.13) / 5.53)
    assert "effective_windows_transferred" not in measures     # one number of shots cannot tell
    assert late["steps_to_threshold"] == "6.0 steps" and late["seeds_that_reached_it"] == 3
    assert pd.isna(measures.loc[("scratch", "b", "scratch", "tuned"), "transfer_ratio"])


def test_effective_data_needs_scratch_models_of_two_numbers_of_shots() -> None:
    few = run_measures(*rows())
    many = few.assign(shots=16, test_bits_per_byte=few["test_bits_per_byte"] - 0.5)
    measures = cell_measures(pd.concat([few, many], ignore_index=True), pd.DataFrame())
    late = measures.query("stage == 'late' and shots == 4")["effective_windows_transferred"]
    assert len(late) and all(text == "> 12.0 windows" for text in late)


def test_pruned_trials_count_for_the_sensitivity_to_the_rate() -> None:
    runs = run_measures(*rows())
    cell = {"source": "a", "stage": "late", "checkpoint_step": 90, "target": "b", "shots": 4}
    trials = pd.DataFrame([cell | {"learning_rate": rate, "validation_bits_per_byte": end, "last_bits_per_byte": last}
                           for rate, end, last in ((1e-4, 3.0, 3.0), (1e-3, 2.0, 2.0), (1e-2, None, 6.0))])
    sensitivity = cell_measures(runs, trials).query("source == 'a' and target == 'b' and stage == 'late'")
    assert sensitivity["rate_sensitivity"].tolist() == pytest.approx([(2.5 + 4.0) / 2 - 2.0] * 2)


def test_what_never_reaches_the_threshold_is_censored_and_said_to_be() -> None:
    runs = run_measures(*rows({("a", "b"): -0.5}))
    late = cell_measures(runs, pd.DataFrame()).query("stage == 'late'").iloc[0]
    assert late["steps_to_threshold"] == "> 10 steps" and late["seeds_that_reached_it"] == 0
    (difference,) = stage_comparisons(runs).query("view == 'tuned' and measure == 'steps_to_threshold'")["difference"]
    assert difference > 0


def test_stages_are_paired_and_sources_and_targets_are_clusters() -> None:
    runs = run_measures(*rows())
    found = stage_comparisons(runs).query("view == 'tuned'").set_index("measure").loc["test_bits_per_byte"]
    changes, sources, targets = [-0.4] * 3 + [-0.6] * 3 + [-0.5] * 3, "aaabbbaaa", "bbbaaaccc"
    expected = clustered_interval(changes, [1] * 9, list(sources), list(targets))
    assert (found["difference"], found["pairs"], found["seeds"]) == (pytest.approx(-0.5), 3, 3)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert (found["runs_ahead"], found["runs_paired"], found["domains"]) == (9, 9, 2)


def test_numbers_of_shots_are_compared_together_and_each_and_seeds_of_training_are_paired() -> None:
    transfers, curves = rows()
    more = [frame.assign(shots=16) for frame in (transfers, curves)]
    other = [frame.assign(training_seed=2) for frame in (transfers, curves)]
    both = [pd.concat(frames, ignore_index=True) for frames in zip((transfers, curves), more, other, strict=True)]
    table = stage_comparisons(run_measures(*both))
    assert list(table.query("view == 'tuned' and measure == 'test_bits_per_byte'")["shots"]) == ["all", "4", "16"]
    every, few, many = table.query("view == 'tuned' and measure == 'test_bits_per_byte'").to_dict("records")
    assert (every["runs_paired"], few["runs_paired"], many["runs_paired"]) == (27, 18, 9)
    assert few["training_seeds"] == 2 and many["training_seeds"] == 1
    assert [row["difference"] for row in (every, few, many)] == pytest.approx([-0.5] * 3)


def test_who_begins_below_the_threshold_is_said() -> None:
    runs = run_measures(*rows({("a", "b"): 1.2, ("b", "a"): 1.1, ("a", "c"): 0.1}))
    steps = stage_comparisons(runs).query("view == 'tuned' and measure == 'steps_to_threshold'").iloc[0]
    assert steps["already_there"] == pytest.approx(2 / 3)
    assert steps["median_earlier"] == pytest.approx(10, abs=0.2) and steps["median_later"] == 0


@pytest.mark.parametrize(("gain", "said"), [
    (GAIN, "lower than the early one's (difference -0.50, 95 % interval -"),
    ({pair: -value for pair, value in GAIN.items()}, "higher than the early one's (difference +0.50"),
    ({("a", "b"): 0.5, ("b", "a"): -0.6, ("a", "c"): 0.1}, "which does not exclude 0"),
    ({("a", "b"): 0.5}, "no interval; 1 source → target pairs, 1 training of each source, 3 draws")])
def test_the_sentence_claims_what_the_interval_allows(gain: dict[tuple[str, str], float], said: str) -> None:
    runs = run_measures(*rows(gain))
    runs.loc[(runs["view"] == "fixed") & (runs["stage"] == "late"), "test_bits_per_byte"] += 1e-3
    found = list(sentences(stage_comparisons(runs)))
    assert [sentence.startswith(f"Adapted at the {view} learning rate") for sentence, view
            in zip(found, ("tuned", "fixed"), strict=True)] == [True, True]
    assert all(said in sentence for sentence in found)


def test_equal_views_are_said_once() -> None:
    (said,) = sentences(stage_comparisons(run_measures(*rows())))
    assert said.startswith("Adapted at the tuned (everywhere the fixed) learning rate")


def test_a_fixed_rate_is_left_out_where_it_is_the_tuned_one_at_all_shots() -> None:
    cells = pd.DataFrame([{"source": "a", "target": target, "stage": "late", "shots": shots, "view": view,
                           "learning_rate": rate if view == "tuned" else 0.1}
                          for target, rates in (("b", (0.1, 0.1)), ("c", (0.1, 0.3)))
                          for shots, rate in zip((4, 16), rates, strict=True) for view in ("tuned", "fixed")])
    assert views_that_differ(cells).groupby("target")["view"].agg(list).to_dict() == {
        "b": ["tuned", "tuned"], "c": ["tuned", "fixed"] * 2}
    alone = cells[cells["view"] == "fixed"]
    assert views_that_differ(alone).equals(alone)


def test_means_over_seeds() -> None:
    transfers, curves = rows()
    assert len(view_means(transfers)) == 9 and "seed" not in view_means(transfers)
    first = curve_means(curves).iloc[0]
    assert (first["low"], first["validation_bits_per_byte"], first["high"]) == pytest.approx((4.02, 4.03, 4.04))


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(1.0, 0.5), (2.0, 1.0), (1.5, 1.2), (3.0, 1.0)]
    frame = pd.DataFrame([{"source": "a", "target": "b", "zero_shot_bits_per_byte": 5.0, "test_bits_per_byte": 5 - gain,
                           "forgetting_bits_per_byte": lost} for gain, lost in points])
    front = with_front(frame).query("on_front")
    assert sorted(zip(front["gain_bits_per_byte"], front["forgetting_bits_per_byte"], strict=True)) == [
        (1.0, 0.5), (3.0, 1.0)]
