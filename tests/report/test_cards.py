"""The cards of the first screen follow their tables' rows and tests, and go with the tables."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from support.study_tables import DOMAINS

from nanogpt.config import STRONGEST_COUNTS
from nanogpt.report.cards import MOST_WORDS, Card, cards
from nanogpt.report.figures import FIGURES
from nanogpt.report.page import render
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.tables import StudyTables

SPECIALISATION, TRANSFER, CONFIDENCE, ATTRIBUTION = range(4)


def cards_with(study: StudyTables, name: str, frame: pd.DataFrame) -> list[Card]:
    told = cards(dataclasses.replace(study, tables={**study.tables, name: frame}))
    assert all(len(card.claim.split()) <= MOST_WORDS for card in told)
    return told


def test_four_short_claims_lead_to_figures_of_their_sections(study: StudyTables) -> None:
    told = cards_with(study, "training", pd.DataFrame())
    assert len(told) == 4
    assert {(card.figure, card.section) for card in told} <= {(figure.name, figure.section) for figure in FIGURES}


def test_every_interval_stands_in_the_tables_beside_its_number(study: StudyTables) -> None:
    limits = {"comparisons": ("ahead_bits_per_byte", "ahead_low", "ahead_high"),
              "stage_comparisons": ("difference", "low", "high"), "seed_agreement": ("spearman", "low", "high")}
    known = {tuple(f"{value:+.2f}" for value in row) for name, columns in limits.items()
             for row in study.table(name)[list(columns)].itertuples(index=False)}
    for card in cards(study):
        number = re.search(r"[+-]?\d+\.\d+", card.number)
        assert number
        low, _, high = card.interval.partition(" to ")
        assert card.interval == "" or (f"{float(number[0]):+.2f}", low, high) in known
    assert [bool(card.interval) for card in cards(study)] == [True, True, False, True]


def test_the_own_model_is_best_only_where_every_lead_holds(study: StudyTables) -> None:
    rows = study.table("comparisons")
    assert cards(study)[SPECIALISATION].claim == "Each domain's own model beats the other domains' models"
    other_domain = rows["rival"] != STRONGEST_COUNTS
    tied = (rows["target"] == "math") & (rows["rival"] == "wikipedia")
    for change in ({"p_holm": rows["p_holm"].mask(tied, 0.2),
                    "ahead_bits_per_byte": rows["ahead_bits_per_byte"].mask(tied, 0.9)},
                   {"ahead_low": rows["ahead_low"].mask(tied, -0.1),
                    "ahead_bits_per_byte": rows["ahead_bits_per_byte"].mask(tied, 0.9)}):
        card = cards_with(study, "comparisons", rows.assign(**change))[SPECIALISATION]
        assert card.claim == "Own models beat other domains' models on 2 of 3 domains"
        assert card.number == "+0.90 bits per byte" and "on math, against the model of wikipedia" in card.basis
    assert cards_with(study, "comparisons", rows[~other_domain])[0].section == "transfer", "an n-gram is no domain"


@pytest.mark.parametrize(("change", "words"), [
    ({"low": -0.5, "high": -0.1, "difference": -0.3, "claim": "lower", "p_holm": 0.01}, "ends lower than"),
    ({"low": 0.1, "high": 0.5, "difference": 0.3, "claim": "higher", "p_holm": 0.01}, "ends higher than"),
    ({"low": -0.5, "high": -0.1, "difference": -0.3, "claim": "lower", "p_holm": 0.06}, "is not shown to beat"),
    ({"low": -0.5, "high": 0.1, "difference": -0.2, "claim": "not decided", "p_holm": 0.3}, "is not shown to beat"),
    ({"low": np.nan, "high": np.nan, "difference": -0.2, "claim": "not decided", "p_holm": np.nan}, "ended lower")])
def test_a_transfer_is_claimed_where_its_interval_and_holm_allow_it(study: StudyTables, change: dict[str, object],
                                                                     words: str) -> None:
    card = cards_with(study, "stage_comparisons", study.table("stage_comparisons").assign(**change))[TRANSFER]
    assert words in card.claim and card.number == f"{change['difference']:+.2f} bits per byte"
    assert bool(card.interval) == (change["low"] == change["low"])


def test_confidence_is_a_mean_over_pairs_and_says_so(study: StudyTables) -> None:
    rows = study.table("zero_shot")
    for shift, word in ((0.2, "surer"), (-0.2, "less sure")):
        away = rows["source"] != rows["target"]
        card = cards_with(study, "zero_shot", rows.assign(overconfidence=np.where(away, shift, 9.0)))[CONFIDENCE]
        assert f"on average {word} than right" in card.claim and card.number == f"{100 * shift:+.1f} points"
        assert card.interval == "" and "mean over 6 pairs" in card.basis


def test_maps_change_more_than_seeds_do_only_where_intervals_lie_apart(study: StudyTables) -> None:
    rows = study.table("seed_agreement")
    assert cards(study)[ATTRIBUTION].claim == "Training changes what models look at more than seeds do"
    drift = (rows["compared"] == "early and final") & (rows["domain"] == DOMAINS[1])
    card = cards_with(study, "seed_agreement", rows.assign(spearman=rows["spearman"].mask(drift, 0.65),
                                                           high=rows["high"].mask(drift, 0.75)))[ATTRIBUTION]
    assert "is not shown" in card.claim and card.number == "ρ = 0.65" and DOMAINS[1] in card.basis
    once = cards_with(study, "seed_agreement", rows[rows["compared"] == "early and final"])[ATTRIBUTION]
    assert "agree this far" in once.claim and "Two seeds" not in once.basis


@pytest.mark.parametrize(("table", "section"), [("comparisons", "zero-shot"), ("stage_comparisons", "transfer"),
                                                ("zero_shot", "confidence"), ("seed_agreement", "attribution")])
def test_without_its_table_a_card_is_left_out(study: StudyTables, table: str, section: str) -> None:
    left = {card.section for card in cards_with(study, table, pd.DataFrame())}
    assert left == {card.section for card in cards(study)} - {section}


def test_a_card_leads_to_its_figure_where_it_was_drawn_and_a_warning_is_not_folded(study: StudyTables,
                                                                                  tiny_drawing: Drawing) -> None:
    leakage = study.table("leakage").assign(shared_share=0.5)
    told = dataclasses.replace(study, tables={**study.tables, "leakage": leakage})
    page = render(told, {"stage_differences": tiny_drawing})
    first = page[page.index('<section id="summary"'):page.index("<details><summary>All findings")]
    assert re.findall(r'<a href="#([\w-]+)">See', first) == ["zero-shot", "figure-stage_differences", "confidence",
                                                            "attribution"]
    assert page.count('id="figure-stage_differences"') == 1
    assert "test text was seen in training" in first and first.count("Description, no interval") == 1
    assert "<details" not in first
