"""Maps of prompts, what models look at over training, and what the maps are worth: tidy rows in, `Figure` out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from nanogpt.config import ATTRIBUTION_BASELINES as BASELINES
from nanogpt.config import ATTRIBUTION_METHODS as METHODS
from nanogpt.report import style
from nanogpt.report.plots.common import (
    SMALL,
    _color_bar,
    _heat,
    _legend,
    _line,
    _name,
    _or_no_data,
    _panels,
    _step_axis,
    _write,
    no_data,
)
from nanogpt.report.style import Look, visible

MEASURES = {"mean_distance_characters": "effective context, characters", "entropy_nats": "entropy of the shares, nats",
            "same_word_share": "share on the same word", "previous_word_share": "share on the word before",
            "punctuation_share": "share on punctuation", "newline_share": "share on new lines",
            "spearman_with_last": "Spearman's ρ with the last checkpoint"}
BASELINE = Look("#777777", "s", "--")


def method_looks() -> dict[str, Look]:
    """A colour and a marker for each method; baselines are grey and dashed."""
    methods = {name: Look(style.OKABE_ITO[i], style.MARKERS[i]) for i, name in enumerate(METHODS)}
    return methods | {name: BASELINE._replace(marker=marker) for name, marker in zip(BASELINES, "sx", strict=True)}


@_or_no_data
def attribution_curves(summary: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """What the models look at over training, on all prompts: a line for each domain's model."""
    rows = summary[summary["prompt_domain"] == "all"].sort_values("step")
    shown = [name for name in MEASURES if name in rows and rows[name].notna().any() and rows[name].max() > 0]
    styles = style.domain_looks(rows, domains, "domain")
    figure, panels = _panels(-(-len(shown) // 4), min(4, len(shown)), (3.0, 2.3), count=len(shown))
    for axes, name in zip(panels, shown, strict=True):
        for domain, line in rows.groupby("domain", sort=False):
            _line(axes, line, "step", name, styles[str(domain)])
        _step_axis(axes, rows["step"])
        axes.set_ylim(min(0.0, float(rows[name].min())), 1.08 * float(rows[name].max()))
        _name(axes, MEASURES[name], "training step", "")
    _legend(figure, styles, "model")
    return figure


@_or_no_data
def faithfulness_bars(faithfulness: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """What each method's maps of the last checkpoints are worth; dashed, the baselines that know nothing."""
    rows, styles = last_steps(faithfulness), style.domain_looks(faithfulness, domains, "domain")
    titles = {"spearman_leave_one_out": "Spearman's ρ with leave-one-out", "comprehensiveness": "comprehensiveness",
              "sufficiency": "sufficiency (lower is better)"}
    order = [name for name in [*BASELINES, *METHODS][::-1] if name in set(rows["method"])]
    figure, panels = _panels(1, 3, (3.4, 0.3 * len(order) + 0.9), sharey=True)
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for height, method in enumerate(order):
            values = rows[rows["method"] == method]
            for domain, value in zip(values["domain"], values[column], strict=True):
                axes.plot(value, height, styles[domain].marker, color=styles[domain].color, markersize=5, alpha=0.85)
            axes.plot(values[column].mean(), height, "|", color="black", markersize=16)
            if method in BASELINES:
                axes.axvline(values[column].mean(), color="#777777", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
        _name(axes, title, "", "")
    points = {name: look._replace(dashes="") for name, look in styles.items()}
    _legend(figure, points | {"mean": Look("black", "|", "")}, "model")
    return figure


@_or_no_data
def deletion_curves(curves: pd.DataFrame) -> Figure:
    """What a target's value loses without (left), and with only (right), the characters that a method puts first."""
    rows = last_steps(curves).groupby(["method", "character_share"], as_index=False)[["deletion", "insertion"]].mean()
    styles = {name: look for name, look in method_looks().items() if name in set(rows["method"])}
    figure, panels = _panels(1, 2, (4.6, 3.2))
    for axes, column, title in zip(panels, ("deletion", "insertion"),
                                   ("without them (higher is better)", "with nothing else (lower is better)"),
                                   strict=True):
        for method, look in styles.items():
            _line(axes, rows[rows["method"] == method], "character_share", column, look)
        axes.xaxis.set_major_formatter("{x:.0%}")
        _name(axes, title, "share of the characters read", "what the target's value loses")
    _legend(figure, {name.replace("_", " "): look for name, look in styles.items()})
    return figure


@_or_no_data
def agreement_matrix(agreement: pd.DataFrame) -> Figure:
    """Spearman's ρ between the methods' maps of the last checkpoints, mean over domains."""
    rows = last_steps(agreement).groupby(["method", "other"])["spearman"].mean().reset_index()
    both: pd.DataFrame = pd.concat([rows, rows.rename(columns={"method": "other", "other": "method"})])
    order = [name for name in [*METHODS, *BASELINES] if name in set(both["method"])]
    table = style.pivot(both, "method", "other", "spearman").reindex(index=order, columns=order)
    figure, (axes,) = _panels(1, 1, (0.62 * len(order) + 1.6, 0.42 * len(order) + 1.2))
    norm = Normalize(0, 1)
    _heat(axes, table, norm, "Blues")
    for (i, j), value in np.ndenumerate(table.to_numpy(float)):
        if i != j:
            _write(axes, (j, i), f"{value:.2f}", norm(value), bold=False)
    names = [name.replace("_", " ") for name in order]
    axes.set_xticks(range(len(order)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(order)), names)
    _name(axes, "agreement of the methods at the last checkpoints", "", "")
    _color_bar(figure, [axes], norm, "Blues", "Spearman's ρ")
    return figure


def last_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each domain's last checkpoint."""
    return frame[frame["step"] == frame.groupby("domain")["step"].transform("max")]


@_or_no_data
def attribution_map(attribution: pd.DataFrame, prompt: str) -> Figure:
    """How much each character counts for what follows `prompt`; beside each step, what was predicted."""
    rows = style.last_predictions(attribution, prompt)
    return _prompt_figure(rows, "share", _share_of(rows), prompt)


def top_character_map(top: pd.DataFrame, prompt: str) -> Figure:
    """Entropy after each character of `prompt`; in the cell the likeliest next one, bold where it does follow."""
    rows = top.query("prompt == @prompt and rank == 1") if len(top) else top
    return _prompt_figure(rows.assign(end=rows.get("step")), "entropy_nats", "entropy, nats", prompt)


def attribution_triangle(attribution: pd.DataFrame, prompt: str, step: int) -> Figure:
    """At one step, how much each character (column) counts for the prediction of each later one (row), by domain."""
    found = attribution.query("prompt == @prompt and step == @step") if len(attribution) else attribution
    if found.empty:
        return no_data()
    groups, norm = style.groups_of(found, "domain", found["domain"].unique()), PowerNorm(0.5, 0, 1)
    size, columns = max(2.6, 0.115 * len(prompt) + 1), min(3, len(groups))
    figure, panels = _panels(-(-len(groups) // columns), columns, (size, size + 0.2), count=len(groups))
    for axes, (domain, rows) in zip(panels, groups.items(), strict=True):
        _heat(axes, style.pivot(rows, "target_position", "position", "share"), norm, "Blues")
        note = _letters(axes.xaxis, prompt, _unknown(rows))
        _letters(axes.yaxis, [*rows.drop_duplicates("target_position").sort_values("target_position")["target"]])
        _name(axes, f"{domain}, step {step:,}", f"character that was read{note}", "character that was predicted")
    _color_bar(figure, panels, norm, "Blues", _share_of(found))
    return figure


@_or_no_data
def _prompt_figure(rows: pd.DataFrame, value: str, label: str, prompt: str) -> Figure:
    """A panel for each `source`: steps down, characters of the prompt across, `value` as colour, one scale."""
    groups, norm = style.groups_of(rows, "source", dict.fromkeys(rows["source"])), Normalize(0, rows[value].max())
    height = 0.21 * rows["step"].nunique() + 0.7
    figure, panels = _panels(len(groups), 1, (max(5.0, 0.185 * len(prompt) + 1.8), height))
    for axes, (source, part) in zip(panels, groups.items(), strict=True):
        table = style.pivot(part, "step", "position", value)
        _heat(axes, table, norm, "Blues")
        axes.set_yticks(range(len(table)), part.groupby("step")["end"].first(), parse_math=False)
        note = _letters(axes.xaxis, prompt, _unknown(part))
        _name(axes, source, note, "step")
        if "candidate" in part:
            heights = {step: height for height, step in enumerate(table.index)}
            for cell in part.to_dict("records"):
                _write(axes, (cell["position"], heights[cell["step"]]), visible(cell["candidate"]), norm(cell[value]),
                       bold=cell["candidate"] == cell["target"])
    _color_bar(figure, panels, norm, "Blues", label)
    return figure


def _share_of(rows: pd.DataFrame) -> str:
    return f"share of the {style.listed([name.replace('_', ' ') for name in rows['method'].unique()])}"


def _unknown(rows: pd.DataFrame) -> frozenset[str]:
    """The characters that the model of these rows does not know."""
    return frozenset(rows.loc[rows["unknown"].astype(bool), "character"])


def _letters(axis: Axis, text: Sequence[str], unknown: frozenset[str] = frozenset()) -> str:
    """A character at each tick, `unknown` ones in a box; what to say of that, or nothing."""
    axis.set_ticks(range(len(text)), [visible(character) for character in text], parse_math=False, fontsize=SMALL)
    for label, character in zip(axis.get_ticklabels(), text, strict=True):
        if character in unknown:
            label.set_bbox({"boxstyle": "square,pad=0.15", "facecolor": "none", "edgecolor": style.OKABE_ITO[1]})
    return " (boxed: unknown to the model)" if unknown.intersection(text) else ""
