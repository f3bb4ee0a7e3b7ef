"""Figures of transfers: learning curves, losses over shots and stages, forgetting against gain, the search."""

from __future__ import annotations

import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanogpt.report.plots.panels import (
    add_legend,
    decade_ticks,
    draw_line,
    name_axes,
    name_ticks,
    pair_panels,
    panels,
    plain_ticks,
)
from nanogpt.report.style import INK, LineStyle, domain_styles, stage_style
from nanogpt.report.tables import StudyTables, by_source, by_stage, most_shots
from nanogpt.transfer.tables import ALL_SHOTS, COMPARED, curve_means, view_means, views_that_differ, with_front

VIEWS = {"tuned": LineStyle(INK), "fixed": LineStyle(INK, "o", ":", "none")}
"""A tuned rate is drawn full, a fixed one dotted and hollow."""
ZERO = "#999999"


def transfer_curves(tables: StudyTables) -> Figure:
    """Draw validation bits per byte along each few-shot adaptation at the tuned rate; a line for each stage."""
    means = most_shots(view_means(tables.table("transfer_curves"))).sort_values("step")
    figure, every = staged_panels(means, "validation_bits_per_byte")
    for axes, pair, rows in every:
        for stage, part in by_stage(rows).items():
            for _, line in part.groupby("learning_rate"):
                draw_line(axes, line, "step", "validation_bits_per_byte", stage_style(stage))
        name_axes(axes, pair, "adaptation step", "bits per byte")
    _stage_legend(figure, means)
    return figure


def staged_panels(frame: pd.DataFrame, value: str) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:
    """Return a panel for each source → target with the rows of it, and of random weights for the same target.

    The scale is that of the sources and of the lowest loss from random weights: the others there are so much higher
    that lines of stages would be one.
    """
    scratch, staged = frame[frame["stage"] == "scratch"], frame[frame["stage"] != "scratch"]
    figure, every = pair_panels(staged if len(staged) else scratch)
    shown = []
    for axes, pair, rows in every:
        if len(staged):
            target = rows["target"].iloc[0]
            below = scratch[scratch["target"] == target]
            values = [float(number) for number in (*staged.loc[staged["target"] == target, value].dropna(),
                                                   *below[value].dropna().nsmallest(1))]
            space = 0.06 * (max(values) - min(values)) or 0.1
            axes.set_ylim(min(values) - space, max(values) + space)
            rows = pd.concat((rows, below))
        shown.append((axes, pair, rows))
    return figure, shown


def transfer_summary(tables: StudyTables) -> Figure:
    """Draw by stage the tuned rate, and test bits per byte before (hollow) and after, on the target and the source.

    What random weights come to is a dashed line.
    """
    transfers = most_shots(view_means(tables.table("transfers")))
    styles = domain_styles(tables.domain_order, transfers, "target")
    scratch = transfers[transfers["stage"] == "scratch"].drop_duplicates("target").set_index("target")
    staged = transfers[transfers["stage"] != "scratch"]
    groups, stages = by_source(staged, tables.domain_order), list(by_stage(staged))
    figure, every = panels(len(groups), 3, (3.2, 2.5), sharey="col")
    for i, (source, rows) in enumerate(groups.items()):
        rate, there, home = every[3 * i:3 * i + 3]
        for target, line in rows.groupby("target", sort=False):
            style, line = styles[str(target)], line.drop_duplicates("stage").set_index("stage").reindex(stages)
            _draw_by_stage(rate, line["learning_rate"], style)
            for axes, before, after in ((there, "zero_shot_bits_per_byte", "test_bits_per_byte"),
                                        (home, "source_bits_per_byte_before", "source_bits_per_byte_after")):
                _draw_by_stage(axes, line[before], style._replace(dashes=":", fill="none"))
                _draw_by_stage(axes, line[after], style)
            for axes, column in ((rate, "learning_rate"), (there, "test_bits_per_byte")):
                if target in scratch.index:
                    axes.axhline(float(scratch[column].loc[str(target)]), color=style.color, linestyle="--",
                                 linewidth=1)
        rate.set_yscale("log")
        if transfers["learning_rate"].nunique() == 1:       # which leaves a logarithmic axis without a tick
            rate.set_ylim(*(rows["learning_rate"].iloc[0] * factor for factor in (1 / 3, 3)))
        decade_ticks(rate.yaxis)
        name_axes(rate, f"from {source}: tuned rate", "", "learning rate")
        name_axes(there, f"from {source}: target's text", "", "bits per byte")
        name_axes(home, f"from {source}: own text", "", "bits per byte")
        home.set_visible(bool(rows["source_bits_per_byte_after"].notna().any()))
    entries = {"before": LineStyle(INK, "o", ":", "none"), "after": LineStyle(INK)}
    add_legend(figure, styles | entries | ({"from scratch": LineStyle(INK, "", "--")} if len(scratch) else {}), "to")
    return figure


