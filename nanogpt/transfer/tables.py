"""From the rows of single transfers to means over seeds, and to stages compared: tidy rows, one for each question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from nanogpt.config import Row
from nanogpt.evaluation.intervals import Interval, clustered_interval, holm
from nanogpt.transfer.measures import (
    Steps,
    area_under_curve,
    effective_data_transferred,
    loss_after,
    mean_steps,
    rate_sensitivity,
    steps_to,
    transfer_ratio,
)

CELL = ["source", "stage", "checkpoint_step", "target", "shots"]
RUN = ["training_seed", *CELL, "view", "seed"]
RIVALS = ["source", "training_seed", "target", "shots", "view"]
ALL_SHOTS = "all"
STAGED = ("early", "mid", "late", "final")
COMPARED = {"test_bits_per_byte": "test loss after adaptation", "change_bits_per_byte": "its change from the start",
            "area_bits_per_byte": "mean loss during adaptation", "steps_to_threshold": "steps to the earlier one's end"}
"""What stages are compared by; lower is better in all of them."""


def view_means(transfers: pd.DataFrame, view: str = "tuned") -> pd.DataFrame:
    """Average each cell over the seeds of one view, without the column of seeds."""
    if transfers.empty:
        return transfers
    rows = transfers[transfers["view"] == (view if view in set(transfers["view"]) else transfers["view"].iloc[0])]
    keys = [name for name in (*CELL, "view", "step") if name in rows]
    means: pd.DataFrame = rows.drop(columns=["seed", "training_seed"], errors="ignore").groupby(
        keys, sort=False, as_index=False).mean(numeric_only=True)
    return means


def views_that_differ(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the fixed rate of a source, target and stage whose tuned rate is the same with all shots."""
    if frame.empty:
        return frame
    keys = ["source", "target", "stage"]
    rates = {view: rows.groupby([*keys, "shots"])["learning_rate"].first() for view, rows in frame.groupby("view")}
    if rates.keys() != {"tuned", "fixed"}:
        return frame
    are_same = rates["tuned"].eq(rates["fixed"]).groupby(level=keys).all().rename("are_same")
    return frame[(frame["view"] == "tuned") | ~frame.join(are_same, on=keys)["are_same"]]


def curve_means(curves: pd.DataFrame) -> pd.DataFrame:
    """Summarize each cell, view and step: mean, lowest and highest validation loss over the seeds."""
    if curves.empty:
        return curves
    loss = curves.groupby([*CELL, "view", "step"], sort=False)["validation_bits_per_byte"]
    return loss.agg(validation_bits_per_byte="mean", low="min", high="max").reset_index()


