"""Tidy rows in, `Figure` out: every picture of a study, drawn without pyplot and its global state.

Nothing is computed beyond selecting and pivoting. A domain has one colour and marker everywhere; `domains` gives
their order where a frame holds only some. An empty frame gives a figure that says so.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec

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
from PIL import Image

from nanogpt.report import style
from nanogpt.report.style import Look

INK, SMALL, DARK = "#222222", 8, 0.55     # DARK: where on a colour map white letters read better
P = ParamSpec("P")
Panels = tuple[Figure, list[Axes]]
domain_colors, visible = style.domain_colors, style.visible


def png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as PNG, drawn once (`savefig` draws twice). Characters that the font lacks become boxes."""
    figure.set_dpi(dpi)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        pixels, (width, height) = FigureCanvasAgg(figure).print_to_buffer()
    Image.frombuffer("RGBA", (width, height), pixels).convert("RGB").save(stream := io.BytesIO(), "png", dpi=(dpi, dpi))
    return stream.getvalue()


def webp(image: bytes) -> bytes:
    """A PNG as WebP, pixel for pixel the same in 2/5 of the bytes."""
    Image.open(io.BytesIO(image)).save(stream := io.BytesIO(), "webp", lossless=True, method=2)
    return stream.getvalue()


def no_data() -> Figure:
    """What stands where there is nothing to show."""
    figure = Figure(figsize=(4, 1.2), layout="constrained")
    figure.text(0.5, 0.5, "no data", ha="center", va="center", color="#666666")
    return figure


