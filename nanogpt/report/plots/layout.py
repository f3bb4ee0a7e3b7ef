"""Where the parts of a figure stand: a grid of panels of equal size, a colour bar at its right, a legend below it.

matplotlib's constrained layout measures all texts twice over, and painting once more, to find out where titles and the
names of axes go. Here what stands around each panel is measured once, and titles and names are told where they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox, ScaledTranslation

from nanogpt.report.plots.ticks import Ticks, draw_ticks, read_ticks

PAD = 3                                 # points, beyond all that stands around a panel
TITLE_PAD, TITLE_HEIGHT = 4, 16         # points: the space below a title, and the title with it
BAR_SHARE, BAR_ASPECT = 0.9, 30         # of a colour bar: height over that of the panels, height over width
GUESS = (42, 34, 6, 20)                 # points around a panel, about: for a panel of that size axes choose their ticks


class Room(NamedTuple):
    """Pixels beyond the four edges of a panel."""

    left: float
    bottom: float
    right: float
    top: float


def arrange(figure: Figure, renderer: RendererAgg) -> None:
    """Place panels, colour bar and legend so that nothing covers another and nothing is cut off."""
    panels = [axes for axes in figure.axes if axes.get_subplotspec()]
    if not panels:
        return
    point, bars = figure.dpi / 72, [axes for axes in figure.axes if axes not in panels]
    legend = sum(legend.get_window_extent(renderer).height + 2 * PAD * point for legend in figure.legends)
    area = Bbox.from_extents(0, legend, figure.bbox.width, figure.bbox.height)
    place(dict.fromkeys(panels, Room(*(points * point for points in GUESS))), area)
    both: list[Axis] = [axis for axes in panels for axis in (axes.xaxis, axes.yaxis)]
    own = {axis: ticks for axis in both if (ticks := read_ticks(axis))}
    rooms = {axes: room_around(axes, renderer, own) for axes in panels}
    for bar in bars:
        beside = place_bar(bar, panels, area.x0)
        room = room_around(bar, renderer, {})
        area = Bbox.from_extents(0, legend, area.x1 - beside.width - room.left - room.right, area.y1)
    place(rooms, area)
    for bar in bars:
        place_bar(bar, panels, area.x1 + room.left)


def room_around(axes: Axes, renderer: RendererAgg, own: Mapping[Axis, Ticks]) -> Room:
    """Measure what stands around a panel, and put the names of its axes beyond the ticks; `own` ones are drawn."""
    point, panel, both = axes.figure.dpi / 72, axes.bbox, (axes.xaxis, axes.yaxis)
    for axis in both:
        axis.set_label_coords(0.5, 0.5)     # inside, so that the ticks alone are measured
    texts = [text.get_window_extent(renderer) for text in axes.texts if text.get_in_layout()]
    names = [Bbox.from_extents(*box) for axis in both if axis in own
             for box in draw_ticks(axes, axis, own[axis]).boxes()]
    ticks = [box for axis in both if axis not in own
             if (box := axis.get_tightbbox(renderer, for_layout_only=True))]
    around = Bbox.union([panel, *names, *ticks, *texts])
    beyond = dict(zip(Room._fields, (panel.x0 - around.x0, panel.y0 - around.y0, around.x1 - panel.x1,
                                     around.y1 - panel.y1), strict=True))
    beyond["top"] = max(beyond["top"], TITLE_HEIGHT * point * bool(axes.get_title(loc="left")))
    for axis in both:
        side = axis.get_label_position()
        distance = beyond[side] + axis.labelpad * point
        x, y, right, up = {"bottom": (0.5, 0, 0, -1), "left": (0, 0.5, -1, 0), "right": (1, 0.5, 1, 0)}[side]
        inches = distance / axes.figure.dpi     # whatever the resolution, it is painted in
        axis.set_label_coords(x, y, axes.transAxes + ScaledTranslation(right * inches, up * inches,
                                                                       axes.figure.dpi_scale_trans))
        if axis.label.get_text():
            size = axis.label.get_window_extent(renderer)
            distance += size.height if up else size.width
        beyond[side] = distance
    return Room(**{side: pixels + PAD * point for side, pixels in beyond.items()})


def place(rooms: Mapping[Axes, Room], area: Bbox) -> None:
    """Give all panels of the grid one size, and each row and column the room that it needs, in `area` of the figure."""
    cells = {axes: cell for axes in rooms if (cell := axes.get_subplotspec())}
    rows, columns = next(iter(cells.values())).get_gridspec().get_geometry()
    before_x, after_x, before_y, after_y = np.zeros(columns), np.zeros(columns), np.zeros(rows), np.zeros(rows)
    for axes, cell in cells.items():
        room, i, j = rooms[axes], cell.rowspan.start, cell.colspan.start
        before_x[j], after_x[j] = max(before_x[j], room.left), max(after_x[j], room.right)
        before_y[i], after_y[i] = max(before_y[i], room.top), max(after_y[i], room.bottom)
    width = max(1.0, (area.width - before_x.sum() - after_x.sum()) / columns)
    height = max(1.0, (area.height - before_y.sum() - after_y.sum()) / rows)
    for axes, cell in cells.items():
        i, j = cell.rowspan.start, cell.colspan.start
        x = area.x0 + before_x[:j + 1].sum() + after_x[:j].sum() + j * width
        y = area.y1 - before_y[:i + 1].sum() - after_y[:i].sum() - (i + 1) * height
        set_pixels(axes, Bbox.from_bounds(x, y, width, height))


def place_bar(bar: Axes, panels: Sequence[Axes], x: float) -> Bbox:
    """Put a colour bar at `x` beside the panels, at half their height; returns where it is."""
    low, high = min(axes.bbox.y0 for axes in panels), max(axes.bbox.y1 for axes in panels)
    height = BAR_SHARE * (high - low)
    pixels = Bbox.from_bounds(x, (low + high - height) / 2, height / BAR_ASPECT, height)
    set_pixels(bar, pixels)
    return pixels


def set_pixels(axes: Axes, pixels: Bbox) -> None:
    axes.set_position(pixels.transformed(axes.figure.transFigure.inverted()))
