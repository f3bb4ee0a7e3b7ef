"""Figures of what models look at over training, and of what the maps of each method are worth."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nanogpt.config import ATTRIBUTION_BASELINES
from nanogpt.report.plots.panels import (
    add_color_bar,
    add_legend,
    draw_heat,
    draw_line,
    grid_of,
    name_axes,
    name_cells,
    name_ticks,
    panels,
    step_axis,
    write_cells,
)
from nanogpt.report.style import GREY, LineStyle, domain_styles, method_styles
from nanogpt.report.tables import StudyTables, last_steps, pivot
from nanogpt.report.wording import spaced, tested_value, wrapped

MEASURES = {"mean_distance_characters": "effective context, characters", "entropy_nats": "entropy of the shares, nats",
            "same_word_share": "share on the same word", "previous_word_share": "share on the word before",
            "punctuation_share": "share on punctuation", "newline_share": "share on new lines",
            "spearman_with_last": "ρ with the last checkpoint"}


def attribution_curves(tables: StudyTables) -> Figure:
    """Draw what the models look at over training, on all prompts: a line for each domain's model."""
    rows = tables.table("attribution_summary").query("prompt_domain == 'all'").sort_values("step")
    shown = [name for name in MEASURES if name in rows and rows[name].notna().any() and rows[name].max() > 0]
    styles = domain_styles(tables.domain_order, rows, "domain")
    figure, every = grid_of(len(shown), (3.3, 2.3))
    for axes, name in zip(every, shown, strict=True):
        for domain, line in rows.groupby("domain", sort=False):
            draw_line(axes, line, "step", name, styles[str(domain)])
        step_axis(axes, rows["step"])
        axes.set_ylim(min(0.0, float(rows[name].min())), 1.08 * float(rows[name].max()))
        name_axes(axes, MEASURES[name], "training step", "")
    add_legend(figure, styles, "model")
    return figure


def faithfulness(tables: StudyTables) -> Figure:
    """Draw what each method's maps of the last checkpoints are worth; dashed, the baselines that know nothing."""
    rows = last_steps(tables.table("faithfulness"), "domain")
    styles, methods = domain_styles(tables.domain_order, rows, "domain"), _ordered(rows["method"])[::-1]
    fall = wrapped(f"fall of {tested_value(tables)}")
    titles = {"spearman_leave_one_out": ("Spearman's ρ with leave-one-out", ""),
              "comprehensiveness": ("comprehensiveness", fall),
              "sufficiency": ("sufficiency (lower is better)", fall)}
    figure, every = panels(1, len(titles), (3.4, 0.3 * len(methods) + 0.9), sharey=True)
    for axes, (column, (title, label)) in zip(every, titles.items(), strict=True):
        for height, method in enumerate(methods):
            values = rows[rows["method"] == method]
            for domain, score in zip(values["domain"], values[column], strict=True):
                axes.plot(score, height, styles[domain].marker, color=styles[domain].color, markersize=5, alpha=0.85)
            axes.plot(values[column].mean(), height, "|", color="black", markersize=16)
            if method in ATTRIBUTION_BASELINES:
                axes.axvline(values[column].mean(), color=GREY, linestyle="--", linewidth=1)
        name_ticks(axes.yaxis, [spaced(method) for method in methods])
        axes.xaxis.set_major_locator(ticker.MaxNLocator(3))     # the names of methods leave little room
        name_axes(axes, title, label, "")
    points = {name: style._replace(dashes="") for name, style in styles.items()}
    add_legend(figure, points | {"mean": LineStyle("black", "|", "")}, "model")
    return figure


def deletion_curves(tables: StudyTables) -> Figure:
    """Draw how far the target's value falls without, and with nothing but, the characters that a method puts first."""
    rows = last_steps(tables.table("deletion_curves"), "domain")
    rows = rows.groupby(["method", "character_share"], as_index=False)[["deletion", "insertion"]].mean()
    styles, fall = method_styles(rows["method"]), wrapped(f"fall of {tested_value(tables)}")
    figure, every = panels(1, 2, (4.6, 3.2))
    titles = {"deletion": "without them (higher is better)", "insertion": "with nothing else (lower is better)"}
    for axes, (column, title) in zip(every, titles.items(), strict=True):
        for method, style in styles.items():
            draw_line(axes, rows[rows["method"] == method], "character_share", column, style)
        axes.xaxis.set_major_formatter("{x:.0%}")
        name_axes(axes, title, "share of the characters read", fall)
    add_legend(figure, {spaced(name): style for name, style in styles.items()})
    return figure


def method_agreement(tables: StudyTables) -> Figure:
    """Draw Spearman's ρ between the methods' maps of the last checkpoints, mean over domains."""
    rows = last_steps(tables.table("method_agreement"), "domain")
    rows = rows.groupby(["method", "other"])["spearman"].mean().reset_index()
    both: pd.DataFrame = pd.concat([rows, rows.rename(columns={"method": "other", "other": "method"})])
    methods = _ordered(both["method"])
    table = pivot(both, "method", "other", "spearman").reindex(index=methods, columns=methods)
    figure, (axes,) = panels(1, 1, (0.62 * len(methods) + 1.6, 0.42 * len(methods) + 1.2))
    norm = Normalize(min(0.0, float(table.min().min())), 1)
    draw_heat(axes, table, norm, "Blues")
    write_cells(axes, table, norm, bold=np.zeros(table.shape, dtype=bool))
    name_cells(axes, [spaced(name) for name in methods], [spaced(name) for name in methods])
    name_axes(axes, "agreement of the methods at the last checkpoints", "", "")
    add_color_bar(figure, [axes], norm, "Blues", "Spearman's ρ")
    return figure


def _ordered(methods: Collection[str]) -> list[str]:
    """Return the methods in the configuration's order, then any other, then the baselines."""
    return list(method_styles(methods))
