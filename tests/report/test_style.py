"""Colours, markers and dashes are steady and distinct."""

from __future__ import annotations

import dataclasses

import pandas as pd

from nanogpt.config import ATTRIBUTION_BASELINES, ATTRIBUTION_METHODS
from nanogpt.report.plots import training
from nanogpt.report.style import domain_colors, domain_styles, method_styles, nth_style
from nanogpt.report.tables import StudyTables


def test_styles_are_distinct_and_points_are_without_dashes() -> None:
    assert len({nth_style(i) for i in range(192)}) == 192
    assert len({nth_style(i)._replace(dashes="") for i in range(64)}) == 64


def test_twenty_domains_and_twelve_methods_differ() -> None:
    names = [f"domain{i}" for i in range(20)]
    points = {(style.color, style.marker) for style in domain_styles([], pd.DataFrame({"d": names}), "d").values()}
    assert len(points) == 20
    methods = [*ATTRIBUTION_METHODS, *(f"new_{i}" for i in range(12 - len(ATTRIBUTION_METHODS)))]
    styles = method_styles([*ATTRIBUTION_BASELINES, *methods])
    assert list(styles) == [*methods, *ATTRIBUTION_BASELINES]
    assert len({(style.color, style.marker) for style in styles.values()}) == len(styles)


def test_a_domain_looks_the_same_in_every_figure_and_phase(study: StudyTables) -> None:
    assert domain_colors(["a", "b", "a"]) == domain_colors(["a", "b"])
    assert len(set(domain_colors("abcdefgh").values())) == 8
    one = study.table("training").query("domain == 'math'")
    alone = dataclasses.replace(study, tables={"training": one})
    (line,) = training.training_curves(alone).legends[0].get_lines()
    assert line.get_color() == domain_colors(study.domains)["math"] != domain_colors(["math"])["math"]


def test_a_method_keeps_its_look_among_others() -> None:
    assert method_styles(["leave_one_out"])["leave_one_out"] == method_styles(ATTRIBUTION_METHODS)["leave_one_out"]
