"""What the tables of a study say, in sentences made from their numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from nanogpt.config import JOINT
from nanogpt.report.findings_evaluation import evaluation_findings
from nanogpt.report.style import listed
from nanogpt.report.tables import StudyTables
from nanogpt.transfer.tables import sentences


def findings(study: StudyTables) -> list[str]:
    """What the tables say, in sentences."""
    zero_shot = study.table("zero_shot")
    if len(zero_shot):     # the reference trained on all domains is at home on none
        zero_shot = zero_shot[zero_shot["source"] != JOINT]
    found = _zero_shot_findings(zero_shot) if len(zero_shot) else ()
    return [*found, *evaluation_findings(zero_shot, study.table), *sentences(study.table("stage_comparisons")),
            *attribution_findings(study.table("faithfulness"))]


def _zero_shot_findings(zero_shot: pd.DataFrame) -> Iterator[str]:
    by_model = zero_shot.groupby("source")["step"]
    first = zero_shot[zero_shot["step"] == by_model.transform("min")]
    last = zero_shot[zero_shot["step"] == by_model.transform("max")]
    own, own_first = last[last["source"] == last["target"]], first[first["source"] == first["target"]]
    if len(own) and len(first) and first["step"].max() < last["step"].min():
        falls = own.merge(own_first, on="source", suffixes=("", "_first"))
        changes = [f"from {row.bits_per_byte_first:.2f} to {row.bits_per_byte:.2f} on {row.source}"
                   for row in falls.itertuples()]
        yield (f"Over {last['step'].max():,} training steps, the bits per byte of each model on its own domain's test "
               f"text went {listed(changes)}.")
    if zero_shot["source"].nunique() > 1 and len(own):
        yield from _best_models(last, own)
    away, away_first = last[last["source"] != last["target"]], first[first["source"] != first["target"]]
    if len(own) and len(away):
        yield (f"The mean entropy of the predictions went from {own_first['entropy_nats'].mean():.2f} to "
               f"{own['entropy_nats'].mean():.2f} nats on the own domain and from "
               f"{away_first['entropy_nats'].mean():.2f} to {away['entropy_nats'].mean():.2f} on the others; there, "
               f"characters never seen in training carry {away['unseen_loss_share'].min():.1%} to "
               f"{away['unseen_loss_share'].max():.1%} of the loss.")


def _best_models(last: pd.DataFrame, own: pd.DataFrame) -> Iterator[str]:
    """Which model is best on each domain, and by how much."""
    wins, losses = [], []
    for name, mine in zip(own["target"], own["bits_per_byte"], strict=True):
        others = last[(last["target"] == name) & (last["source"] != name)].nsmallest(1, "bits_per_byte")
        for rival, value in zip(others["source"], others["bits_per_byte"], strict=True):
            if mine < value:
                wins.append(f"{name} by {value - mine:.2f}")
            else:
                losses.append(f"on {name} the model of {rival} is ahead by {mine - value:.2f}")
    count = len(wins) + len(losses)
    many = "all" if not losses else f"{len(wins)} of" if wins else "none of"
    tail = f"; {listed(losses)}" if losses else ""
    lead = f", ahead of the next model on {listed(wins)}" if wins else ""
    yield (f"The model trained on a domain is the best on its test text for {many} {count} domains{lead}{tail} bits "
           "per byte.")


def attribution_findings(faithfulness: pd.DataFrame) -> Iterator[str]:
    """Whether the maps of the last checkpoints say more than recency does."""
    if faithfulness.empty:
        return
    last = faithfulness[faithfulness["step"] == faithfulness.groupby("domain")["step"].transform("max")]
    mean = last.groupby("method", sort=False)["spearman_leave_one_out"].mean()
    told = [f"{mean[name]:.2f} by {name.replace('_', ' ')}" for name in mean.index if name != "leave_one_out"]
    yield (f"What happens when a character is taken away is ranked (Spearman) {listed(told)}; a map that does not rank "
           "it better than recency adds nothing to it.")