def _or_no_data(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """`draw`, or `no_data` where its frame, the first positional argument, is empty."""
    return functools.wraps(draw)(lambda *args, **named: no_data() if args[0].empty else draw(*args, **named))


@_or_no_data
def training_curves(training: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """Training and validation loss in nats per character, and validation bits per byte, over the steps."""
    styles = style.domain_looks(training, domains, "domain")
    figure, (loss, bits) = _panels(1, 2, (4.6, 3.3))
    for name, rows in training.sort_values("step").groupby("domain", sort=False):
        seen, look = rows.dropna(subset="loss_nats"), styles[str(name)]
        loss.plot(seen["step"], seen["loss_nats"], color=look.color, linewidth=1, alpha=0.5)
        _line(loss, rows, "step", "validation_nats", look)
        _line(bits, rows, "step", "validation_bits_per_byte", look)
    _name(loss, "loss: training (thin), validation (marked)", "training step", "nats per character")
    _name(bits, "validation", "training step", "bits per byte")
    _legend(figure, styles)
    return figure


@_or_no_data
def zero_shot_matrix(zero_shot: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """Bits per byte of each model (row) on each domain's test text (column), early to final; the best is bold."""
    tables = style.stage_tables(zero_shot, domains)
    shown = pd.concat(tables.values())
    norm = Normalize(float(shown.min().min()), float(shown.max().max()))
    columns, size = min(len(tables), 2 if len(shown.columns) > 4 else 4), 0.5 * max(len(shown.columns), 3) + 0.9
    figure, panels = _panels(-(-len(tables) // columns), columns, (size, size), count=len(tables))
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        _heat(axes, table, norm, "YlGnBu")
        for (i, j), value in np.ndenumerate(table.to_numpy(float)):
            _write(axes, (j, i), f"{value:.2f}", norm(value), bold=value == table.iloc[:, j].min())
        axes.set_xticks(range(table.shape[1]), list(table.columns), rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(table.shape[0]), list(table.index))
        _name(axes, title, "text", "model")
    _color_bar(figure, panels, norm, "YlGnBu", "bits per byte")
    return figure


@_or_no_data
def zero_shot_curves(zero_shot: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """Bits per byte on every domain's test text over the steps; one panel for each model."""
    styles, groups = style.by_source(zero_shot.sort_values("step"), domains)
    figure, panels = _panels(-(-len(groups) // 3), min(3, len(groups)), (3.4, 2.9), count=len(groups), sharey=True)
    for axes, (source, rows) in zip(panels, groups.items(), strict=True):
        for target, line in rows.groupby("target", sort=False):
            _line(axes, line, "step", "bits_per_byte", styles[str(target)])
        _step_axis(axes, rows["step"])
        _name(axes, f"model: {source}", "training step", "bits per byte")
    _legend(figure, styles, "text")
    return figure


@_or_no_data
def confidence_curves(zero_shot: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """Entropy (left), confidence and accuracy (right) over the steps; a row for each model, a line for each text."""
    styles, groups = style.by_source(zero_shot.sort_values("step"), domains)
    figure, panels = _panels(len(groups), 2, (4.6, 2.4), sharey="col")
    for (source, rows), entropy, sure in zip(groups.items(), panels[::2], panels[1::2], strict=True):
        for target, line in rows.groupby("target", sort=False):
            look = styles[str(target)]
            _line(entropy, line, "step", "entropy_nats", look)
            _line(sure, line, "step", "confidence", look)
            _line(sure, line, "step", "accuracy", Look(look.color, "", ":"))
        for axes, what in ((entropy, "entropy, nats"), (sure, "share")):
            _step_axis(axes, rows["step"])
            _name(axes, f"model: {source}", "training step", what)
    _legend(figure, styles | {"confidence": Look(INK, ""), "accuracy": Look(INK, "", ":")}, "text")
    return figure


def transfer_curves(curves: pd.DataFrame) -> Figure:
    """Validation bits per byte along each few-shot adaptation, for each source → target a line for each stage."""
    return _pair_figure(curves, "step", "adaptation step", star=False)


def tuning_history(trials: pd.DataFrame) -> Figure:
    """Validation bits per byte of each trial over its learning rate, a star at the best of each stage."""
    return _pair_figure(trials, "learning_rate", "learning rate tried", star=True)


@_or_no_data
def _pair_figure(frame: pd.DataFrame, x: str, label: str, star: bool) -> Figure:
    """A panel for each source → target, those of a target side by side; a line for each stage, `star` at its lowest."""
    bits, frame = "validation_bits_per_byte", style.most_shots(frame).sort_values(x)
    groups = style.pairs_of(frame)
    columns = min(3, frame.groupby("target")["source"].nunique().max())
    figure, panels = _panels(-(-len(groups) // columns), columns, (3.4, 2.5), count=len(groups), sharey="row")
    for axes, (pair, rows) in zip(panels, groups.items(), strict=True):
        for stage, line in style.stages_of(rows).items():
            look = style.stage_look(stage)
            for _, part in [("", line)] if star else line.groupby("learning_rate"):
                _line(axes, part, x, bits, look)
            if star:
                _line(axes, line.nsmallest(1, bits), x, bits, look._replace(marker="*"), markersize=13)
        if star:
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis, ticker.LogLocator(subs=(1, 2, 5)))
        _name(axes, pair, label, "bits per byte")
    _legend(figure, {stage: style.stage_look(stage) for stage in style.stages_of(frame)}, "from")
    return figure


@_or_no_data
def transfer_summary(transfers: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """By stage: the tuned rate; test bits per byte before (hollow) and after, on the target and on the source."""
    styles, groups = style.by_source(style.most_shots(transfers), domains)
    stages = list(style.stages_of(transfers))
    figure, panels = _panels(len(groups), 3, (3.2, 2.5), sharey="col")
    for i, (source, rows) in enumerate(groups.items()):
        rate, there, home = panels[3 * i:3 * i + 3]
        for target, line in rows.groupby("target", sort=False):
            look, line = styles[str(target)], line.drop_duplicates("stage").set_index("stage").reindex(stages)
            _by_stage(rate, line["learning_rate"], look)
            for axes, before, after in ((there, "zero_shot_bits_per_byte", "test_bits_per_byte"),
                                        (home, "source_bits_per_byte_before", "source_bits_per_byte_after")):
                known = line if axes is there else line.drop("scratch", errors="ignore")
                _by_stage(axes, known[before], look._replace(dashes=":", fill="none"))
                _by_stage(axes, known[after], look)
        rate.set_yscale("log")
        _plain_ticks(rate.yaxis, ticker.LogLocator(subs=(1, 2, 5)))
        for axes, what, unit in ((rate, "tuned rate", "learning rate"), (there, "the target's text", "bits per byte"),
                                 (home, "its own text", "bits per byte")):
            _name(axes, f"from {source}: {what}", "", unit)
    _legend(figure, styles | {"before": Look(INK, "o", ":", "none"), "after": Look(INK)}, "to")
    return figure


def _panels(rows: int, columns: int, size: tuple[float, float], count: int = 0, sharey: Any = False) -> Panels:
    """`count` panels (0: all) of `size` inches in a grid, with what all pictures share."""
    figure = Figure(figsize=(max(4.5, columns * size[0]), rows * size[1] + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[count or len(panels):]:
        axes.remove()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=SMALL, labelleft=True)
    return figure, panels[:count or None]


def _line(axes: Axes, rows: pd.DataFrame, x: str, y: str, look: Look, markersize: float = 4.5) -> None:
    rows = rows.dropna(subset=y)
    axes.plot(rows[x], rows[y].astype(float), color=look.color, marker=look.marker, linestyle=look.dashes,
              fillstyle=look.fill, linewidth=1.5, markersize=markersize)


def _by_stage(axes: Axes, values: pd.Series[float], look: Look) -> None:
    """A line over the stages; from scratch is no stage of the same training and stands apart."""
    for part in (values.drop("scratch", errors="ignore"), values[values.index == "scratch"]):
        _line(axes, part.rename("value").rename_axis("stage").reset_index(), "stage", "value", look)


def _step_axis(axes: Axes, steps: Iterable[int]) -> None:
    """Logarithmic from the first step on, with room for step 0; a tick for each doubling at most."""
    first = min((step for step in steps if step > 0), default=1)
    axes.set_xscale("symlog", linthresh=max(1, first), linscale=0.4)
    _plain_ticks(axes.xaxis, ticker.FixedLocator(style.step_ticks(steps)))


def _plain_ticks(axis: Axis, locator: ticker.Locator) -> None:
    """Ticks where `locator` says, with their numbers written out, and none between them."""
    axis.set_major_locator(locator)
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(ticker.NullLocator())


def _name(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def _legend(figure: Figure, styles: Mapping[str, Look], title: str = "") -> None:
    entries = {title: Look("none", "", "")} | dict(styles) if title else styles
    lines = [Line2D([], [], color=k.color, marker=k.marker, ls=k.dashes, fillstyle=k.fill)  # type: ignore[arg-type]
             for k in entries.values()]
    figure.legend(lines, list(entries), loc="outside lower center", frameon=False, ncols=min(len(lines), 8), fontsize=9)


def _heat(axes: Axes, table: pd.DataFrame, norm: Normalize, colors: str) -> None:
    axes.imshow(table.to_numpy(float), norm=norm, cmap=colors, aspect="auto", interpolation="nearest")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _write(axes: Axes, at: tuple[float, float], text: str, level: float, *, bold: bool) -> None:
    axes.text(*at, text, ha="center", va="center", fontsize=SMALL, fontweight="bold" if bold else "normal",
              color="white" if level > DARK else "black", parse_math=False, in_layout=False)


def _color_bar(figure: Figure, panels: list[Axes], norm: Normalize, colors: str, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=panels, shrink=0.9, pad=0.02, aspect=30, label=label)
    bar.ax.tick_params(labelsize=SMALL)
