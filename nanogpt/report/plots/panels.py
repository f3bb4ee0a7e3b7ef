"""What the figures share: panels, lines, ticks, legends, heat maps, and a figure as bytes; without pyplot's state."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike
from PIL import Image

from nanogpt.report.plots.layout import TITLE_PAD, arrange
from nanogpt.report.plots.letters import write_letters
from nanogpt.report.plots.ticks import TURNED
from nanogpt.report.plots.vector import Drawing, svg
from nanogpt.report.style import CELL_INK, LineStyle
from nanogpt.report.tables import by_pair

SMALL = 8          # points
MOST_COLUMNS = 3
TICKS_INCHES, LETTER_INCHES = 0.5, 0.08     # left of a panel; of a title's letter, about
MOST_DECADES = 1.9  # of an axis with two ticks in each
DARK = 0.55        # where on a colour map white letters read better
Panels = tuple[Figure, list[Axes]]


def paint(figure: Figure, name: str = "figure", dpi: int = 144) -> Drawing:
    """Lay out and paint a figure, which can be done once. Letters that the font lacks are boxes."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        arrange(figure, canvas.get_renderer())
        pixels, (width, height) = canvas.print_to_buffer()
        image, stream = Image.frombuffer("RGBA", (width, height), pixels).convert("RGB"), io.BytesIO()
        image.save(stream, "png", dpi=(dpi, dpi), compress_level=3)      # 4 % larger than at 6, in 2/3 of the time
        return Drawing(stream.getvalue(), svg(figure, name))


def panels(rows: int, columns: int, size: tuple[float, float], count: int = 0, sharey: Any = False) -> Panels:
    """Return a figure and `count` panels (0: all) of `size` inches in a grid, with what all figures share."""
    figure = Figure(figsize=(max(4.5, columns * size[0]), rows * size[1] + 0.4))
    every = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in every[count or len(every):]:
        axes.remove()
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=SMALL)       # by which an axis also chooses how many ticks it has
    return figure, every[:count or None]


