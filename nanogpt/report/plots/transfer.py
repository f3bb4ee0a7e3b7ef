"""Pictures of transfers: learning curves, loss over shots, forgetting against gain, stages compared, the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanogpt.report import style
from nanogpt.report.plots.common import INK, Panels, _legend, _line, _name, _or_no_data, _panels, _plain_ticks
from nanogpt.report.style import Look
from nanogpt.transfer import tables as transfer_tables

VIEWS = {"tuned": Look(INK), "fixed": Look(INK, "o", ":", "none")}
"""A tuned rate is drawn full, a fixed one dotted and hollow."""


def grid_figures(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """Name to picture, for the tables of a grid of transfers."""
    measures = tables["transfer_measures"]
    return {"learning_curves": learning_curves(transfer_tables.curve_means(tables["transfer_curves"])),
            "loss_by_shots": loss_by_shots(measures),
            "stage_differences": stage_differences(tables["stage_comparisons"], transfer_tables.COMPARED),
            "forgetting_against_gain": forgetting_against_gain(transfer_tables.with_front(measures)),
            "optuna_history": optuna_history(tables["trials"])}


@_or_no_data
def learning_curves(means: pd.DataFrame) -> Figure:
    """Validation bits per byte along each adaptation: mean over seeds, shaded from the lowest to the highest."""
    means = style.most_shots(means)
    figure, panels, groups = _pair_panels(means)
    for axes, (pair, rows) in zip(panels, groups.items(), strict=True):
        for (stage, view), line in rows.sort_values("step").groupby(["stage", "view"], sort=False):
            look = _look(str(stage), str(view))
            _line(axes, line, "step", "validation_bits_per_byte", look)
            axes.fill_between(line["step"], line["low"], line["high"], color=look.color, alpha=0.15, linewidth=0)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        _name(axes, pair, "adaptation step", "bits per byte")
    _stage_legend(figure, means)
    return figure


@_or_no_data
def loss_by_shots(measures: pd.DataFrame) -> Figure:
    """Test bits per byte over the shots for each stage and from scratch, with 95 % intervals over the seeds.

    From scratch knows no source, so its line stands in every panel of its target.
    """
    scratch, staged = measures[measures["stage"] == "scratch"], measures[measures["stage"] != "scratch"]
    figure, panels, groups = _pair_panels(staged if len(staged) else scratch)
    for axes, (pair, rows) in zip(panels, groups.items(), strict=True):
        shown = pd.concat((rows, scratch[scratch["target"] == rows["target"].iloc[0]])) if len(staged) else rows
        for (stage, view), line in shown.sort_values("shots").groupby(["stage", "view"], sort=False):
            look = _look(str(stage), str(view))
            _line(axes, line, "shots", "test_bits_per_byte", look)
            axes.vlines(line["shots"], line["test_bits_per_byte_low"], line["test_bits_per_byte_high"],
                        color=look.color, linewidth=1)
        axes.set_xscale("log", base=2)
        _plain_ticks(axes.xaxis, ticker.FixedLocator(sorted(shown["shots"].unique())))
        _name(axes, pair, "windows of the target", "bits per byte")
    _stage_legend(figure, measures)
    return figure


@_or_no_data
def forgetting_against_gain(front: pd.DataFrame) -> Figure:
    """What is lost on the source's test text over what is gained on the target's; the line joins the Pareto front."""
    figure, panels, groups = _pair_panels(front)
    for axes, (pair, rows) in zip(panels, groups.items(), strict=True):
        _line(axes, rows[rows["on_front"]], "gain_bits_per_byte", "forgetting_bits_per_byte", Look("#999999", "", "-"))
        for (stage, view), points in rows.groupby(["stage", "view"], sort=False):
            look = _look(str(stage), str(view))._replace(dashes="")
            _line(axes, points, "gain_bits_per_byte", "forgetting_bits_per_byte", look, markersize=6)
        _name(axes, pair, "gained on the target, bits per byte", "lost on the source")
    _stage_legend(figure, front)
    return figure


@_or_no_data
def stage_differences(comparisons: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Later minus earlier stage with 95 % intervals, both views of the rate side by side; a panel for each measure."""
    measures = [name for name in labels if name in set(comparisons["measure"])]
    figure, panels = _panels(-(-len(measures) // 2), min(2, len(measures)), (4.2, 1.9), count=len(measures))
    for axes, measure in zip(panels, measures, strict=True):
        rows = comparisons[comparisons["measure"] == measure]
        names = list(dict.fromkeys(f"{row.later} − {row.earlier}" for row in rows.itertuples()))
        for view, part in rows.groupby("view", sort=False):
            look, up = VIEWS[str(view)], 0.12 if view == "tuned" else -0.12
            heights = [names.index(f"{row.later} − {row.earlier}") + up for row in part.itertuples()]
            axes.hlines(heights, part["low"], part["high"], color=look.color, linestyle=look.dashes, linewidth=1.5)
            axes.plot(part["difference"], heights, "o", color=look.color, fillstyle=look.fill)
        axes.axvline(0, color="#999999", linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(-0.6, len(names) - 0.4)
        _name(axes, labels[measure], "steps" if measure.startswith("steps") else "bits per byte", "")
    _legend(figure, {f"{view} rate": VIEWS[str(view)] for view in comparisons["view"].unique()})
    return figure


@_or_no_data
def optuna_history(trials: pd.DataFrame) -> Figure:
    """The loss of each trial in the order of the search (points) and the lowest so far (line)."""
    trials = style.most_shots(trials).sort_values("number")
    figure, panels, groups = _pair_panels(trials)
    for axes, (pair, rows) in zip(panels, groups.items(), strict=True):
        for stage, part in style.stages_of(rows).items():
            look = style.stage_look(stage)
            _line(axes, part, "number", "validation_bits_per_byte", look._replace(dashes=""))
            lowest = part.assign(lowest=part["validation_bits_per_byte"].astype(float).cummin().ffill())
            axes.step(lowest["number"], lowest["lowest"], where="post", color=look.color, linestyle=look.dashes)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        _name(axes, pair, "trial", "bits per byte")
    _legend(figure, {stage: style.stage_look(stage) for stage in style.stages_of(trials)}, "from")
    return figure


def _look(stage: str, view: str) -> Look:
    """The stage's colour and marker, in the manner of the view."""
    return style.stage_look(stage)._replace(dashes=VIEWS[view].dashes, fill=VIEWS[view].fill)


def _pair_panels(frame: pd.DataFrame) -> tuple[Figure, list[Axes], dict[str, pd.DataFrame]]:
    """A panel for each source → target, those of a target side by side."""
    groups = style.pairs_of(frame)
    columns = min(3, frame.groupby("target")["source"].nunique().max())
    panels: Panels = _panels(-(-len(groups) // columns), columns, (3.4, 2.5), count=len(groups))
    return *panels, groups


def _stage_legend(figure: Figure, frame: pd.DataFrame) -> None:
    stages: Sequence[str] = list(style.stages_of(frame))
    _legend(figure, {stage: style.stage_look(stage)._replace(dashes="-") for stage in stages}
            | {f"{view} rate": VIEWS[view] for view in VIEWS if view in set(frame["view"])}, "from")
