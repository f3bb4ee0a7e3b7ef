"""Colours, markers and dashes: how a domain, a stage and a method look, the same in every figure.

No drawing library is imported here, so that other pages can share the colours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from nanogpt.config import ATTRIBUTION_BASELINES, ATTRIBUTION_METHODS

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5C5C5C", "#B8A800")
"""Okabe and Ito's colour-blind safe palette (2008), its yellow darkened to show as a line on white."""
MARKERS = "osD^vPX*"
BASELINE_MARKERS = "sx+1"
DASHES = ("-", "--", "-.")       # dotted has a meaning of its own in several figures
STAGE_COLORS = {"early": "#A986CE", "mid": "#8A5FBF", "late": "#57278F", "final": "#26083F", "scratch": "#777777"}
"""The later, the further from the ground; from scratch is grey."""
INK, GREY, PALE = "#222222", "#777777", "#C8C8C8"
CELL_INK = "#010101"
"""Letters on a coloured ground, which stay as they are on a dark page."""
NAMED_COLORS = {STAGE_COLORS["early"]: ("early", "#6E5A93"), STAGE_COLORS["mid"]: ("mid", "#8C6DC4"),
                STAGE_COLORS["late"]: ("late", "#BB9BF0"), STAGE_COLORS["final"]: ("final", "#EDE1FF"),
                OKABE_ITO[0]: ("blue", "#3F9FDB"), OKABE_ITO[6]: ("slate", "#A9A9A9"), GREY: ("grey", "#9A9A9A")}
"""Colours of lines that a dark page needs in another shade: the name of each, and the shade. There too a later stage
stands out more from the ground."""


class LineStyle(NamedTuple):
    """How the lines and points of one group look, in the panels and in the legend: matplotlib's words."""

    color: str
    marker: str = "o"
    dashes: str = "-"
    fill: str = "full"


def nth_style(n: int) -> LineStyle:
    """Return the n-th of 192 distinct styles; the first 64 also differ without their dashes, as points do.

    Each pass through the colours shifts the markers by one and changes the dashes.
    """
    colors, markers = len(OKABE_ITO), len(MARKERS)
    turn, cycle = n // colors, n // (colors * markers)
    return LineStyle(OKABE_ITO[n % colors], MARKERS[(n + turn) % markers],
                     DASHES[(turn % markers + cycle) % len(DASHES)])


def domain_colors(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name, by order of first appearance; they repeat after eight."""
    return {name: nth_style(i).color for i, name in enumerate(dict.fromkeys(names))}


def domain_styles(order: Iterable[str], frame: pd.DataFrame, *columns: str) -> dict[str, LineStyle]:
    """Return the style of each domain in the `columns` of `frame`, which is its place in `order`, then in `frame`."""
    present = list(dict.fromkeys(name for column in columns for name in frame[column]))
    return {name: nth_style(i) for i, name in enumerate(dict.fromkeys([*order, *present])) if name in present}


def method_styles(methods: Iterable[str]) -> dict[str, LineStyle]:
    """Return the style of each of `methods`, those of the configuration first; baselines are last, grey and dashed."""
    present = dict.fromkeys(methods)
    names = [name for name in dict.fromkeys([*ATTRIBUTION_METHODS, *present]) if name not in ATTRIBUTION_BASELINES]
    styles = {name: nth_style(i) for i, name in enumerate(names)}
    styles |= {name: LineStyle(GREY, BASELINE_MARKERS[i % len(BASELINE_MARKERS)], "--")
               for i, name in enumerate(ATTRIBUTION_BASELINES)}
    return {name: style for name, style in styles.items() if name in present}


def stage_style(stage: str) -> LineStyle:
    """Return full lines with circles; from scratch is dashed with squares, a stage without a colour is blue."""
    color = STAGE_COLORS.get(stage, OKABE_ITO[0])
    return LineStyle(color, "s", "--") if stage == "scratch" else LineStyle(color)
