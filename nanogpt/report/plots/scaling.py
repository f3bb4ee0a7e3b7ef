"""Figures of sizes: loss over parameters, characters and compute, and what a character of another domain is worth."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanogpt.report.plots.panels import add_legend, decade_ticks, draw_line, name_axes, panels
from nanogpt.report.style import LineStyle, domain_styles
from nanogpt.report.tables import StudyTables

ZERO = "#999999"


def scaling_laws(tables: StudyTables) -> Figure:
    """Draw test bits per byte over weights, over characters at the largest size, and over compute, with the fits."""
    rows, curves = tables.table("scaling"), tables.table("scaling_curves")
    chosen = rows[rows["chosen"]]
    in_shares = chosen[chosen["one_in"] > 1].sort_values("block_weights")["size"]
    largest = str(in_shares.iloc[-1]) if len(in_shares) else ""
    styles = domain_styles(tables.domain_order, rows, "domain")
    figure, (by_weights, by_characters, by_compute) = panels(1, 3, (3.6, 3.2), sharey=True)
    for domain, style in styles.items():
        own, points = chosen[chosen["domain"] == domain], style._replace(dashes="")
        draw_line(by_weights, own[own["one_in"] == 1], "block_weights", "test_bits_per_byte", points)
        draw_line(by_characters, own[own["size"] == largest], "unique_characters", "test_bits_per_byte", points)
        _draw_trainings(by_compute, rows[(rows["domain"] == domain) & (rows["one_in"] == 1) & (rows["step"] > 0)],
                        style)
        for axes, law, size in ((by_weights, "parameters", ""), (by_characters, "characters", largest),
                                (by_compute, "compute", "")):
            _draw_law(axes, curves, {"law": law, "domain": domain, "size": size}, style)
    name_axes(by_weights, "all of the text", "weights in the blocks", "bits per byte")
    name_axes(by_characters, f"size {largest}", "characters of the text", "")
    name_axes(by_compute, "along the trainings", "operations", "")
    for axes in (by_weights, by_characters, by_compute):
        _in_logarithms(axes)
    if len(chosen):     # the first checkpoints are far above all that is compared
        losses = chosen["test_bits_per_byte"]
        by_weights.set_ylim(0.95 * losses.min(), 1.05 * losses.max())
    add_legend(figure, styles)
    return figure


def _draw_trainings(axes: Axes, rows: pd.DataFrame, style: LineStyle) -> None:
    """Draw a thin line for each size, the mean over its seeds."""
    for _, part in rows.groupby("size", sort=False):
        means = part.groupby("flops")["test_bits_per_byte"].mean()
        axes.plot(means.index, means, color=style.color, linewidth=0.7, alpha=0.5)


def _draw_law(axes: Axes, curves: pd.DataFrame, names: dict[str, str], style: LineStyle) -> None:
    if curves.empty:
        return
    mask = pd.Series(True, index=curves.index)
    for column, value in names.items():
        mask &= curves[column].fillna("") == value
    line = curves[mask]
    axes.plot(line["x"], line["fitted"], color=style.color, linewidth=1.5)
    axes.fill_between(line["x"], line["low"], line["high"], color=style.color, alpha=0.15, linewidth=0)


def _in_logarithms(axes: Axes) -> None:
    if math.isfinite(axes.dataLim.minposx):         # else nothing is drawn
        axes.set_xscale("log")
        decade_ticks(axes.xaxis)
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))


def transfer_worth(tables: StudyTables) -> Figure:
    """Draw over the weights what a character of each source is worth for each target; hollow where it is a bound."""
    worth = tables.table("scaling_worth")
    targets = [name for name in tables.domain_order if name in set(worth["target"])]
    styles = domain_styles(tables.domain_order, worth, "source")
    columns = min(3, len(targets))
    figure, every = panels(-(-len(targets) // columns), columns, (3.4, 2.6), count=len(targets), sharey=True)
    for axes, target in zip(every, targets, strict=True):
        axes.axhline(0, color=ZERO, linewidth=0.8)
        for source, rows in worth[worth["target"] == target].sort_values("block_weights").groupby("source", sort=False):
            style = styles[str(source)]
            draw_line(axes, rows, "block_weights", "worth", style._replace(marker=""))
            is_bound = rows["bound"].fillna("") != ""
            draw_line(axes, rows[~is_bound], "block_weights", "worth", style._replace(dashes=""))
            draw_line(axes, rows[is_bound], "block_weights", "worth", style._replace(dashes="", fill="none"))
            known = rows.dropna(subset=["low", "high"])
            axes.vlines(known["block_weights"], known["low"].astype(float), known["high"].astype(float),
                        color=style.color, linewidth=1)
        _in_logarithms(axes)
        name_axes(axes, f"for {target}", "weights in the blocks", "characters of the target")
    add_legend(figure, styles, "a character of")
    return figure
