"""The first screen of the page: at most four claims, each with one number, its interval and the figure behind it.

A card shows the row that is least favourable to its claim, so that no number is the best of several. Its rule is that
of the finding below it, or a stricter one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from nanogpt.report.findings import SIGNIFICANCE, is_ahead, latest_stage, nearest_rivals, of_domains, overconfidence
from nanogpt.report.tables import StudyTables
from nanogpt.transfer.tables import ALL_SHOTS, counted

MOST_WORDS = 12
"""Of a claim."""


@dataclass(frozen=True)
class Card:
    """A claim of at most MOST_WORDS words, a number with its unit, and what the number is of.

    `interval` is the number's 95 % interval; "" says that there is none, so that the card describes and claims no more.
    """

    claim: str
    number: str
    interval: str
    basis: str
    section: str
    figure: str


def cards(tables: StudyTables) -> list[Card]:
    """Return the cards for which the tables have rows."""
    return [*_of_specialisation(tables.table("comparisons")), *_of_transfer(tables.table("stage_comparisons")),
            *_of_confidence(of_domains(tables.table("zero_shot"))), *_of_attribution(tables.table("seed_agreement"))]


def _of_specialisation(comparisons: pd.DataFrame) -> Iterator[Card]:
    """Yield by how much the own models lead the other domains' where that lead is smallest."""
    if comparisons.empty:
        return
    rows = comparisons[(comparisons["stage"] == latest_stage(comparisons))
                       & comparisons["rival"].isin(comparisons["target"])]
    nearest = nearest_rivals(rows)
    if not nearest:
        return
    ahead, smallest = sum(map(is_ahead, nearest)), min(nearest, key=lambda row: row["ahead_bits_per_byte"])
    claim = ("Each domain's own model beats the other domains' models" if ahead == len(nearest)
             else f"Own models beat other domains' models on {ahead} of {len(nearest)} domains")
    yield Card(claim, f"{smallest['ahead_bits_per_byte']:+.2f} bits per byte",
               interval_of(smallest["ahead_low"], smallest["ahead_high"]),
               f"Smallest lead: on {smallest['target']}, against the model of {smallest['rival']}; over "
               f"{counted(smallest['units'], 'unit')} of text and {counted(smallest['seeds'], 'training')} of each "
               "domain. Leads count that hold after Holm's correction.", "zero-shot", "ranking")


def _of_transfer(comparisons: pd.DataFrame) -> Iterator[Card]:
    """Yield whether the latest checkpoint ends lower than the early one after adapting at tuned rates."""
    if comparisons.empty:
        return
    rows = comparisons[(comparisons["view"] == "tuned") & (comparisons["shots"].astype(str) == ALL_SHOTS)
                       & (comparisons["measure"] == "test_bits_per_byte")].to_dict("records")
    if not rows:
        return
    last = rows[-1]
    below, above = ("lower" if last["difference"] < 0 else "higher"), f"the {last['earlier']} one"
    if math.isnan(last["low"]):
        claim = f"Adapted, the {last['later']} checkpoint ended {below} than {above} here"
    elif last["claim"] != "not decided" and last["p_holm"] < SIGNIFICANCE:
        claim = f"Adapted, the {last['later']} checkpoint ends {below} than {above}"
    else:
        claim = f"Adapted, the {last['later']} checkpoint is not shown to beat {above}"
    yield Card(claim, f"{last['difference']:+.2f} bits per byte", interval_of(last["low"], last["high"]),
               f"Test loss on the target, {last['later']} minus {last['earlier']}; over "
               f"{counted(last['pairs'], 'pair')} of source and target. The claim allows for Holm's correction"
               + (f": p = {last['p_holm']:.2g}." if math.isfinite(last["p_holm"]) else "."),
               "transfer", "stage_differences")


def _of_confidence(zero_shot: pd.DataFrame) -> Iterator[Card]:
    """Yield how much surer than right the last models are on texts of other domains; the tables have no interval."""
    _, away = overconfidence(zero_shot)
    if len(away):
        surer = "surer" if away.mean() > 0 else "less sure"
        yield Card(f"On other domains, models are on average {surer} than right",
                   f"{100 * away.mean():+.1f} points", "",
                   f"Confidence less accuracy, mean over {counted(len(away), 'pair')} of model and text.",
                   "confidence", "confidence_curves")


def _of_attribution(agreement: pd.DataFrame) -> Iterator[Card]:
    """Yield whether training changes the maps more than a seed does, where early and final maps are most alike.

    It does where the two 95 % intervals of every domain lie apart, which is stricter than a test at 5 %; a claim that
    holds only where all of its tests do needs no correction for their number.
    """
    if agreement.empty:
        return
    over_training = agreement[agreement["compared"] == "early and final"].to_dict("records")
    over_seeds = {row["domain"]: row for row in agreement.to_dict("records") if row["compared"] == "two seeds, final"}
    if not over_training:
        return
    nearest = max(over_training, key=lambda row: row["spearman"])
    if not over_seeds:
        claim = "Maps of early and final checkpoints agree this far"
    elif all(row["domain"] in over_seeds and row["high"] < over_seeds[row["domain"]]["low"] for row in over_training):
        claim = "Training changes what models look at more than seeds do"
    else:
        claim = "Training is not shown to change maps more than seeds do"
    beside = over_seeds.get(nearest["domain"])
    yield Card(claim, f"ρ = {nearest['spearman']:.2f}", interval_of(nearest["low"], nearest["high"]),
               f"Early and final maps on {nearest['domain']}, where they are most alike; over "
               f"{counted(nearest['prompts'], 'prompt')} and {counted(nearest['trainings'], 'training')}."
               + (f" Two seeds: ρ = {beside['spearman']:.2f} ({interval_of(beside['low'], beside['high'])})."
                  if beside else ""), "attribution", "attribution_curves")


def interval_of(low: float, high: float) -> str:
    """Return the limits of an interval as a card shows them, '' where there is none."""
    return "" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"
