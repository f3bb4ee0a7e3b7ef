"""The page is whole, keeps to itself, escapes what models write, and says what the numbers say."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from support import browse
from support.study_tables import DOMAINS, make_tables

from nanogpt.report import findings
from nanogpt.report import page as report
from nanogpt.report.plots import common as figures
from nanogpt.report.tables import TABLES, StudyTables
from nanogpt.transfer.tables import stage_comparisons


@cache
def study() -> StudyTables:
    return StudyTables("A <study>", {"preset": "quick"}, {"python": "3.11", "seed": 1}, make_tables(),
                       {"train math": ("0a1b", "/#/experiments/1/runs/0a1b")})


@cache
def page() -> str:
    return report.render(study())


def with_table(name: str, frame: pd.DataFrame) -> StudyTables:
    return dataclasses.replace(study(), tables={**study().tables, name: frame})


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


def test_page_is_self_contained_and_small() -> None:
    found = Page(page())
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert not re.search(r"url\(|@import", page())
    assert len(page().encode()) < 5_000_000
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))


def test_chromium_shows_it_without_a_word_on_its_console(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(report.render(study(), drawn={}), "utf-8")
    dom, console = browse((tmp_path / "report.html").as_uri(), tmp_path / "profile")
    assert console == []
    assert 'href="http://127.0.0.1:5000/#/experiments/1/runs/0a1b"' in dom    # the script ran


def test_every_row_and_section_leads_to_its_run() -> None:
    zero_shot = study().table("zero_shot").assign(run_id="0a1b")
    picture = figures.png(figures.no_data(), dpi=20)
    text = report.render(with_table("zero_shot", zero_shot), drawn={"zero_shot_matrix": picture})
    assert text.count('data-path="/#/experiments/1/runs/0a1b"') > (zero_shot["stage"] != "").sum()
    assert "From 1 run<" in text


def test_every_section_with_numbers_lists_its_runs() -> None:
    tables = study().tables | {"method_agreement": pd.DataFrame({"domain": ["math"], "step": 0, "method": ["random"],
                                                                 "other": ["recency"], "spearman": 0.0})}
    named = {name: frame.assign(run_id="0a1b") for name, frame in tables.items()}
    drawn = dict.fromkeys(report.CAPTIONS, figures.png(figures.no_data(), dpi=20))
    sections = report.render(dataclasses.replace(study(), tables=named), drawn).split("<section ")
    lists = {section.split('"')[1]: section.count("From 1 run<") for section in sections[1:]}
    assert {name for name, count in lists.items() if count} >= {
        "training", "zero-shot", "confidence", "transfer", "attribution", "generations"}


def test_every_table_has_its_section_and_every_domain_its_place() -> None:
    for section in ("summary", "corpora", "training", "zero-shot", "confidence", "transfer", "attribution",
                    "generations", "environment"):
        assert f'<section id="{section}">' in page()
    assert all(page().count(f">{name}<") >= 2 for name in DOMAINS)
    assert "{{" not in page() and "0a1b" in page()


def test_what_a_model_writes_stays_text() -> None:
    assert "<script>alert" not in page() and "&lt;script&gt;alert" in page() and "A &lt;study&gt;" in page()
    assert Page(page()).tags.count("script") == 4
    data = json.loads(re.search(r'id="written">(.*?)</script>', page(), re.DOTALL)[1])  # type: ignore[index]
    assert "<script>" in data["items"][0]["text"] and data["steps"] == sorted(data["steps"])


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("attribution", "top_characters")])
def test_a_missing_table_leaves_its_section_out(name: str) -> None:
    tables = {key: frame for key, frame in study().tables.items() if key == name}
    others = dataclasses.replace(study(), tables=tables)
    text = report.render(others, drawn={})
    assert "Traceback" not in text and '<section id="training">' not in text
    assert ('<section id="generations">' in text) == (name == "generations")
    assert ('<section id="corpora">' in text) == (name == "corpora")


def test_empty_study_still_gives_a_page() -> None:
    text = report.render(StudyTables("nothing", {}, {}, {"zero_shot": pd.DataFrame()}))
    assert 'id="environment"' in text and 'id="zero-shot"' not in text


def test_sentences_follow_the_numbers() -> None:
    said = " ".join(findings.findings(study()))
    assert "for all 3 domains" in said and "below the adapted early one" in said
    assert said.count("later one adapts better") == 1
    zero_shot = study().table("zero_shot")
    swapped = zero_shot.assign(source=zero_shot["source"].replace({"math": "wikipedia", "wikipedia": "math"}))
    said = " ".join(findings.findings(with_table("zero_shot", swapped)))
    assert "for 1 of 3 domains" in said and "on math the model of wikipedia is ahead" in said
    runs = study().table("transfers")
    swapped = stage_comparisons(runs.assign(stage=runs["stage"].replace({"early": "late", "late": "early"})))
    said = " ".join(findings.findings(with_table("stage_comparisons", swapped)))
    assert "above the adapted early one" in said and said.count("later one adapts worse") == 1


def test_margins_are_those_of_the_table() -> None:
    zero_shot = study().table("zero_shot")
    last = zero_shot[(zero_shot["step"] == zero_shot["step"].max()) & (zero_shot["target"] == "math")]
    best, second = last["bits_per_byte"].nsmallest(2)
    assert f"math by {second - best:.2f}" in " ".join(findings.findings(study()))


def test_one_domain_alone() -> None:
    alone = StudyTables("alone", {}, {}, make_tables(("recipes",)))
    assert len(findings.findings(alone)) == 1 and 'id="transfer"' not in report.render(alone)


@pytest.mark.parametrize(("column", "value", "shown"), [
    ("bytes", 1234567, "1,234,567"), ("bits_per_byte", 2.34567, "2.346"), ("accuracy", 0.5, "50.0%"),
    ("learning_rate", 0.0034567, "0.0035"), ("sha256", "a" * 64, "a" * 12 + "…"), ("x", float("nan"), "–"),
    ("x", None, "–"), ("name", "math", "math")])
def test_cells(column: str, value: object, shown: str) -> None:
    assert report.cell(column, value) == shown
