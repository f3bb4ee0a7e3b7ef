"""Single figures: what they write, mark and leave out, from realistic and sparse rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.study_tables import PROMPTS, STEPS, UNKNOWN, words

from nanogpt.report.figures import FIGURES, draw
from nanogpt.report.plots import prompts, zero_shot
from nanogpt.report.plots.letters import Letters, outline
from nanogpt.report.plots.panels import legend_columns, paint, step_ticks
from nanogpt.report.tables import StudyTables
from nanogpt.report.wording import visible


def letters(figure: Figure) -> list[str]:
    """The characters of the prompt below the first panel."""
    (below,) = figure.axes[0].findobj(lambda artist: artist.get_gid() == "x letters")
    assert isinstance(below, Letters)
    return below.texts


def test_matrix_writes_the_numbers_of_every_stage(study: StudyTables) -> None:
    rows = study.table("zero_shot")
    text = words(zero_shot.zero_shot_matrix(study))
    assert all(f"{value:.2f}" in text for value in rows.loc[rows["stage"] != "", "bits_per_byte"])
    assert all(f"{stage}, step" in text for stage in ("early", "mid", "late", "final"))


def test_the_best_model_of_each_text_alone_is_bold(study: StudyTables) -> None:
    (cells,) = zero_shot.zero_shot_matrix(study).axes[0].findobj(Letters)
    assert isinstance(cells, Letters)
    bold = [tuple(place) for place, heavy in zip(cells.get_offsets().tolist(), cells.bold, strict=True) if heavy]
    assert bold == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("stage", ["best", "step 450"])
def test_a_stage_that_a_user_named_is_drawn_too(study: StudyTables, stage: str) -> None:
    names = ("transfer_curves", "transfers", "trials", "transfer_measures")
    named = dataclasses.replace(study, tables={name: study.table(name).assign(stage=stage) for name in names})
    drawable = [figure for figure in FIGURES if figure.can_draw(named)]
    assert {figure.name for figure in drawable} == {
        "transfer_curves", "transfer_summary", "loss_by_shots", "forgetting_against_gain", "trials_by_learning_rate",
        "trials_in_order", "learning_curves"}
    for figure in drawable:
        made = figure.draw(named)
        paint(made, dpi=20)     # drawing names the ticks
        assert stage in words(made), figure.name


def test_prompts_are_shown_letter_by_letter_and_never_read_as_formulas(study: StudyTables) -> None:
    figure = prompts.attribution_map(study, PROMPTS["wikipedia"])
    assert {"␣", "⇥", "$"} <= set(words(figure).splitlines())
    assert "".join(letters(figure)) == visible(PROMPTS["wikipedia"])


@pytest.mark.parametrize("draw_prompt", [prompts.attribution_map, prompts.top_characters,
                                         prompts.attribution_triangle])
def test_unknown_characters_are_boxed_and_the_others_are_not(study: StudyTables, draw_prompt: object) -> None:
    assert callable(draw_prompt)
    figure, prompt = draw_prompt(study, PROMPTS["wikipedia"]), PROMPTS["wikipedia"]
    boxes = figure.axes[0].findobj(lambda artist: artist.get_gid() == "boxed")
    places = {int(x) for box in boxes for x in box.get_xdata()}    # type: ignore[attr-defined]
    assert places == {i for i, character in enumerate(prompt) if character in UNKNOWN} != set()
    assert "boxed: unknown to the model" in words(figure)
    assert "boxed" not in words(draw_prompt(study, PROMPTS["math"]))


def test_attribution_map_shows_the_shares_of_the_last_prediction(study: StudyTables) -> None:
    image = np.asarray(prompts.attribution_map(study, PROMPTS["math"]).axes[0].images[0].get_array())
    assert image.shape == (len(STEPS), len(PROMPTS["math"]))
    np.testing.assert_allclose(image.sum(axis=1), 1)


def test_the_triangle_is_that_of_the_last_step(study: StudyTables) -> None:
    assert f"step {max(STEPS)}" in words(prompts.attribution_triangle(study, PROMPTS["math"]))


def test_candidates_show_every_character_that_follows_at_every_checkpoint(study: StudyTables) -> None:
    figure = prompts.candidates(study, PROMPTS["wikipedia"])
    assert len(figure.axes) == len([step for step in STEPS if step])
    assert all(axes.get_title(loc="left").startswith("wikipedia, step") for axes in figure.axes)
    assert "".join(letters(figure)) == visible(PROMPTS["wikipedia"][1:])


def test_an_unknown_prompt_is_not_drawn(study: StudyTables, no_pixels: None) -> None:
    assert not any(figure.can_draw(study, "never asked") for figure in FIGURES if figure.prompts)
    no_maps = dataclasses.replace(study, tables={"top_characters": study.table("top_characters")})
    assert {name.rstrip("_0123456789") for name in draw(no_maps, "attribute")} == {"top_characters"}


@pytest.mark.parametrize("steps", [(0,), (0, 1), (0, 16, 31, 62, 125, 250, 500, 750, 1000), range(0, 5001, 50)])
def test_step_ticks_are_few_and_true(steps: tuple[int, ...]) -> None:
    ticks = step_ticks(steps)
    assert 0 in ticks and max(steps) in ticks and set(ticks) <= set(steps) and len(ticks) <= 10


def test_a_wider_figure_has_no_fewer_columns_in_its_legend() -> None:
    names = ["gradient times input", "loo", "recency", *(f"method {i}" for i in range(9))]
    columns = [legend_columns(names, inches) for inches in range(1, 30)]
    assert columns == sorted(columns) and columns[0] == 1 and columns[-1] == 8


def test_a_letter_is_an_outline_around_its_place_and_never_a_formula() -> None:
    assert outline("$", False) is outline("$", False)
    for text in ("a", "$x$", "␣", "0.25", "\U0010ffff"):
        low, high = outline(text, False).get_extents().get_points()
        assert low[0] + high[0] == pytest.approx(0, abs=0.2) and -1 < low[1] < high[1] < 1, text
    assert outline("", False).vertices.size == 0
