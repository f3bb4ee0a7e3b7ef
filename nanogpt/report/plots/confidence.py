"""Pictures of zero-shot losses with intervals and baselines, and of confidence: the habits of `figures.py`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from nanogpt.report import style
from nanogpt.report.plots.common import INK, SMALL, _legend, _line, _name, _or_no_data, _panels, _step_axis
from nanogpt.report.style import Look

GREY = "#777777"
DIVERGENCES = {"uniform": Look(GREY, "s", ":"), "unigram": Look("#56B4E9", "o", "--"), "bigram": Look(INK, "^")}
SHOWN_STAGES = ("early", "mid", "late")


@_or_no_data
def sharpening_curves(zero_shot: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """Entropy (above) and best temperature (below) over the steps; a column for each model, a line for each text."""
    styles, groups = style.by_source(zero_shot.sort_values("step"), domains)
    figure, panels = _panels(2, len(groups), (3.3, 2.3), sharey="row")
    for i, (source, rows) in enumerate(groups.items()):
        entropy, temperature = panels[i], panels[i + len(groups)]
        for target, line in rows.groupby("target", sort=False):
            _line(entropy, line, "step", "entropy_nats", styles[str(target)])
            _line(temperature, line[line["step"] > 0], "step", "temperature", styles[str(target)])
        temperature.axhline(1, color=GREY, linewidth=1)
        for axes in (entropy, temperature):
            _step_axis(axes, rows["step"])
        temperature.set_xlim(entropy.get_xlim())
        _name(entropy, f"model: {source}", "", "entropy, nats" if not i else "")
        _name(temperature, "", "training step", "best temperature" if not i else "")
    _legend(figure, {name: look for name, look in styles.items() if name in set(zero_shot["target"])}, "text")
    return figure


@_or_no_data
def divergence_curves(zero_shot: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """How far each model's predictions of its own domain's text are from those of models that only count."""
    own = zero_shot[zero_shot["source"] == zero_shot["target"]].sort_values("step")
    groups = style.by_source(own, domains)[1]
    figure, panels = _panels(1, max(1, len(groups)), (3.3, 2.5), sharey=True)
    for axes, (source, rows) in zip(panels, groups.items(), strict=False):
        for name, look in DIVERGENCES.items():
            _line(axes, rows, "step", f"{name}_divergence_nats", look)
        _step_axis(axes, rows["step"])
        axes.set_yscale("log")
        _name(axes, f"model: {source}", "training step", "divergence, nats")
    _legend(figure, DIVERGENCES, "from")
    return figure


@_or_no_data
def ranking(zero_shot: pd.DataFrame, /, baselines: pd.DataFrame, domains: Sequence[str] = ()) -> Figure:
    """Bits per byte with 95 % interval of every model after its last step, and of the baselines; a panel a text."""
    styles = style.by_source(zero_shot, domains)[0]
    last = zero_shot[zero_shot["step"] == zero_shot.groupby("source")["step"].transform("max")]
    groups = style.groups_of(last, "target", styles)
    counted = list(dict.fromkeys(name for name in baselines.get("baseline", ()) if name != "uniform"))
    rows_of = [*dict.fromkeys(last["source"]), *counted]
    figure, panels = _panels(1, len(groups), (3.3, 0.22 * len(rows_of) + 0.9), sharey=True)
    for axes, (target, rows) in zip(panels, groups.items(), strict=True):
        for row in rows.to_dict("records"):
            look, value = styles[row["source"]], row["bits_per_byte"]
            axes.errorbar(value, rows_of.index(row["source"]), color=look.color, marker=look.marker, capsize=3,
                          xerr=[[value - row["bits_per_byte_low"]], [row["bits_per_byte_high"] - value]])
        for row in baselines[baselines["target"] == target].to_dict("records") if counted else ():
            if row["baseline"] in counted:
                axes.plot(row["bits_per_byte"], rows_of.index(row["baseline"]), "|", color=INK, markersize=9)
        axes.set_yticks(range(len(rows_of)), rows_of)
        axes.set_ylim(len(rows_of) - 0.5, -0.5)
        _name(axes, f"text: {target}", "bits per byte", "")
    return figure


@_or_no_data
def reliability_diagrams(reliability: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """How often a prediction of each confidence was right; models down, stages across, a line for each text."""
    styles, groups = style.by_source(reliability, domains)
    stages = [stage for stage in SHOWN_STAGES if stage in set(reliability["stage"])] or [*reliability["stage"].unique()]
    figure, panels = _panels(len(groups), len(stages), (2.7, 2.5), sharey=True)
    for i, (source, rows) in enumerate(groups.items()):
        for axes, stage in zip(panels[i * len(stages):], stages, strict=False):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
            for target, line in rows[rows["stage"] == stage].groupby("target", sort=False):
                look = styles[str(target)]
                _line(axes, line, "confidence", "accuracy", look, markersize=0)
                axes.scatter(line["confidence"], line["accuracy"], line["characters"] / line["characters"].sum() * 250,
                             color=look.color, marker=look.marker, alpha=0.8, linewidths=0)
            _name(axes, f"{source}, {stage}", "confidence" if i == len(groups) - 1 else "", "share right")
    _legend(figure, styles | {"calibrated": Look(GREY, "")}, "text")
    return figure


def class_losses(breakdown: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """Loss by character class after the last step: a panel for each text, a mark for each model."""
    return _breakdown_figure(breakdown, domains, "character class")


def context_losses(breakdown: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """Loss against the characters that a prediction could read: a panel for each text, a mark for each model."""
    return _breakdown_figure(breakdown, domains, "characters read before")


@_or_no_data
def candidates(top: pd.DataFrame, /, prompt: str, source: str, domains: Sequence[str] = ()) -> Figure:
    """The likeliest next characters after each one of `prompt`, stacked, at each stage; the one that follows in colour.

    A model that grows surer has ever taller first bars; where they are grey it is sure and wrong.
    """
    rows = top[(top["prompt"] == prompt) & (top["source"] == source) & top["target"].notna()]
    rows = rows[rows["step"] > 0] if rows["step"].any() else rows
    rows = rows.sort_values(["step", "rank"]).drop_duplicates(["step", "position", "rank"])
    groups = {int(str(step)): part for step, part in rows.groupby("step")}
    color = style.domain_colors([*domains, source])[source]
    figure, panels = _panels(max(1, len(groups)), 1, (max(5.0, 0.17 * len(prompt) + 0.8), 1.35), sharey=True)
    for axes, (step, part) in zip(panels, groups.items(), strict=False):
        bottoms = part.groupby("position")["probability"].cumsum() - part["probability"]
        hits = part["candidate"] == part["target"]
        boxes = [((x - 0.46, y), (x + 0.46, y), (x + 0.46, y + height), (x - 0.46, y + height))
                 for x, y, height in zip(part["position"], bottoms, part["probability"], strict=True)]
        axes.add_collection(PolyCollection(boxes, facecolors=[color if hit else "#C8C8C8" for hit in hits],
                                           edgecolors="white", linewidths=0.8))
        for cell, bottom in zip(part.to_dict("records"), bottoms, strict=True):
            if cell["probability"] > 0.15:
                axes.text(cell["position"], bottom + cell["probability"] / 2, style.visible(cell["candidate"]),
                          ha="center", va="center", fontsize=SMALL - 1, parse_math=False, in_layout=False,
                          color="white" if cell["candidate"] == cell["target"] else INK)
        ends = part.drop_duplicates("position")
        axes.set_xticks(ends["position"], [style.visible(target) for target in ends["target"]], parse_math=False)
        axes.set_xlim(-0.6, len(prompt) - 1.4)
        axes.set_ylim(0, 1)
        stage = next(filter(None, part["stage"]), "") if "stage" in part else ""
        _name(axes, f"{source}, step {step:,} {stage} · mean entropy {ends['entropy_nats'].mean():.2f} nats", "",
              "probability")
    return figure


@_or_no_data
def _breakdown_figure(breakdown: pd.DataFrame, domains: Sequence[str], by: str) -> Figure:
    styles = style.by_source(breakdown, domains)[0]
    last = breakdown[breakdown["step"] == breakdown.groupby("source")["step"].transform("max")]
    last = last[last["by"] == by].drop_duplicates(["source", "target", "group"])
    labels, groups = list(dict.fromkeys(last["group"])), style.groups_of(last, "target", styles)
    labels.sort(key=lambda label: int(label.split()[0]) if label[0].isdigit() else 0)
    figure, panels = _panels(1, len(groups), (3.3, 0.24 * len(labels) + 0.9), sharey=True)
    for axes, (target, rows) in zip(panels, groups.items(), strict=True):
        shares = rows.drop_duplicates("group").set_index("group")["share"]
        for source, line in rows.groupby("source", sort=False):
            look = styles[str(source)]
            axes.plot(line["nats_per_character"], [labels.index(group) for group in line["group"]], color=look.color,
                      marker=look.marker, linestyle="", markersize=5.5)
        _share_labels(axes, labels, shares)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(left=0)
        _name(axes, f"text: {target}", "nats per character", by)
    _legend(figure, {name: look._replace(dashes="") for name, look in styles.items()}, "model")
    return figure


def _share_labels(axes: Axes, labels: Sequence[str], shares: pd.Series[float]) -> None:
    """At the right of each line, how much of the text the group makes up."""
    for height, label in enumerate(labels):
        if label in shares:
            axes.text(1.01, height, f"{shares[label]:.1%}", transform=axes.get_yaxis_transform(), ha="left",
                      va="center", fontsize=SMALL - 1, color=GREY)