def pair_panels(frame: pd.DataFrame, sharey: Any = False) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:
    """Return a figure with a panel for each source → target, those of a target side by side, and the rows of each."""
    groups = by_pair(frame)
    columns = min(3, frame.groupby("target")["source"].nunique().max())
    figure, every = panels(-(-len(groups) // columns), columns, (3.4, 2.5), count=len(groups), sharey=sharey)
    return figure, [(axes, pair, rows) for axes, (pair, rows) in zip(every, groups.items(), strict=True)]


def draw_line(axes: Axes, rows: pd.DataFrame, x: str, y: str, style: LineStyle, markersize: float = 4.5) -> None:
    rows = rows.dropna(subset=y)
    axes.plot(rows[x], rows[y].astype(float), color=style.color, marker=style.marker, linestyle=style.dashes,
              fillstyle=style.fill, linewidth=1.5, markersize=markersize)


def grid_of(count: int, size: tuple[float, float], sharey: Any = False) -> Panels:
    """Return a figure and `count` panels, three in a row at most, so that a page need not be scrolled sideways."""
    columns = min(MOST_COLUMNS, count)
    return panels(-(-count // columns), columns, size, count=count, sharey=sharey)


def name_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Write a title, in the middle of which is left out what its panel has no room for, and the names of both axes."""
    cell, inches = axes.get_subplotspec(), axes.figure.bbox.width / axes.figure.dpi
    columns = cell.get_gridspec().ncols if cell else 1
    title = shortened(title, round((inches / columns - TICKS_INCHES) / LETTER_INCHES))
    axes.set_title(title, fontsize=10, loc="left", y=1, pad=TITLE_PAD, parse_math=False)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def shortened(text: str, most: int) -> str:
    """Leave out the middle of a text of more than `most` characters."""
    tail = most // 2
    return text if len(text) <= most else f"{text[:most - tail - 1]}…{text[len(text) - tail:]}"


def add_legend(figure: Figure, styles: Mapping[str, LineStyle], title: str = "") -> None:
    lines = [Line2D([], [], color=style.color, marker=style.marker, ls=style.dashes,
                    fillstyle=style.fill)  # type: ignore[arg-type]
             for style in styles.values()]
    figure.legend(lines, list(styles), loc="lower center", frameon=False, title=title or None, title_fontsize=9,
                  ncols=legend_columns(list(styles), figure.get_figwidth()), fontsize=9)


def legend_columns(names: Sequence[str], inches: float) -> int:
    """Return in how many columns, 8 at most, a legend's entries fit beside one another, as the legend deals them out.

    The widths are those of letters of 9 points and of matplotlib's handles and spaces.
    """
    widths = [0.6 + 0.076 * len(name) for name in names]
    for columns in range(min(8, len(names)), 1, -1):
        if sum(max(column) for column in np.array_split(widths, columns)) <= inches:
            return columns
    return 1


def step_axis(axes: Axes, steps: Iterable[int]) -> None:
    """Make the axis logarithmic from the first step on, with room for step 0; a tick for each doubling at most."""
    first = min((step for step in steps if step > 0), default=1)
    axes.set_xscale("symlog", linthresh=max(1, first), linscale=0.4)
    plain_ticks(axes.xaxis, ticker.FixedLocator(step_ticks(steps)))


def step_ticks(steps: Iterable[int], most: int = 8) -> list[int]:
    """Return at most `most` of `steps` and 0, from the last one back, each at least 1.8 times the one before."""
    known, ticks = sorted(set(steps), reverse=True), list[int]()
    for step in known:
        if not ticks or 0 < step <= ticks[-1] / 1.8:
            ticks.append(step)
    return [0] * (0 in known) + ticks[::-(-len(ticks) // most)]


def decade_ticks(axis: Axis) -> None:
    """Set ticks at 1 and 3 of each decade; at 1 alone where those would stand too close."""
    low, high = sorted(axis.get_view_interval())
    close = low > 0 and math.log10(high / low) > MOST_DECADES
    plain_ticks(axis, ticker.LogLocator(subs=(1,) if close else (1, 3)))


def plain_ticks(axis: Axis, locator: ticker.Locator) -> None:
    """Set ticks where `locator` says, with their numbers written out, and none between them."""
    axis.set_major_locator(locator)
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(ticker.NullLocator())


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write a name at each height 0, 1, …, the first at the top."""
    name_ticks(axes.yaxis, names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def name_ticks(axis: Axis, names: Sequence[str]) -> None:
    """Write a name at each of the places 0, 1, …"""
    axis.set_major_locator(ticker.FixedLocator(range(len(names))))
    axis.set_major_formatter(ticker.FuncFormatter(lambda place, _: names[round(place)]))


def draw_heat(axes: Axes, table: pd.DataFrame, norm: Normalize, color_map: str) -> None:
    axes.imshow(table.to_numpy(float), norm=norm, cmap=color_map, aspect="auto", interpolation="nearest")
    axes.spines[:].set_visible(False)


def name_cells(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.xaxis.set_gid(TURNED)
    axes.tick_params(axis="x", length=0)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    name_ticks(axes.yaxis, rows)


def write_cells(axes: Axes, table: pd.DataFrame, norm: Normalize, bold: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    """Write each number of a heat map that is not missing to 0.01."""
    known = [(i, j, value) for (i, j), value in np.ndenumerate(table.to_numpy(float)) if not np.isnan(value)]
    write_on_heat(axes, [f"{value:.2f}" for _, _, value in known], [(j, i) for i, j, _ in known],
                  norm([value for _, _, value in known]), [bool(bold[i, j]) for i, j, _ in known])


def write_on_heat(axes: Axes, texts: Sequence[str], places: Sequence[tuple[float, float]], levels: ArrayLike,
                  bold: Sequence[bool]) -> None:
    """Write texts in cells whose colours stand at `levels` of the colour map."""
    write_letters(axes, texts, places, SMALL, bold=bold,
                  colors=np.where(np.asarray(levels) > DARK, "white", CELL_INK))


def add_color_bar(figure: Figure, every: list[Axes], norm: Normalize, color_map: str, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(norm, color_map), cax=figure.add_axes((0.9, 0.1, 0.02, 0.8)), label=label)
    bar.ax.tick_params(labelsize=SMALL)
    assert bar.solids
    bar.solids.set_rasterized(True)         # in a page one image instead of 256 rectangles
