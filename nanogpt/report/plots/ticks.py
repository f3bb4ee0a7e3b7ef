"""The ticks of an axis as three artists: their grid, their marks and their names.

matplotlib makes five artists for each tick and measures its name several times, which was a third of a figure's time.
Where the ticks are and how they are called is still the axis's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN, TICKLEFT, MarkerStyle
from matplotlib.ticker import NullLocator

from nanogpt.report.plots.letters import Letters, write_letters

MARK, GAP = 3.5, 3.5        # points: the length of a mark, and the space between it and a name
NAME = 8                    # points: the size of a name
TURNED = "turned names"
"""The id of an axis whose ticks matplotlib draws."""


class Ticks(NamedTuple):
    """Where the ticks of an axis are, in units of the data, and how they are called."""

    places: Sequence[float]
    names: Sequence[str]
    minor: Sequence[float]


def read_ticks(axis: Axis) -> Ticks | None:
    """Return the ticks of an axis at its present length; None where matplotlib must draw them."""
    formatter, places = axis.get_major_formatter(), in_sight(axis, axis.get_majorticklocs())
    names = formatter.format_ticks(places)
    if axis.get_gid() == TURNED or formatter.get_offset():
        return None
    return Ticks(places, names, in_sight(axis, axis.get_minorticklocs()))


def in_sight(axis: Axis, places: Iterable[float]) -> list[float]:
    low, high = sorted(axis.get_view_interval())
    rounding = 1e-9 * (high - low)
    return [float(place) for place in places if low - rounding <= place <= high + rounding]


def draw_ticks(axes: Axes, axis: Axis, ticks: Ticks) -> Letters:
    """Draw ticks in place of the axis's own, in a heat map without marks and grid; returns their names."""
    axis.set_major_locator(NullLocator())
    axis.set_minor_locator(NullLocator())
    along_x, heat = axis is axes.xaxis, bool(axes.images)

    def points(places: Sequence[float], across: float) -> list[tuple[float, float]]:
        return [(place, across) if along_x else (across, place) for place in places]

    if not heat:
        in_data = axes.get_xaxis_transform() if along_x else axes.get_yaxis_transform()
        lines = list(zip(points(ticks.places, 0), points(ticks.places, 1), strict=True))
        axes.add_collection(LineCollection(lines, colors="#b0b0b0", linewidths=0.6, alpha=0.25, zorder=1.5,
                                           transform=in_data), autolim=False)
        for places, share in ((ticks.places, 1.0), (ticks.minor, 0.6)):
            axes.add_artist(Line2D(*np.reshape(points(places, 0), (-1, 2)).T, linestyle="", color="black",
                                   marker=MarkerStyle(TICKDOWN if along_x else TICKLEFT), markersize=share * MARK,
                                   markeredgewidth=share * 0.8, zorder=2, clip_on=False, transform=in_data))
    distance = GAP + MARK * (not heat)
    place, anchor = ((axes.get_xaxis_text1_transform(distance + NAME / 2), 0.5) if along_x
                     else (axes.get_yaxis_text1_transform(distance), 1.0))
    return write_letters(axes, ticks.names, points(ticks.places, 0), NAME, place[0], anchor=anchor)
