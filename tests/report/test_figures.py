"""The one list of figures: what is drawn from which tables, for the page and for each phase, and what is said of it."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.study_tables import attribution_tables, words

from nanogpt.report import figures, page
from nanogpt.report.figures import FIGURES, LOGGING_PHASES, StudyFigure, draw, figures_table
from nanogpt.report.plots.panels import paint
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.tables import TABLES, StudyTables

DOCUMENT = Path(__file__).parents[2] / "docs" / "figures.md"


def with_changes(study: StudyTables, **config: object) -> StudyTables:
    return dataclasses.replace(study, config={**study.config, **config})


def test_the_page_has_every_figure_of_a_section_and_each_phase_its_own(study: StudyTables,
                                                                       no_drawing: None) -> None:
    every = {phase: draw(study, phase) for phase in ("", *LOGGING_PHASES)}
    for phase, images in every.items():
        names = {name.rstrip("_0123456789") for name in images}
        assert names == {figure.name for figure in FIGURES if (phase in figure.phases if phase else figure.section)}
    assert {name for name in every["attribute"] if name.startswith("attribution_map")} == {
        "attribution_map_01", "attribution_map_02", "attribution_map_03"}
    assert [name for name in every[""] if name.startswith("candidates")] == ["candidates_01"]
    assert set().union(*every.values()) == set(every[""]) | set(every["transfer"]) | set(every["attribute"])


def test_a_figure_of_a_prompt_has_the_number_of_the_prompt_in_the_page_and_in_the_phase(study: StudyTables,
                                                                                      no_drawing: None) -> None:
    frame = study.table("top_characters")
    prompts = [f"prompt {i}" for i in range(7)]
    many = pd.concat([frame[frame["prompt"] == study.prompts[0]].assign(prompt=prompt) for prompt in prompts])
    tables = dataclasses.replace(study, tables={"top_characters": many})
    numbers = {phase: [int(name[-2:]) for name in draw(tables, phase) if name.startswith("top_characters")]
               for phase in ("", "attribute")}
    assert numbers == {"": [1, 4, 7], "attribute": [1, 3, 5, 7]}
    shown = page.render(tables, draw(tables)).split("<summary><code>")[1:]
    assert [text.split("</code>")[0] for text in shown] == [prompts[i - 1].replace(" ", "␣") for i in (1, 4, 7)]


@pytest.mark.parametrize("missing", TABLES)
def test_without_a_table_go_the_figures_that_need_it_and_no_other(study: StudyTables, missing: str,
                                                                  no_drawing: None) -> None:
    for frames in ({name: frame for name, frame in study.tables.items() if name != missing},
                   {**study.tables, missing: study.tables[missing].head(0)}):
        left = {name.rstrip("_0123456789") for phase in ("", *LOGGING_PHASES)
                for name in draw(dataclasses.replace(study, tables=frames), phase)}
        assert left == {figure.name for figure in FIGURES if missing not in figure.tables}


@pytest.mark.parametrize("rows", [0, 1])
def test_whatever_rows_there_are_nothing_raises(study: StudyTables, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "paint", functools.partial(paint, dpi=20))     # ticks are made when they are painted
    few = dataclasses.replace(study, tables={name: frame.head(rows) for name, frame in study.tables.items()})
    for phase in ("", *LOGGING_PHASES):
        assert bool(draw(few, phase)) == bool(rows)


def test_no_figure_without_the_numbers_that_it_is_of(study: StudyTables, no_drawing: None) -> None:
    def left(**changes: pd.DataFrame) -> set[str]:
        return set(draw(dataclasses.replace(study, tables=changes)))

    zero_shot, measures = study.table("zero_shot"), study.table("transfer_measures")
    assert left(zero_shot=zero_shot.drop(columns=["temperature", "bits_per_byte_low", "bigram_divergence_nats"])) == {
        "zero_shot_matrix", "zero_shot_curves", "confidence_curves"}
    assert left(transfer_measures=measures[measures["shots"] == 16]) == {"forgetting_against_gain"}
    assert left(transfer_measures=measures.drop(columns="forgetting_bits_per_byte")) == {"loss_by_shots"}
    assert left(trials=study.table("trials").assign(validation_bits_per_byte=None)) == set()


METHOD_WORDS = {"gradient_norm": "gradient norm", "leave_one_out": "leave one out", "hires_cam": "hires cam"}
VALUES = {("logit", False): "the target's logit", ("log_probability", False): "the target's log-probability",
          ("loss", True): "the target's loss less that of its strongest rival"}


@pytest.mark.parametrize("method", METHOD_WORDS)
@pytest.mark.parametrize(("attribute_of", "contrastive"), VALUES)
def test_captions_and_axes_say_what_was_attributed_and_how(study: StudyTables, method: str, attribute_of: str,
                                                          contrastive: bool, tiny_drawing: Drawing) -> None:
    tables = {**study.tables, "attribution": study.table("attribution").assign(method=method)}
    asked = dataclasses.replace(with_changes(study, attribute_of=attribute_of, contrastive=contrastive), tables=tables)
    drawn = dict.fromkeys(("attribution_map_01", "attribution_curves", "faithfulness"), tiny_drawing)
    text = page.render(asked, drawn).replace("&#39;", "'")
    value = VALUES[attribute_of, contrastive]
    assert text.count(f"{METHOD_WORDS[method]} of {value} (") >= 5    # two captions with their alt texts, and the text
    tested = value.replace("target's loss", "target's log-probability")
    assert f"how far {tested} falls" in text and f"raised {value}," in text
    for other_value in VALUES.values():
        assert other_value in value or f"of {other_value} (" not in text
    prompt = study.prompts[0]
    by_name = {figure.name: figure for figure in FIGURES}
    for name, label in (("attribution_map", f"share of the {METHOD_WORDS[method]} of {value}"),
                        ("attribution_triangle", f"share of the {METHOD_WORDS[method]} of {value}")):
        assert label in words(by_name[name].draw(asked, prompt)).replace("\n", " "), name
    for name in ("faithfulness", "deletion_curves"):
        assert f"fall of {tested}" in words(by_name[name].draw(asked)).replace("\n", " "), name


def test_a_method_that_the_configuration_does_not_know_is_named_too(study: StudyTables) -> None:
    frame = study.table("attribution").assign(method="shapley_values")
    asked = dataclasses.replace(study, tables={"attribution": frame})
    caption = next(figure for figure in FIGURES if figure.name == "attribution_map").caption_for(asked)
    assert "shapley values of the target's logit, as a share" in caption


def test_twelve_methods_have_twelve_looks(study: StudyTables) -> None:
    methods = tuple(f"method_{i}" for i in range(12))
    tables = dataclasses.replace(study, tables=attribution_tables(methods=methods))
    by_name = {figure.name: figure for figure in FIGURES}
    for name in ("faithfulness", "deletion_curves", "method_agreement"):
        paint(made := by_name[name].draw(tables), dpi=20)     # ticks get their names when it is painted
        assert all(f"method {i}" in words(made).splitlines() for i in range(12)), name
    (legend,) = by_name["deletion_curves"].draw(tables).legends
    looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()}
    assert len(looks) == len(legend.get_lines()) == 14


def test_names_are_unique_and_sections_are_those_of_the_page() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert {figure.section for figure in FIGURES} - {""} <= {section.name for section in page.SECTIONS}
    assert {phase for figure in FIGURES for phase in figure.phases} == set(LOGGING_PHASES)
    assert all(set(figure.tables) <= set(TABLES) and (figure.section or figure.phases) for figure in FIGURES)


def test_the_document_lists_every_figure() -> None:
    assert figures_table() in DOCUMENT.read_text("utf-8"), "write figures_table() into docs/figures.md"


def test_a_figure_is_added_by_its_line_alone(study: StudyTables, monkeypatch: pytest.MonkeyPatch,
                                             no_pixels: None) -> None:
    def texts(tables: StudyTables) -> Figure:
        made = Figure((1, 1))
        made.text(0, 0, str(len(tables.table("corpora"))))
        return made

    line = StudyFigure("sizes", "corpora", ("corpora",), "How long the texts are.", texts, phases=("train",))
    monkeypatch.setattr(figures, "FIGURES", (line,))
    assert list(draw(study)) == list(draw(study, "train")) == ["sizes"]
    text = page.render(study)
    assert text.count("How long the texts are.") == 2 and "`sizes`" in figures_table()


def test_the_report_needs_no_pyplot_no_torch_and_no_store() -> None:
    code = ("import sys, nanogpt.report.page; "
            "sys.exit(bool({'matplotlib.pyplot', 'torch', 'mlflow', 'optuna'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