def learning_curves(tables: StudyTables) -> Figure:
    """Draw validation bits per byte along each adaptation: mean over seeds, shaded from the lowest to the highest."""
    means = most_shots(curve_means(views_that_differ(tables.table("transfer_curves"))))
    figure, every = staged_panels(means, "validation_bits_per_byte")
    for axes, pair, rows in every:
        for (stage, view), line in rows.sort_values("step").groupby(["stage", "view"], sort=False):
            style = _view_style(str(stage), str(view))
            draw_line(axes, line, "step", "validation_bits_per_byte", style)
            axes.fill_between(line["step"], line["low"], line["high"], color=style.color, alpha=0.15, linewidth=0)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        name_axes(axes, pair, "adaptation step", "bits per byte")
    _view_legend(figure, means)
    return figure


def loss_by_shots(tables: StudyTables) -> Figure:
    """Draw test bits per byte over the shots for each stage and from scratch, with 95 % intervals over the seeds.

    From scratch knows no source, so its line stands in every panel of its target.
    """
    measures = views_that_differ(tables.table("transfer_measures"))
    scratch, staged = measures[measures["stage"] == "scratch"], measures[measures["stage"] != "scratch"]
    figure, every = pair_panels(staged if len(staged) else scratch)
    for axes, pair, rows in every:
        shown = pd.concat((rows, scratch[scratch["target"] == rows["target"].iloc[0]])) if len(staged) else rows
        for (stage, view), line in shown.sort_values("shots").groupby(["stage", "view"], sort=False):
            style = _view_style(str(stage), str(view))
            draw_line(axes, line, "shots", "test_bits_per_byte", style)
            axes.vlines(line["shots"], line["test_bits_per_byte_low"], line["test_bits_per_byte_high"],
                        color=style.color, linewidth=1)
        axes.set_xscale("log", base=2)
        plain_ticks(axes.xaxis, ticker.FixedLocator(sorted(shown["shots"].unique())))
        name_axes(axes, pair, "windows of the target", "bits per byte")
    _view_legend(figure, measures)
    return figure


def forgetting_against_gain(tables: StudyTables) -> Figure:
    """Draw what is lost on the source's text over what is gained on the target's; the line joins the Pareto front."""
    front = with_front(views_that_differ(tables.table("transfer_measures")))
    figure, every = pair_panels(front, sharey=True)
    gains = front["gain_bits_per_byte"].astype(float)
    space = 0.06 * (gains.max() - gains.min()) or 0.1
    for axes, pair, rows in every:
        axes.set_xlim(gains.min() - space, gains.max() + space)     # one scale: panels are compared
        draw_line(axes, rows[rows["on_front"]], "gain_bits_per_byte", "forgetting_bits_per_byte", LineStyle(ZERO, ""))
        for (stage, view), points in rows.groupby(["stage", "view"], sort=False):
            style = _view_style(str(stage), str(view))._replace(dashes="")
            draw_line(axes, points, "gain_bits_per_byte", "forgetting_bits_per_byte", style, markersize=6)
        name_axes(axes, pair, "gained on the target, bits per byte", "lost on the source")
    _view_legend(figure, front)
    return figure


