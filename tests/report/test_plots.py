"""Every picture can be drawn from realistic, sparse and empty rows; colours are steady; text stays text."""

from __future__ import annotations

import io
import subprocess
import sys
from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from support.study_tables import DOMAINS, PROMPTS, STEPS, UNKNOWN, Tables, make_tables, transfer_tables, words

from nanogpt.report import style
from nanogpt.report.plots import attribution as figures_attribution
from nanogpt.report.plots import common as figures
from nanogpt.report.plots import transfer as figures_transfer
from nanogpt.transfer.tables import view_means

tables_of = cache(make_tables)    # the same for every test, since none changes them


def every_figure(tables: Tables) -> dict[str, Figure]:
    prompt = tables["attribution"]["prompt"].iloc[0] if len(tables["attribution"]) else ""
    last = int(tables["attribution"]["step"].max()) if len(tables["attribution"]) else 0
    return {
        "training_curves": figures.training_curves(tables["training"]),
        "zero_shot_matrix": figures.zero_shot_matrix(tables["zero_shot"]),
        "zero_shot_curves": figures.zero_shot_curves(tables["zero_shot"]),
        "confidence_curves": figures.confidence_curves(tables["zero_shot"]),
        "transfer_curves": figures.transfer_curves(view_means(tables["transfer_curves"])),
        "transfer_summary": figures.transfer_summary(view_means(tables["transfers"])),
        **figures_transfer.grid_figures(tables),
        "tuning_history": figures.tuning_history(tables["trials"]),
        "attribution_map": figures_attribution.attribution_map(tables["attribution"], prompt),
        "attribution_triangle": figures_attribution.attribution_triangle(tables["attribution"], prompt, last),
        "top_character_map": figures_attribution.top_character_map(tables["top_characters"], prompt)}


@pytest.mark.parametrize("domains", [DOMAINS, ("recipes",)])
def test_every_figure_names_every_domain_it_was_given(domains: tuple[str, ...]) -> None:
    drawn = every_figure(tables_of(domains))
    alone = {"transfer_curves", "transfer_summary", "tuning_history", *figures_transfer.grid_figures(tables_of())}
    alone = alone if len(domains) == 1 else {"stage_differences"}
    for name, figure in drawn.items():
        expected = domains if name not in alone else ("no data",) if len(domains) == 1 else ("late − early",)
        assert all(word in words(figure) for word in expected), name
        height, width, _ = imread(io.BytesIO(figures.png(figure, dpi=40))).shape
        assert width >= 160 and height >= 40, name


def test_empty_frames_give_a_figure_that_says_so() -> None:
    for frames in ({name: pd.DataFrame() for name in tables_of()}, {k: v.head(0) for k, v in tables_of().items()}):
        assert all(words(figure) == "no data" for figure in every_figure(frames).values())


def test_unknown_prompt_has_no_data() -> None:
    assert words(figures_attribution.attribution_map(tables_of()["attribution"], "never asked")) == "no data"


def test_colors_are_steady_and_distinct() -> None:
    assert figures.domain_colors(["a", "b", "a"]) == figures.domain_colors(["a", "b"])
    assert len(set(figures.domain_colors("abcdef").values())) == 6
    part = tables_of()["training"].query("domain == 'math'")
    assert style.domain_looks(part, DOMAINS, "domain")["math"].color == figures.domain_colors(DOMAINS)["math"]


def test_matrix_writes_the_numbers_of_every_stage() -> None:
    zero_shot = tables_of()["zero_shot"]
    text = words(figures.zero_shot_matrix(zero_shot))
    staged = zero_shot[zero_shot["stage"] != ""]
    assert all(f"{value:.2f}" in text for value in staged["bits_per_byte"])
    assert all(f"{stage}, step" in text for stage in ("early", "mid", "late", "final"))


@pytest.mark.parametrize("stage", ["best", "step 450"])
def test_a_stage_that_a_user_named_is_drawn_too(stage: str) -> None:
    frames = {name: frame.assign(stage=stage) for name, frame in transfer_tables(("math", "wikipedia")).items()}
    drawn = figures_transfer.grid_figures(frames)
    del drawn["stage_differences"]
    for figure in (figures.transfer_curves(view_means(frames["transfer_curves"])),
                   figures.transfer_summary(view_means(frames["transfers"])),
                   figures.tuning_history(frames["trials"]), *drawn.values()):
        figures.png(figure, dpi=40)  # drawing names the ticks
        assert stage in words(figure)


def test_prompts_are_shown_letter_by_letter_and_never_read_as_formulas() -> None:
    figure = figures_attribution.attribution_map(tables_of()["attribution"], PROMPTS["wikipedia"])
    text = words(figure).splitlines()
    assert {"␣", "⇥", "$"} <= set(text)
    labels = figure.axes[0].get_xticklabels()
    assert "".join(label.get_text() for label in labels) == figures.visible(PROMPTS["wikipedia"])
    assert not any(label.get_parse_math() for label in labels)


def test_unknown_characters_are_boxed_and_the_others_are_not() -> None:
    tables, prompt = tables_of(), PROMPTS["wikipedia"]
    maps = (figures_attribution.attribution_map(tables["attribution"], prompt),
            figures_attribution.top_character_map(tables["top_characters"], prompt),
            figures_attribution.attribution_triangle(tables["attribution"], prompt, max(STEPS)))
    for figure in maps:
        boxed = [label.get_bbox_patch() is not None for label in figure.axes[0].get_xticklabels()]
        assert boxed == [character in UNKNOWN for character in prompt] and any(boxed)
        assert "boxed: unknown to the model" in words(figure)
    assert "boxed" not in words(figures_attribution.attribution_map(tables["attribution"], PROMPTS["math"]))


def test_attribution_map_shows_the_shares_of_the_last_prediction() -> None:
    rows, prompt = tables_of()["attribution"], PROMPTS["math"]
    image = np.asarray(figures_attribution.attribution_map(rows, prompt).axes[0].images[0].get_array())
    assert image.shape == (len(STEPS), len(prompt))
    np.testing.assert_allclose(image.sum(axis=1), 1)


@pytest.mark.parametrize("steps", [(0,), (0, 1), (0, 16, 31, 62, 125, 250, 500, 750, 1000), range(0, 5001, 50)])
def test_step_ticks_are_few_and_true(steps: tuple[int, ...]) -> None:
    ticks = style.step_ticks(steps)
    assert 0 in ticks and max(steps) in ticks and set(ticks) <= set(steps) and len(ticks) <= 10


def test_no_pyplot() -> None:
    code = "import sys, nanogpt.report.plots.common; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
