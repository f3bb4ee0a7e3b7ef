"""Figures of a prompt: what each prediction rests on, and which characters were expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nanogpt.report.plots.letters import write_letters
from nanogpt.report.plots.panels import SMALL, add_color_bar, draw_heat, name_axes, name_ticks, panels, write_on_heat
from nanogpt.report.style import CELL_INK, OKABE_ITO, PALE, domain_colors
from nanogpt.report.tables import StudyTables, groups_of, last_predictions, likeliest, pivot
from nanogpt.report.wording import attributed_value, spaced, visible, wrapped

LETTER_DISTANCE = 8.0    # points, from an axis to the middle of its letters
LEAST_WRITTEN = 0.15     # probability of a candidate whose box has the room for its character


def attribution_map(tables: StudyTables, prompt: str) -> Figure:
    """Draw how much each character counts for what follows `prompt`; beside each step, what was predicted."""
    rows = last_predictions(tables.first_maps[prompt])
    labels = [f"{step} → {visible(target)} {probability:.0%}" for step, target, probability
              in zip(rows["step"], rows["target"], rows["probability"], strict=True)]
    return _step_maps(rows.assign(label=labels), "share", _share_label(tables), prompt)


def top_characters(tables: StudyTables, prompt: str) -> Figure:
    """Draw the entropy after each character of `prompt`; in the cell the likeliest next one, bold where it follows."""
    rows = likeliest(tables.table("top_characters"), prompt)
    return _step_maps(rows.assign(label=rows["step"]), "entropy_nats", "entropy, nats", prompt)


def attribution_triangle(tables: StudyTables, prompt: str) -> Figure:
    """Draw how much each character (column) counts for each later one (row) after the last step, by domain."""
    rows = tables.first_maps[prompt]
    rows = rows[rows["step"] == rows["step"].max()]
    groups, norm = groups_of(rows, "domain", rows["domain"].unique()), PowerNorm(0.5, 0, 1)
    size, columns = max(2.6, 0.115 * len(prompt) + 1), min(2, len(groups))
    figure, every = panels(-(-len(groups) // columns), columns, (size, size + 0.2), count=len(groups))
    for axes, (domain, part) in zip(every, groups.items(), strict=True):
        draw_heat(axes, pivot(part, "target_position", "position", "share"), norm, "Blues")
        note = _write_letters(axes, "x", prompt, _unknown_characters(part))
        targets = part.drop_duplicates("target_position").sort_values("target_position")["target"]
        _write_letters(axes, "y", list(targets))
        name_axes(axes, f"{domain}, step {part['step'].iloc[0]:,}", f"character that was read{note}",
                  "character that was predicted")
    add_color_bar(figure, every, norm, "Blues", _share_label(tables))
    return figure


def candidates(tables: StudyTables, prompt: str) -> Figure:
    """Draw the likeliest next characters after each one of `prompt`, stacked, over the checkpoints of one model.

    The one that follows is in colour. A model that grows surer has ever taller first bars; where they are grey it is
    sure and wrong.
    """
    top, source = tables.table("top_characters"), _model_of(tables, prompt)
    rows = top[(top["prompt"] == prompt) & (top["source"] == source) & top["target"].notna()]
    rows = rows[rows["step"] > 0] if rows["step"].any() else rows
    rows = rows.sort_values(["step", "rank"]).drop_duplicates(["step", "position", "rank"])
    groups = {int(str(step)): part for step, part in rows.groupby("step")}
    color = domain_colors([*tables.domain_order, source])[source]
    figure, every = panels(max(1, len(groups)), 1, (max(5.0, 0.17 * len(prompt) + 0.8), 1.35), sharey=True)
    for axes, (step, part) in zip(every, groups.items(), strict=False):
        _stack_candidates(axes, part, color)
        followed = part.drop_duplicates("position")
        _write_letters(axes, "x", list(followed["target"]))
        axes.set_xlim(-0.6, len(prompt) - 1.4)
        axes.set_ylim(0, 1)
        stage = next(filter(None, part["stage"]), "") if "stage" in part else ""
        name_axes(axes, f"{source}, step {step:,} {stage} · mean entropy {followed['entropy_nats'].mean():.2f} nats",
                  "", "probability")
    return figure


def _stack_candidates(axes: Axes, rows: pd.DataFrame, color: str) -> None:
    """Draw a box for each candidate, as high as its probability, with its character where it has the room."""
    bottoms = rows.groupby("position")["probability"].cumsum() - rows["probability"]
    follows = rows["candidate"] == rows["target"]
    boxes = [((x - 0.46, y), (x + 0.46, y), (x + 0.46, y + height), (x - 0.46, y + height))
             for x, y, height in zip(rows["position"], bottoms, rows["probability"], strict=True)]
    axes.add_collection(PolyCollection(boxes, facecolors=[color if hit else PALE for hit in follows],
                                       edgecolors="white", linewidths=0.8))
    tall = rows[rows["probability"] > LEAST_WRITTEN]
    write_letters(axes, list(map(visible, tall["candidate"])),
                  list(zip(tall["position"], (bottoms + rows["probability"] / 2)[tall.index], strict=True)), SMALL,
                  colors=["white" if hit else CELL_INK for hit in follows[tall.index]])


def _model_of(tables: StudyTables, prompt: str) -> str:
    """Return the model whose domain the prompt comes from, else the first that read it."""
    generations, top = tables.table("generations"), tables.table("top_characters")
    sources = list(top.loc[top["prompt"] == prompt, "source"].unique())
    domain_of = dict(zip(generations.get("prompt", ()), generations.get("prompt_domain", ()), strict=True))
    return str(domain_of[prompt] if domain_of.get(prompt) in sources else sources[0])


def _step_maps(rows: pd.DataFrame, value: str, bar: str, prompt: str) -> Figure:
    """Draw a panel for each `source`: steps down, characters of the prompt across, `value` as colour, one scale."""
    groups, norm = groups_of(rows, "source", dict.fromkeys(rows["source"])), Normalize(0, rows[value].max())
    height = 0.21 * rows["step"].nunique() + 0.7
    figure, every = panels(len(groups), 1, (max(5.0, 0.185 * len(prompt) + 1.8), height))
    for axes, (source, part) in zip(every, groups.items(), strict=True):
        table = pivot(part, "step", "position", value)
        draw_heat(axes, table, norm, "Blues")
        name_ticks(axes.yaxis, list(part.groupby("step")["label"].first().astype(str)))
        note = _write_letters(axes, "x", prompt, _unknown_characters(part))
        name_axes(axes, source, note, "step")
        if "candidate" in part:
            heights = {step: height for height, step in enumerate(table.index)}
            write_on_heat(axes, list(map(visible, part["candidate"])),
                          list(zip(part["position"], part["step"].map(heights), strict=True)), norm(part[value]),
                          list(part["candidate"] == part["target"]))
    add_color_bar(figure, every, norm, "Blues", bar)
    return figure


def _share_label(tables: StudyTables) -> str:
    """Say beside the colour bar of what the shares are."""
    return wrapped(f"share of the {spaced(tables.first_method)} of {attributed_value(tables)}")


def _unknown_characters(rows: pd.DataFrame) -> frozenset[str]:
    """Return the characters that the model of these rows does not know."""
    return frozenset(rows.loc[rows["unknown"].astype(bool), "character"])


def _write_letters(axes: Axes, axis: Literal["x", "y"], text: Sequence[str],
                   unknown: frozenset[str] = frozenset()) -> str:
    """Write a character at each place of an axis, `unknown` ones in a box; return what to say of that, or nothing.

    They are no ticks, which a figure would need twice as long for.
    """
    along = axes.xaxis if axis == "x" else axes.yaxis
    along.set_ticks([])
    along.labelpad = LETTER_DISTANCE + 0.6 * SMALL
    place = axes.get_xaxis_text1_transform if axis == "x" else axes.get_yaxis_text1_transform
    transform, _, _ = place(LETTER_DISTANCE)
    places = [(i, 0) if axis == "x" else (0, i) for i in range(len(text))]
    write_letters(axes, list(map(visible, text)), places, SMALL, transform, gid=f"{axis} letters")
    if boxed := [place for place, character in zip(places, text, strict=True) if character in unknown]:
        axes.add_artist(Line2D(*np.transpose(boxed), linestyle="", marker="s", markersize=1.4 * SMALL, fillstyle="none",
                               color=OKABE_ITO[1], transform=transform, clip_on=False, in_layout=False, gid="boxed"))
    return " (boxed: unknown to the model)" if boxed else ""
