"""What models look at over training, and what the maps that say so are worth: tidy rows in, `Figure` out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nanogpt import looks
from nanogpt.attribution import BASELINES, METHODS
from nanogpt.figures import _color_bar, _heat, _legend, _line, _name, _or_no_data, _panels, _step_axis, _write
from nanogpt.looks import Look

MEASURES = {"mean_distance_characters": "effective context, characters", "entropy_nats": "entropy of the shares, nats",
            "same_word_share": "share on the same word", "previous_word_share": "share on the word before",
            "punctuation_share": "share on punctuation", "newline_share": "share on new lines",
            "spearman_with_last": "Spearman's ρ with the last checkpoint"}
BASELINE = Look("#777777", "s", "--")


def method_looks() -> dict[str, Look]:
    """A colour and a marker for each method; baselines are grey and dashed."""
    methods = {name: Look(looks.OKABE_ITO[i], looks.MARKERS[i]) for i, name in enumerate(METHODS)}
    return methods | {name: BASELINE._replace(marker=marker) for name, marker in zip(BASELINES, "sx", strict=True)}


@_or_no_data
def attribution_curves(summary: pd.DataFrame, /, domains: Sequence[str] = ()) -> Figure:
    """What the models look at over training, on all prompts: a line for each domain's model."""
    rows = summary[summary["prompt_domain"] == "all"].sort_values("step")
    shown = [name for name in MEASURES if name in rows and rows[name].notna().any() and rows[name].max() > 0]
    styles = looks.domain_looks(rows, domains, "domain")
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
    rows, styles = last_steps(faithfulness), looks.domain_looks(faithfulness, domains, "domain")
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
    table = looks.pivot(both, "method", "other", "spearman").reindex(index=order, columns=order)
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