def stage_differences(tables: StudyTables) -> Figure:
    """Draw later minus earlier stage with 95 % intervals, both views side by side; a panel for each measure."""
    comparisons = tables.table("stage_comparisons")
    comparisons = comparisons[comparisons["shots"].astype(str) == ALL_SHOTS]
    by_view = comparisons.pivot(index=["measure", "later", "earlier"], columns="view", values="difference")
    if {"tuned", "fixed"} <= set(by_view) and by_view["tuned"].equals(by_view["fixed"]):
        comparisons = comparisons[comparisons["view"] == "tuned"]
    measures = [name for name in COMPARED if name in set(comparisons["measure"])]
    figure, every = panels(-(-len(measures) // 2), min(2, len(measures)), (4.2, 1.9), count=len(measures))
    for axes, measure in zip(every, measures, strict=True):
        rows = comparisons[comparisons["measure"] == measure]
        names = list(dict.fromkeys(f"{row.later} − {row.earlier}" for row in rows.itertuples()))
        for view, part in rows.groupby("view", sort=False):
            style, up = VIEWS[str(view)], 0.12 if view == "tuned" else -0.12
            heights = [names.index(f"{row.later} − {row.earlier}") + up for row in part.itertuples()]
            axes.hlines(heights, part["low"], part["high"], color=style.color, linestyle=style.dashes, linewidth=1.5)
            axes.plot(part["difference"], heights, "o", color=style.color, fillstyle=style.fill)
        axes.axvline(0, color=ZERO, linewidth=1)
        name_ticks(axes.yaxis, names)
        axes.set_ylim(-0.6, len(names) - 0.4)
        name_axes(axes, COMPARED[measure], "steps" if measure.startswith("steps") else "bits per byte", "")
    add_legend(figure, {f"{view} rate": VIEWS[str(view)] for view in comparisons["view"].unique()})
    return figure


def trials_by_learning_rate(tables: StudyTables) -> Figure:
    """Draw validation bits per byte of each trial over its learning rate, a star at the rate that was chosen."""
    trials = most_shots(tables.table("trials")).sort_values("learning_rate")
    cells = ["source", "stage", "target", "shots", "learning_rate"]
    transfers = tables.table("transfers")
    chosen = transfers.loc[transfers["view"] == "tuned", cells].drop_duplicates() if len(transfers) else trials[:0]
    figure, every = staged_panels(trials, "validation_bits_per_byte")
    for axes, pair, rows in every:
        for stage, part in by_stage(rows).items():
            style, best = stage_style(stage), part.merge(chosen) if len(chosen) else part[:0]
            draw_line(axes, part, "learning_rate", "validation_bits_per_byte", style)
            draw_line(axes, best, "learning_rate", "validation_bits_per_byte", style._replace(marker="*"), 13)
        axes.set_xscale("log")
        decade_ticks(axes.xaxis)
        name_axes(axes, pair, "learning rate tried", "bits per byte")
    _stage_legend(figure, trials)
    return figure


def trials_in_order(tables: StudyTables) -> Figure:
    """Draw the loss of each trial in the order of the search (points) and the lowest so far (line)."""
    trials = most_shots(tables.table("trials")).sort_values("number")
    figure, every = staged_panels(trials, "validation_bits_per_byte")
    for axes, pair, rows in every:
        for stage, part in by_stage(rows).items():
            style = stage_style(stage)
            draw_line(axes, part, "number", "validation_bits_per_byte", style._replace(dashes=""))
            lowest = part["validation_bits_per_byte"].astype(float).cummin().ffill()
            axes.step(part["number"], lowest, where="post", color=style.color, linestyle=style.dashes)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        name_axes(axes, pair, "trial", "bits per byte")
    _stage_legend(figure, trials)
    return figure


def _draw_by_stage(axes: Axes, values: pd.Series[float], style: LineStyle) -> None:
    """Draw a line over the stages."""
    draw_line(axes, values.rename("value").rename_axis("stage").reset_index(), "stage", "value", style)


def _view_style(stage: str, view: str) -> LineStyle:
    """Return the stage's colour and marker, in the manner of the view."""
    return stage_style(stage)._replace(dashes=VIEWS[view].dashes, fill=VIEWS[view].fill)


def _stage_legend(figure: Figure, frame: pd.DataFrame) -> None:
    add_legend(figure, {stage: stage_style(stage) for stage in by_stage(frame)}, "from")


def _view_legend(figure: Figure, frame: pd.DataFrame) -> None:
    stages = {stage: stage_style(stage)._replace(dashes="-") for stage in by_stage(frame)}
    add_legend(figure, stages | {f"{view} rate": VIEWS[view] for view in VIEWS if view in set(frame["view"])}, "from")