def run_measures(transfers: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Add what each learning curve says to `transfers`: area, loss half-way, steps to the threshold, if it came there.

    The threshold is where the least trained checkpoint of the same source, target, shots and view ends on average
    over its seeds. Where it is not reached, the steps are those that were made: a right-censored time.
    """
    if transfers.empty:
        return transfers
    ends = curves.sort_values("step").groupby(RUN, sort=False).tail(1)
    first = ends[ends["checkpoint_step"] == ends.groupby(RIVALS)["checkpoint_step"].transform("min")]
    thresholds = first.groupby(RIVALS)["validation_bits_per_byte"].mean().to_dict()
    by_run = dict(iter(curves.sort_values("step").groupby(RUN, sort=False)))
    measured = []
    for row in transfers.to_dict("records"):
        curve = by_run[tuple(row[name] for name in RUN)]
        steps, losses = curve["step"].tolist(), curve["validation_bits_per_byte"].tolist()
        reached = steps_to(steps, losses, thresholds[tuple(row[name] for name in RIVALS)])
        change = row["test_bits_per_byte"] - row["zero_shot_bits_per_byte"]
        measured.append(row | {"change_bits_per_byte": change, "area_bits_per_byte": area_under_curve(steps, losses),
                            "bits_per_byte_half_way": loss_after(steps, losses, (steps[0] + steps[-1]) / 2),
                            "steps_to_threshold": reached.steps, "reached_threshold": reached.reached})
    return pd.DataFrame(measured)


def cell_measures(runs: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Summarize each cell and view in a row: means over seeds with 95 % t intervals, and comparisons with scratch."""
    if runs.empty:
        return runs
    return pd.DataFrame(_cell_row(dict(zip([*CELL, "view"], key, strict=True)), part, runs, trials)
                        for key, part in runs.groupby([*CELL, "view"], sort=False))


def _cell_row(names: Row, part: pd.DataFrame, runs: pd.DataFrame, trials: pd.DataFrame) -> Row:
    row = names | {"seeds": len(part), "learning_rate": part["learning_rate"].iloc[0],
                   "zero_shot_bits_per_byte": part["zero_shot_bits_per_byte"].mean(),
                   "best_test_bits_per_byte": part["test_bits_per_byte"].min()}
    for name in ("test_bits_per_byte", "change_bits_per_byte", "area_bits_per_byte", "bits_per_byte_half_way"):
        row |= _columns(name, part[name], part)
    steps = mean_steps([Steps(*pair) for pair in zip(part["steps_to_threshold"], part["reached_threshold"],
                                                     strict=True)])
    row |= {"steps_to_threshold": str(steps), "seeds_that_reached_it": int(part["reached_threshold"].sum())}
    forgotten = (part["source_bits_per_byte_after"] - part["source_bits_per_byte_before"]).astype(float).dropna()
    row |= _columns("forgetting_bits_per_byte", forgotten, part.loc[forgotten.index]) if len(forgotten) else {}
    tried = _same(trials, names, CELL).dropna(subset="last_bits_per_byte") if len(trials) else trials
    if len(tried):
        row["rate_sensitivity"] = rate_sensitivity(tried["learning_rate"].tolist(),
                                                   tried["last_bits_per_byte"].tolist())
    scratch = _same(runs[runs["stage"] == "scratch"], names, ["target", "view"])
    return row | (_against_scratch(row, scratch) if len(scratch) and names["stage"] != "scratch" else {})


def _against_scratch(row: Row, scratch: pd.DataFrame) -> Row:
    """Compute jumpstart (Taylor & Stone 2009, bits per byte), transfer ratio and effective data transferred (windows).

    The latter needs scratch models of at least two numbers of shots: with one it could only be 0 or "more".
    """
    equal = scratch[scratch["shots"] == row["shots"]]
    by_shots = scratch.groupby("shots")["test_bits_per_byte"].mean().sort_index()
    against: Row = {}
    if len(by_shots) > 1:
        data = effective_data_transferred(row["test_bits_per_byte"], row["shots"], by_shots.index.tolist(),
                                          by_shots.tolist())
        against["effective_windows_transferred"] = str(data)
    if len(equal):
        against["jumpstart_bits_per_byte"] = equal["zero_shot_bits_per_byte"].mean() - row["zero_shot_bits_per_byte"]
        against["transfer_ratio"] = transfer_ratio(row["area_bits_per_byte"], equal["area_bits_per_byte"].mean())
    return against


def _same(frame: pd.DataFrame, names: Row, columns: Sequence[str]) -> pd.DataFrame:
    mask = pd.Series(True, index=frame.index)
    for column in columns:
        mask &= frame[column] == names[column]
    return frame[mask]


def _columns(name: str, values: pd.Series[float], part: pd.DataFrame) -> Row:
    """Return the mean and its 95 % interval over draws of windows, and over trainings if there are several."""
    clusters = [part[column] for column in ("training_seed", "seed") if part[column].nunique() > 1]
    interval = clustered_interval(values, [1.0] * len(values), *clusters)
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def stage_comparisons(runs: pd.DataFrame) -> pd.DataFrame:
    """Compare later with earlier stages by each view, measure and number of shots (and all): mean and 95 % interval.

    Runs are paired over source, seed of its training, target, shots and draw of windows. All transfers from a source
    share its models, and all to a target its text, so that both are clusters of a crossed design, with the degrees of
    freedom of the fewer (evaluation/intervals.py). Steps to the threshold are compared as restricted times: all are
    censored at the same last step, so their mean is that of the Kaplan–Meier curve; beside it stand their medians and
    the share of later runs that were there before any step. `runs_ahead` of `runs_paired` are the single runs in which
    the later stage was better. `p_holm` is corrected over all later stages and measures of a view and its shots.
    """
    if runs.empty:
        return runs
    rows = []
    for view, part in runs.groupby("view", sort=False):
        levels = sorted(part["shots"].unique())
        for shots in (ALL_SHOTS, *levels) if len(levels) > 1 else (ALL_SHOTS,):
            family = list(_compared(part if shots == ALL_SHOTS else part[part["shots"] == shots]))
            adjusted = holm([row["p_value"] for row in family])
            rows += [{"view": view, "shots": str(shots)} | row | {"p_holm": p}
                     for row, p in zip(family, adjusted, strict=True)]
    return pd.DataFrame(rows)


def _compared(runs: pd.DataFrame) -> Iterator[Row]:
    stages = [stage for stage in STAGED if stage in set(runs["stage"])]
    wide = runs.pivot_table(index=["source", "training_seed", "target", "shots", "seed"], columns="stage",
                            values=list(COMPARED))
    for later in stages[1:]:
        for measure in COMPARED:
            both = wide[measure][[stages[0], later]].dropna()
            change = both[later] - both[stages[0]]
            if len(change):
                by = change.index.get_level_values
                interval = clustered_interval(change, [1.0] * len(change), by("source"), by("target"))
                row = {"measure": measure, "earlier": stages[0], "later": later,
                       "difference": interval.value, "low": interval.low, "high": interval.high,
                       "p_value": interval.p_value, "pairs": len(change.groupby(["source", "target"])),
                       "domains": interval.units, "training_seeds": by("training_seed").nunique(),
                       "seeds": by("seed").nunique(), "runs_ahead": int((change < 0).sum()),
                       "runs_paired": len(change), "claim": verdict(interval)}
                if measure == "steps_to_threshold":
                    row |= {"median_earlier": both[stages[0]].median(), "median_later": both[later].median(),
                            "already_there": float((both[later] == 0).mean())}
                yield row


def verdict(interval: Interval) -> str:
    """Say what the interval allows to be claimed of the later stage."""
    if not interval.excludes_zero:
        return "not decided"
    return "lower" if interval.value < 0 else "higher"


def with_front(measures: pd.DataFrame) -> pd.DataFrame:
    """Add `gain_bits_per_byte` on the target, and whether a row is on the Pareto front of its source and target.

    On the front no other cell of the pair gains more and forgets less. Rows without a source's own text are left out.
    """
    if "forgetting_bits_per_byte" not in measures:
        return measures.head(0)
    frame = measures.dropna(subset="forgetting_bits_per_byte")
    frame = frame.assign(gain_bits_per_byte=frame["zero_shot_bits_per_byte"] - frame["test_bits_per_byte"])
    frame = frame.sort_values(["gain_bits_per_byte", "forgetting_bits_per_byte"], ascending=[False, True])
    least = frame.groupby(["source", "target"])["forgetting_bits_per_byte"].cummin()
    lowest = frame.assign(least=least, on_front=frame["forgetting_bits_per_byte"] == least)
    lowest["on_front"] &= ~lowest.duplicated(["source", "target", "least"])
    return lowest.drop(columns="least")


def sentences(comparisons: pd.DataFrame) -> Iterator[str]:
    """Say for each view what a longer-trained source is worth: the loss after adapting, the gain by it, the speed."""
    if comparisons.empty:
        return
    last = comparisons[(comparisons["later"] == comparisons["later"].iloc[-1]) & (comparisons["shots"] == ALL_SHOTS)]
    views = {view: rows.drop(columns="view").reset_index(drop=True) for view, rows in last.groupby("view", sort=False)}
    if views.keys() == {"tuned", "fixed"} and views["tuned"].equals(views["fixed"]):
        views = {"tuned (everywhere the fixed)": views["tuned"]}
    for view, rows in views.items():
        row = rows.set_index("measure").to_dict("index")
        loss, change, steps = (row[name] for name in ("test_bits_per_byte", "change_bits_per_byte",
                                                      "steps_to_threshold"))
        below = "lower" if loss["difference"] < 0 else "higher"
        more = "more" if change["difference"] < 0 else "less"
        yield (f"Adapted at the {view} learning rate, the {loss['later']} checkpoint's loss on the target is "
               f"{abs(loss['difference']):.2f} bits per byte {below} than the {loss['earlier']} one's "
               f"({interval_text(loss)}; {loss['pairs']} source → target pairs, "
               f"{counted(loss['training_seeds'], 'training')} of each source, {counted(loss['seeds'], 'draw')} of "
               f"windows). Adapting lowers its own loss by {abs(change['difference']):.2f} {more} than the "
               f"{loss['earlier']} one's ({interval_text(change)}); the rest it knew before. "
               f"{steps['already_there']:.0%} of its runs stand before any step where the {loss['earlier']} one ends; "
               f"medians of steps to there: {steps['median_earlier']:.1f} and {steps['median_later']:.1f}.")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def interval_text(row: Row) -> str:
    """Write the signed difference, later minus earlier, its interval and what the interval allows to be claimed."""
    if math.isnan(row["low"]):
        return f"difference {row['difference']:+.2f}, no interval"
    return (f"difference {row['difference']:+.2f}, 95 % interval {row['low']:+.2f} to {row['high']:+.2f}, "
            + ("which excludes 0" if row["claim"] != "not decided" else "which does not exclude 0"))
