"""How a domain, a stage and a character look, the same in every picture; and the rows that a picture picks.

No drawing library is imported here, so the report and other pages can share the colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5C5C5C", "#B8A800")
"""Okabe and Ito's colour-blind safe palette (2008), its yellow darkened to show as a line on white."""
MARKERS = "osD^vPX*"
STAGES = {"early": "#B79AD6", "mid": "#8A5FBF", "late": "#57278F", "final": "#26083F", "scratch": "#777777"}
"""A stage's colour: darker is later; from scratch is grey."""
WHITESPACE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "↵"})


class Look(NamedTuple):
    """How the lines of one group look, in the panels and in the legend: matplotlib's words."""

    color: str
    marker: str = "o"
    dashes: str = "-"
    fill: str = "full"


def visible(text: object) -> str:
    """`text` with its white space shown; a missing value is ''. (␣ and not ␠, which matplotlib's own font lacks.)

    >>> visible("To be\\n")
    'To␣be⏎'
    """
    return text.translate(WHITESPACE) if isinstance(text, str) else ""


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def domain_colors(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, by order of first appearance; they repeat after eight."""
    return {name: OKABE_ITO[i % len(OKABE_ITO)] for i, name in enumerate(dict.fromkeys(names))}


def domain_looks(frame: pd.DataFrame, order: Sequence[str], *columns: str) -> dict[str, Look]:
    """A colour and a marker for each domain in the `columns` of `frame`; `order` comes first."""
    present = list(dict.fromkeys(name for column in columns for name in frame[column]))
    colors = domain_colors([*order, *present])
    return {name: Look(color, MARKERS[i % len(MARKERS)]) for i, (name, color) in enumerate(colors.items())
            if name in present}


def stage_look(stage: str) -> Look:
    """From scratch is dashed with squares; the others are full lines with circles, those without a name in blue."""
    color = STAGES.get(stage, OKABE_ITO[0])
    return Look(color, "s", "--") if stage == "scratch" else Look(color)


def stages_of(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each stage, in the order of `STAGES`, then of any other (a model that a user named)."""
    return groups_of(frame, "stage", dict.fromkeys([*STAGES, *frame["stage"]]))


def groups_of(frame: pd.DataFrame, column: str, order: Iterable[str]) -> dict[str, pd.DataFrame]:
    """The rows of each value of `column`, in `order`, without the empty ones."""
    return {name: rows for name in order if len(rows := frame.loc[frame[column] == name])}


def most_shots(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with the largest number of `shots`, where there is such a column."""
    return frame[frame["shots"] == frame["shots"].max()] if "shots" in frame else frame


def pivot(rows: pd.DataFrame, index: str, columns: str, values: str) -> pd.DataFrame:
    """`values` by `index` and `columns`; where a pair occurs twice its first row counts."""
    return rows.drop_duplicates([index, columns]).pivot(index=index, columns=columns, values=values)


def by_source(frame: pd.DataFrame, domains: Sequence[str]) -> tuple[dict[str, Look], dict[str, pd.DataFrame]]:
    """The looks of all domains in the frame, and the rows of each source, both in the order of `domains`."""
    styles = domain_looks(frame, domains, "source", "target")
    order = [name for name in dict.fromkeys([*domains, *styles]) if name in styles]
    return {name: styles[name] for name in order}, groups_of(frame, "source", order)


def stage_tables(zero_shot: pd.DataFrame, domains: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Title to bits per byte by source and target: one table for each stage, or else one for the last steps."""
    order = by_source(zero_shot, domains)[0]
    frames = groups_of(zero_shot, "stage", STAGES)
    frames = frames or {"last step": zero_shot.sort_values("step").groupby(["source", "target"]).tail(1)}
    tables = {}
    for stage, rows in frames.items():
        steps, table = rows["step"].unique(), pivot(rows, "source", "target", "bits_per_byte")
        title = f"{stage}, step {steps[0]:,}" if len(steps) == 1 else stage
        tables[title] = table.reindex(index=[name for name in order if name in table.index],
                                      columns=[name for name in order if name in table])
    return tables


def pairs_of(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`source → target` to its rows, those of one target side by side."""
    return {f"{source} → {target}": rows for target, part in frame.groupby("target", sort=False)
            for source, rows in part.groupby("source", sort=False)}


def last_predictions(attribution: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """The rows of what follows `prompt`, with `end`: the step, what was predicted and its probability."""
    if attribution.empty:
        return attribution
    rows = attribution[attribution["prompt"] == prompt]
    rows = rows[rows["target_position"] == rows["target_position"].max()]
    ends = [f"{step} → {visible(target)} {probability:.0%}" for step, target, probability
            in zip(rows["step"], rows["target"], rows["probability"], strict=True)]
    named: pd.DataFrame = rows.assign(source=rows["domain"], end=ends)
    return named


def step_ticks(steps: Iterable[int], most: int = 8) -> list[int]:
    """At most `most` of `steps` and 0, from the last one back, each at least 1.8 times the one before."""
    known, ticks = sorted(set(steps), reverse=True), list[int]()
    for step in known:
        if not ticks or 0 < step <= ticks[-1] / 1.8:
            ticks.append(step)
    return [0] * (0 in known) + ticks[::-(-len(ticks) // most)]
