"""Figures of confidence over training: entropy, calibration, and when models predict like ones that only count."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanogpt.report.plots.panels import (
    MOST_COLUMNS,
    add_legend,
    decade_ticks,
    draw_line,
    grid_of,
    name_axes,
    panels,
    step_axis,
)
from nanogpt.report.style import GREY, INK, LineStyle, domain_styles
from nanogpt.report.tables import StudyTables, by_source, own_texts

DIVERGENCES = {"uniform": LineStyle(GREY, "s", ":"), "unigram": LineStyle("#56B4E9", "o", "--"),
               "bigram": LineStyle(INK, "^")}
SHOWN_STAGES = ("early", "mid", "late")


def confidence_curves(tables: StudyTables) -> Figure:
    """Draw confidence and accuracy over the steps; a panel for each model, a line each text."""
    zero_shot = tables.table("zero_shot").sort_values("step")
    styles = domain_styles(tables.domain_order, zero_shot, "target")
    groups = by_source(zero_shot, tables.domain_order)
    figure, every = grid_of(len(groups), (3.3, 2.6), sharey=True)
    for axes, (source, rows) in zip(every, groups.items(), strict=True):
        for target, line in rows.groupby("target", sort=False):
            style = styles[str(target)]
            draw_line(axes, line, "step", "confidence", style)
            draw_line(axes, line, "step", "accuracy", LineStyle(style.color, "", ":"))
        step_axis(axes, rows["step"])
        name_axes(axes, f"model: {source}", "training step", "share")
    add_legend(figure, styles | {"confidence": LineStyle(INK, ""), "accuracy": LineStyle(INK, "", ":")}, "text")
    return figure


def sharpening_curves(tables: StudyTables) -> Figure:
    """Draw entropy (above) and best temperature (below it) over the steps, for each model; a line for each text."""
    zero_shot = tables.table("zero_shot").sort_values("step")
    styles = domain_styles(tables.domain_order, zero_shot, "target")
    groups = by_source(zero_shot, tables.domain_order)
    columns = min(MOST_COLUMNS, len(groups))
    figure, every = panels(2 * -(-len(groups) // columns), columns, (3.3, 2.3), sharey="row")
    for i in range(len(groups), len(every) // 2):       # of the last rows
        for axes in _above_another(every, columns, i):
            axes.remove()
    for i, (source, rows) in enumerate(groups.items()):
        entropy, temperature = _above_another(every, columns, i)
        for target, line in rows.groupby("target", sort=False):
            draw_line(entropy, line, "step", "entropy_nats", styles[str(target)])
            draw_line(temperature, line[line["step"] > 0], "step", "temperature", styles[str(target)])
        temperature.axhline(1, color=GREY, linewidth=1)
        for axes in (entropy, temperature):
            step_axis(axes, rows["step"])
        temperature.set_xlim(entropy.get_xlim())
        name_axes(entropy, f"model: {source}", "", "entropy, nats" if i % columns == 0 else "")
        name_axes(temperature, "", "training step", "best temperature" if i % columns == 0 else "")
    add_legend(figure, styles, "text")
    return figure


def _above_another(every: Sequence[Axes], columns: int, place: int) -> tuple[Axes, Axes]:
    """Return the two panels of a place: those of one lie above another, and `columns` places beside one another."""
    first = 2 * columns * (place // columns) + place % columns
    return every[first], every[first + columns]


def divergence_curves(tables: StudyTables) -> Figure:
    """Draw how far each model's predictions of its own domain's text are from those of models that only count."""
    groups = by_source(own_texts(tables.table("zero_shot")).sort_values("step"), tables.domain_order)
    figure, every = grid_of(len(groups), (3.3, 2.5), sharey=True)
    for axes, (source, rows) in zip(every, groups.items(), strict=True):
        for name, style in DIVERGENCES.items():
            draw_line(axes, rows, "step", f"{name}_divergence_nats", style)
        step_axis(axes, rows["step"])
        axes.set_yscale("log")
        decade_ticks(axes.yaxis)
        name_axes(axes, f"model: {source}", "training step", "divergence, nats")
    add_legend(figure, DIVERGENCES, "from")
    return figure


def reliability_diagrams(tables: StudyTables) -> Figure:
    """Draw how often a prediction of each confidence was right; models down, stages across, a line for each text."""
    reliability = tables.table("reliability")
    styles = domain_styles(tables.domain_order, reliability, "target")
    groups = by_source(reliability, tables.domain_order)
    stages = [stage for stage in SHOWN_STAGES if stage in set(reliability["stage"])] or [*reliability["stage"].unique()]
    figure, every = panels(len(groups), len(stages), (2.7, 2.5), sharey=True)
    for i, (source, rows) in enumerate(groups.items()):
        for axes, stage in zip(every[i * len(stages):], stages, strict=False):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
            for target, line in rows[rows["stage"] == stage].groupby("target", sort=False):
                style = styles[str(target)]
                draw_line(axes, line, "confidence", "accuracy", style, markersize=0)
                axes.scatter(line["confidence"], line["accuracy"], line["characters"] / line["characters"].sum() * 250,
                             color=style.color, marker=style.marker, alpha=0.8, linewidths=0)
            name_axes(axes, f"{source}, {stage}", "confidence" if i == len(groups) - 1 else "", "share right")
    add_legend(figure, styles | {"calibrated": LineStyle(GREY, "")}, "text")
    return figure
