"""Figures of zero-shot losses: every model on every domain's text, with intervals, baselines and breakdowns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nanogpt.report.plots.panels import (
    SMALL,
    add_color_bar,
    add_legend,
    draw_heat,
    draw_line,
    grid_of,
    name_axes,
    name_cells,
    name_rows,
    panels,
    step_axis,
    write_cells,
    write_on_heat,
)
from nanogpt.report.style import GREY, INK, domain_styles
from nanogpt.report.tables import StudyTables, by_source, by_stage, groups_of, last_steps, loss_tables, pivot

LIMITS = ("ahead_low", "ahead_high")


def zero_shot_matrix(tables: StudyTables) -> Figure:
    """Draw bits per byte of each model (row) on each domain's test text (column), early to final; the best is bold."""
    losses = loss_tables(tables.table("zero_shot"), tables.domain_order)
    shown = pd.concat(losses.values())
    norm = Normalize(float(shown.min().min()), float(shown.max().max()))
    columns, size = min(len(losses), 2 if len(shown.columns) > 4 else 4), 0.5 * max(len(shown.columns), 3) + 0.9
    figure, every = panels(-(-len(losses) // columns), columns, (size, size), count=len(losses))
    for axes, (title, table) in zip(every, losses.items(), strict=True):
        draw_heat(axes, table, norm, "YlGnBu")
        write_cells(axes, table, norm, bold=(table == table.min()).to_numpy())
        name_cells(axes, list(table.columns), list(table.index))
        name_axes(axes, title, "text", "model")
    add_color_bar(figure, every, norm, "YlGnBu", "bits per byte")
    return figure


def regret(tables: StudyTables) -> Figure:
    """Draw what each other model loses against a domain's own on its text, bits per byte, with its 95 % interval."""
    leads = last_leads(tables.table("comparisons"))
    values = {column: pivot(leads, "rival", "target", column) for column in ("ahead_bits_per_byte", *LIMITS)}
    order = [name for name in tables.domain_order if name in values["ahead_bits_per_byte"].columns]
    rivals = [*order, *(name for name in values["ahead_bits_per_byte"].index if name not in order)]
    shown, low, high = (values[column].reindex(index=rivals, columns=order).to_numpy(float) for column in values)
    norm = Normalize(min(0.0, float(np.nanmin(shown))), float(np.nanmax(shown)))
    figure, (axes,) = panels(1, 1, (1.05 * len(order) + 1.8, 0.52 * len(rivals) + 1.3))
    draw_heat(axes, pd.DataFrame(shown), norm, "YlGnBu")
    known = [(i, j) for i, j in np.ndindex(shown.shape) if not np.isnan(shown[i, j])]
    levels = norm([shown[place] for place in known])
    for texts, up in (([f"{shown[place]:+.2f}" for place in known], -0.14),
                      ([f"{low[place]:+.2f} to {high[place]:+.2f}" for place in known], 0.2)):
        write_on_heat(axes, texts, [(j, i + up) for i, j in known], levels, [up < 0] * len(known))
    name_cells(axes, order, rivals)
    name_axes(axes, "behind the domain's own model", "text", "model")
    add_color_bar(figure, [axes], norm, "YlGnBu", "bits per byte")
    return figure


def last_leads(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the leads over models of the last stage that was compared; those over n-grams are another question."""
    last = comparisons[comparisons["stage"] == list(by_stage(comparisons))[-1]]
    return last[~last["rival"].str.endswith("-gram")]


def zero_shot_curves(tables: StudyTables) -> Figure:
    """Draw bits per byte on every domain's test text over the steps; one panel for each model."""
    zero_shot = tables.table("zero_shot").sort_values("step")
    styles = domain_styles(tables.domain_order, zero_shot, "source", "target")
    groups = by_source(zero_shot, tables.domain_order)
    figure, every = panels(-(-len(groups) // 3), min(3, len(groups)), (3.4, 2.9), count=len(groups), sharey=True)
    for axes, (source, rows) in zip(every, groups.items(), strict=True):
        for target, line in rows.groupby("target", sort=False):
            draw_line(axes, line, "step", "bits_per_byte", styles[str(target)])
        step_axis(axes, rows["step"])
        name_axes(axes, f"model: {source}", "training step", "bits per byte")
    add_legend(figure, {name: styles[name] for name in styles if name in set(zero_shot["target"])}, "text")
    return figure


def ranking(tables: StudyTables) -> Figure:
    """Draw bits per byte with 95 % interval of every model after its last step, and of the baselines, by text."""
    zero_shot, baselines = tables.table("zero_shot"), tables.table("baselines")
    styles = domain_styles(tables.domain_order, zero_shot, "source", "target")
    last = last_steps(zero_shot, "source")
    groups = groups_of(last, "target", styles)
    counted = list(dict.fromkeys(name for name in baselines.get("baseline", ()) if name != "uniform"))
    names = [*dict.fromkeys(last["source"]), *counted]
    figure, every = grid_of(len(groups), (3.3, 0.22 * len(names) + 0.9), sharey=True)
    for axes, (target, rows) in zip(every, groups.items(), strict=True):
        for row in rows.to_dict("records"):
            style, value = styles[row["source"]], row["bits_per_byte"]
            axes.errorbar(value, names.index(row["source"]), color=style.color, marker=style.marker, capsize=3,
                          xerr=[[value - row["bits_per_byte_low"]], [row["bits_per_byte_high"] - value]])
        for row in baselines[baselines["target"] == target].to_dict("records") if counted else ():
            if row["baseline"] in counted:
                axes.plot(row["bits_per_byte"], names.index(row["baseline"]), "|", color=INK, markersize=9)
        name_rows(axes, names)
        name_axes(axes, f"text: {target}", "bits per byte", "")
    return figure


def class_losses(tables: StudyTables) -> Figure:
    """Draw the loss by character class after the last step: a panel for each text, a mark for each model."""
    return _breakdown_figure(tables, "character class")


def context_losses(tables: StudyTables) -> Figure:
    """Draw the loss by how many characters a prediction could read: a panel for each text, a mark for each model."""
    return _breakdown_figure(tables, "characters read before")


def _breakdown_figure(tables: StudyTables, by: str) -> Figure:
    breakdown = tables.table("breakdown")
    styles = domain_styles(tables.domain_order, breakdown, "source", "target")
    last = last_steps(breakdown, "source")
    last = last[last["by"] == by].drop_duplicates(["source", "target", "group"])
    labels, groups = list(dict.fromkeys(last["group"])), groups_of(last, "target", styles)
    labels.sort(key=lambda label: int(label.split()[0]) if label[0].isdigit() else 0)
    figure, every = grid_of(len(groups), (3.3, 0.24 * max(5, len(labels)) + 0.9), sharey=True)
    for axes, (target, rows) in zip(every, groups.items(), strict=True):
        for source, line in rows.groupby("source", sort=False):
            style = styles[str(source)]
            axes.plot(line["nats_per_character"], [labels.index(group) for group in line["group"]], color=style.color,
                      marker=style.marker, linestyle="", markersize=5.5)
        _share_labels(axes, labels, rows.drop_duplicates("group").set_index("group")["share"])
        name_rows(axes, labels)
        axes.set_xlim(0, 1.08 * float(last["nats_per_character"].max()))      # the marks end before the shares
        name_axes(axes, f"text: {target}", "nats per character", by)
    models = {name: styles[name]._replace(dashes="") for name in styles if name in set(last["source"])}
    add_legend(figure, models, "model")
    return figure


def _share_labels(axes: Axes, labels: Sequence[str], shares: pd.Series[float]) -> None:
    """Write at the right of each line how much of the text the group makes up."""
    for height, label in enumerate(labels):
        if label in shares:
            axes.text(1.01, height, f"{shares[label]:.1%}", transform=axes.get_yaxis_transform(), ha="left",
                      va="center", fontsize=SMALL, color=GREY)
