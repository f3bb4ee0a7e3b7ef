"""The page is whole, keeps to itself, escapes what models write, and shows what there is and nothing else."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from support.study_tables import DOMAINS, make_tables, words

from nanogpt.report.figures import FIGURES, draw
from nanogpt.report.page import SECTIONS, cell, render
from nanogpt.report.plots.letters import Letters
from nanogpt.report.plots.panels import paint
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.tables import TABLES, StudyTables

SECTIONS_OF_TABLES = {
    "corpora": {"corpora"}, "excerpts": {"corpora"}, "training": {"training"},
    "zero_shot": {"matrix", "zero-shot", "confidence"},
    "breakdown": {"zero-shot"}, "baselines": {"zero-shot"}, "distances": {"zero-shot"}, "leakage": {"zero-shot"},
    "comparisons": {"zero-shot", "matrix"}, "zero_shot_means": {"zero-shot"}, "specialisation": {"zero-shot"},
    "reliability": {"confidence"},
    "transfer_curves": {"transfer"}, "transfers": {"transfer"}, "trials": {"transfer"},
    "transfer_measures": {"transfer"}, "stage_comparisons": {"transfer"}, "top_characters": {"attribution"},
    "attribution": {"attribution"}, "attribution_summary": {"attribution"}, "faithfulness": {"attribution"},
    "deletion_curves": {"attribution"}, "method_agreement": {"attribution"},
    "seed_agreement": {"attribution"}, "attribution_domains": set(),
    "attribution_words": set(), "generations": {"generations"}, "writing": {"generations"},
    "scaling": {"scaling"}, "scaling_transfers": {"scaling"}, "scaling_worth": {"scaling"}, "scaling_fits": {"scaling"},
    "scaling_curves": set()}


class Page(HTMLParser):
    """Addresses, ids and the open tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def shown_sections(text: str) -> set[str]:
    """The sections of a page that depend on its tables; each stands in the list of contents too."""
    contents, body = (set(re.findall(pattern, text))
                      for pattern in (r'<li><a href="#([\w-]+)"', r'<section id="([^"]+)'))
    assert contents == body >= {"summary", "environment"}
    return body - {"summary", "environment"}


def test_page_is_self_contained_and_small(whole_page: str) -> None:
    page = Page(whole_page)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", whole_page)
    assert len(whole_page.encode()) < 5_000_000
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_a_figure_stands_in_its_section_with_its_caption_as_alternative_text(study: StudyTables,
                                                                            whole_page: str) -> None:
    sections = {section.split('"')[1]: section.replace("&#39;", "'") for section
                in whole_page.split("<section ")[1:]}
    for figure in FIGURES:
        caption = figure.caption_for(study)
        for name, text in sections.items():
            pictures = (figure.prompts or 1) * (name == figure.section)
            said = text.count(f'aria-label="Enlarge the figure: {caption}"')
            assert said == text.count(f"<figcaption>{caption}<") == pictures, figure.name


def test_every_row_and_section_leads_to_its_run(study: StudyTables) -> None:
    rows = study.table("zero_shot").assign(run_id="0a1b")
    text = render(dataclasses.replace(study, tables={**study.tables, "zero_shot": rows}), {})
    assert text.count('data-path="/#/experiments/1/runs/0a1b"') > (rows["stage"] != "").sum()
    assert "From 1 run<" in text
    assert "From 1 run<" not in render(dataclasses.replace(study, tables={"zero_shot": rows}, links={}), {})


def test_every_section_with_numbers_lists_its_runs(study: StudyTables, tiny_drawing: Drawing) -> None:
    named = {name: frame.assign(run_id="0a1b") for name, frame in study.tables.items()}
    page = render(dataclasses.replace(study, tables=named), {"training_curves": tiny_drawing})
    sections = page.split("<section ")
    listed = {section.split('"')[1] for section in sections[1:] if "From 1 run<" in section}
    assert listed == {section.name for section in SECTIONS} - {"corpora", "matrix"}


def test_every_domain_and_every_section_has_its_place(whole_page: str) -> None:
    text = whole_page
    assert shown_sections(text) == {section.name for section in SECTIONS}
    assert all(text.count(f">{name}<") >= 2 for name in DOMAINS)
    assert "{{" not in text and "{%" not in text and "0a1b" in text


