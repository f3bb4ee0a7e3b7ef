"""The few numbers by which whole studies are compared."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from nanogpt.config import JOINT
from nanogpt.report.tables import StudyTables, last_steps, most_shots, own_texts

HEADLINES = {
    "own_bits_per_byte": "loss of the last models on the test text of their own domain",
    "others_bits_per_byte": "their loss on that of the other domains",
    "lead_bits_per_byte": "how far the next domain's model is behind the own one, on the own text",
    "own_overconfidence": "confidence less accuracy on the own domain",
    "others_overconfidence": "the same on the other domains",
    "adapted_bits_per_byte": "test loss of trained models after adaptation with the most windows, at the tuned rate",
    "late_minus_early_bits_per_byte": "how much lower (negative) late checkpoints end than early ones",
    "map_faithfulness": "rank correlation of the first method's maps with leaving characters out, last models",
}
"""Each with what it is: means over domains, pairs of domains and seeds."""


def headlines(tables: StudyTables) -> dict[str, float]:
    """Return the numbers of HEADLINES; those whose tables are missing or too small are left out."""
    found = dict([*_of_zero_shot(tables.table("zero_shot")), *_of_transfers(tables.table("transfers")),
                  *_of_maps(tables.table("faithfulness"), tables.first_method)])
    return {name: float(found[name]) for name in HEADLINES if name in found and pd.notna(found[name])}


def _of_zero_shot(zero_shot: pd.DataFrame) -> Iterator[tuple[str, float]]:
    if zero_shot.empty:
        return
    last = last_steps(zero_shot[zero_shot["source"] != JOINT], "source")
    own, others = own_texts(last), last[last["source"] != last["target"]]
    for name, rows in (("own", own), ("others", others)):
        yield f"{name}_bits_per_byte", rows["bits_per_byte"].mean()
        yield f"{name}_overconfidence", rows["overconfidence"].mean()
    nearest = others.groupby("target")["bits_per_byte"].min()
    yield "lead_bits_per_byte", (nearest - own.set_index("target")["bits_per_byte"]).mean()


def _of_transfers(transfers: pd.DataFrame) -> Iterator[tuple[str, float]]:
    if transfers.empty:
        return
    rows = most_shots(transfers[transfers["view"] == "tuned"])
    yield "adapted_bits_per_byte", rows.loc[rows["stage"] != "scratch", "test_bits_per_byte"].mean()
    means = rows.groupby("stage")["test_bits_per_byte"].mean()
    if {"early", "late"} <= set(means.index):
        yield "late_minus_early_bits_per_byte", means["late"] - means["early"]


def _of_maps(faithfulness: pd.DataFrame, method: str) -> Iterator[tuple[str, float]]:
    if not faithfulness.empty:
        rows = last_steps(faithfulness[faithfulness["domain"] != JOINT], "domain")
        yield "map_faithfulness", rows.loc[rows["method"] == method, "spearman_leave_one_out"].mean()