def test_what_a_model_writes_stays_text(study: StudyTables) -> None:
    text = render(study, {})
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text and "A &lt;study&gt;" in text
    assert Page(text).tags.count("script") == 5
    data = json.loads(re.search(r'id="written">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert "<script>" in data["items"][0]["text"] and data["steps"] == sorted(data["steps"])


def test_excerpts_stand_with_their_corpora_and_stay_text(study: StudyTables) -> None:
    corpora = render(study, {}).split('<section id="corpora"')[1].split("<section")[0]
    for name in DOMAINS:
        assert f"<pre>{name} begins &amp; goes on\nin &lt;b&gt;lines&lt;/b&gt;</pre>" in corpora


@pytest.mark.parametrize("name", TABLES)
def test_a_table_alone_gives_its_sections_and_no_other(study: StudyTables, name: str, no_drawing: None) -> None:
    alone = dataclasses.replace(study, tables={name: study.tables[name]})
    assert shown_sections(render(alone)) == SECTIONS_OF_TABLES[name]
    empty = dataclasses.replace(study, tables={name: study.tables[name].head(0)})
    assert shown_sections(render(empty)) == set()


@pytest.mark.parametrize("section", [section.name for section in SECTIONS])
def test_without_its_tables_a_section_is_left_out_and_the_others_stay(study: StudyTables, section: str,
                                                                        tiny_drawing: Drawing) -> None:
    names = {name for name, sections in SECTIONS_OF_TABLES.items() if section in sections}
    left = dataclasses.replace(study, tables={name: frame for name, frame in study.tables.items() if name not in names})
    drawn = {figure.name: tiny_drawing for figure in FIGURES if figure.can_draw(left) and not figure.prompts}
    expected = {name for table in left.tables for name in SECTIONS_OF_TABLES[table]}
    assert shown_sections(render(left, drawn)) == expected and section not in expected


def test_an_error_in_a_figure_is_not_hidden(study: StudyTables) -> None:
    broken = study.table("training").drop(columns="loss_nats")
    with pytest.raises(KeyError, match="loss_nats"):
        render(dataclasses.replace(study, tables={"training": broken}))


def test_empty_study_still_gives_a_page(empty_study: StudyTables) -> None:
    assert shown_sections(render(empty_study)) == set() and draw(empty_study) == {}


def test_one_domain_alone_has_no_transfer(tiny_drawing: Drawing) -> None:
    alone = StudyTables("alone", {}, {}, make_tables(("recipes",)))
    assert shown_sections(render(alone, {"training_curves": tiny_drawing})) == {
        "corpora", "training", "zero-shot", "confidence", "attribution", "generations"}


def test_prompts_are_said_to_come_from_where_they_come_from(study: StudyTables) -> None:
    assert "Prompts come from the test texts" in render(study, {})
    asked = dataclasses.replace(study, config={**study.config, "prompts": "lines.txt"})
    assert "Prompts come from the user&#39;s file" in render(asked, {})


@pytest.mark.parametrize(("column", "value", "shown"), [
    ("bytes", 1234567, "1,234,567"), ("bits_per_byte", 2.34567, "2.346"), ("accuracy", 0.5, "50.0%"),
    ("learning_rate", 0.0034567, "0.0035"), ("sha256", "a" * 64, "a" * 12 + "…"), ("x", float("nan"), "–"),
    ("x", None, "–"), ("x", pd.NA, "–"), ("name", "math", "math")])
def test_cells(column: str, value: object, shown: str) -> None:
    assert cell(column, value) == shown


def test_every_figure_names_its_domains_and_has_its_legend_inside(
        study: StudyTables, painted: dict[str, tuple[Figure, Drawing]]) -> None:
    others = {figure.name: figure.draw(study) for figure in FIGURES if not figure.section}
    painted_others = {name: (figure, paint(figure, name, 144)) for name, figure in others.items()}
    expected = {"stage_differences": ["late − early"], "candidates_01": DOMAINS[:1], "method_agreement": ["recency"],
                "deletion_curves": ["recency"]}
    for name, (figure, image) in (painted | painted_others).items():
        assert all(word in words(figure) for word in expected.get(name, DOMAINS)), name
        height, width, _ = imread(io.BytesIO(image.png)).shape
        assert width >= 600 and height >= 150, name
        for legend in figure.legends:
            extent = legend.get_window_extent()
            assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width, name


def test_in_no_figure_a_text_is_cut_off_or_stands_on_another(painted: dict[str, tuple[Figure, Drawing]]) -> None:
    for name, (figure, _) in painted.items():
        boxes = boxes_of_texts(figure)
        assert len(boxes) > 10 and (boxes[:, :2] >= -1).all() and (boxes[:, 3] <= figure.bbox.height + 1).all(), name
        low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
        over = np.argwhere(np.triu((high - low > 3).all(axis=-1), 1))
        assert not len(over), (name, boxes[over].tolist())


def boxes_of_texts(figure: Figure) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Left, bottom, right and top of the texts that are in sight and not askew."""
    hidden = {artist for axes in figure.axes if not axes.get_visible() for artist in axes.findobj()}
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        hidden |= {label for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
                   if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)}
    shown = [artist for artist in figure.findobj() if artist not in hidden and artist.get_visible()]
    texts = [text.get_window_extent().extents for text in shown if isinstance(text, Text)
             and text.get_text().strip() and not text.get_rotation() % 90]
    return np.concatenate([np.array(texts), *(letters.boxes() for letters in shown if isinstance(letters, Letters))])


def test_a_drawing_for_a_page_has_its_own_ids_and_the_pages_ink(painted: dict[str, tuple[Figure, Drawing]]) -> None:
    ids = [found for _, drawing in painted.values() for found in re.findall(r' id="([^"]+)"', drawing.svg)]
    assert len(ids) == len(set(ids))
    for name, (_, drawing) in painted.items():
        referred = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', drawing.svg))
        assert referred <= set(ids) and all(word.startswith(f"{name}-") for word in referred)
        assert "#000000" not in drawing.svg and "currentColor" in drawing.svg and len(drawing.svg) < 600_000
        natural, least = map(int, re.findall(r"width:(\d+)px", drawing.svg)[:2])
        assert least >= 0.89 * natural, "letters of 8 points have 9 pixels at the least"
