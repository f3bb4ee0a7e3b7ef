"""Figures and sentences of the evaluation, from the tables of a made-up study whose numbers are known."""

from __future__ import annotations

import dataclasses
import io
import itertools
from functools import cache

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from support.study_tables import DOMAINS, PROMPTS, STEPS, Tables, make_tables, words

from nanogpt.config import JOINT, STRONGEST_COUNTS
from nanogpt.report import findings
from nanogpt.report import page as report
from nanogpt.report.plots import common as figures
from nanogpt.report.plots import confidence as figures_confidence
from nanogpt.report.tables import StudyTables

LAST = max(STEPS)


@cache
def tables() -> Tables:
    """A study in which the own model is calibrated and ahead by 1, level with the n-gram, and others overconfident."""
    made = make_tables()
    zero = made["zero_shot"]
    own = zero["source"] == zero["target"]
    zero = zero.assign(
        temperature=(1.0 + 0.5 * ~own).where(zero["step"] > 0, 50.0), tempered_nats=1.5,
        bits_per_byte_low=zero["bits_per_byte"] - 0.1, bits_per_byte_high=zero["bits_per_byte"] + 0.1,
        uniform_divergence_nats=zero["step"] / LAST, unigram_divergence_nats=(zero["step"] - 50).abs() / 100,
        bigram_divergence_nats=(zero["step"] - 200).abs() / 100 + 0.5)
    who = [{"source": source, "target": target, "stage": "final", "step": LAST}
           for source, target in itertools.product(DOMAINS, DOMAINS)]
    groups = {"letter": "character class", "newline": "character class", "0": "characters read before",
              "1": "characters read before"}
    parts = [row | {"by": by, "group": group, "share": 0.5, "nats_per_character": 2.0}
             for row in who for group, by in groups.items()]
    bins = [row | {"stage": stage, "bin": k, "characters": 10 * k, "confidence": k / 15, "accuracy": k / 20}
            for row in who for stage in ("early", "mid", "late") for k in (3, 9, 14)]
    counted = [{"target": target, "baseline": name, "bits_per_byte": bits} for target in DOMAINS
               for name, bits in (("uniform", 6.9), ("unigram", 4.8), ("5-gram", 2.4), ("xz", 2.6))]
    rivals = [{"target": target, "stage": stage, "rival": rival, "ahead_bits_per_byte": ahead, "ahead_low": ahead - 0.2,
               "ahead_high": ahead + 0.2, "p_value": 0.001, "p_holm": 0.9 if rival == STRONGEST_COUNTS else 0.01}
              for target in DOMAINS for stage in ("early", "final")
              for rival, ahead in (*((name, 1.0) for name in DOMAINS if name != target), (STRONGEST_COUNTS, 0.1))]
    spans = [{"training": "math", "test": name, "shared_characters": 51 * i, "shared_share": i / 1000}
             for i, name in enumerate(DOMAINS)]
    apart = [{"first": a, "second": b, "vocabulary_overlap": 0.5, "trigram_divergence_bits": 0.3 + i / 10,
              "compression_distance": 0.9 + i / 100} for i, (a, b) in enumerate(itertools.combinations(DOMAINS, 2))]
    written = [{"source": source, "step": LAST, "prompt_domain": home, "prompt": PROMPTS[home], "copied_share": 0.25,
                "written_domain": source if home != "math" else home, "classifier_accuracy": 0.975}
               for source, home in itertools.product(DOMAINS, DOMAINS)]
    new = {"breakdown": parts, "reliability": bins, "baselines": counted, "comparisons": rivals, "leakage": spans,
           "distances": apart, "writing": written}
    return made | {"zero_shot": zero} | {name: pd.DataFrame(rows) for name, rows in new.items()}


def study(**changes: pd.DataFrame) -> StudyTables:
    return StudyTables("A study", {}, {}, tables() | changes)


def drawn(frames: Tables) -> dict[str, Figure]:
    zero_shot, parts = frames["zero_shot"], frames["breakdown"]
    return {"sharpening_curves": figures_confidence.sharpening_curves(zero_shot),
            "divergence_curves": figures_confidence.divergence_curves(zero_shot),
            "ranking": figures_confidence.ranking(zero_shot, frames["baselines"]),
            "reliability_diagrams": figures_confidence.reliability_diagrams(frames["reliability"]),
            "class_losses": figures_confidence.class_losses(parts),
            "context_losses": figures_confidence.context_losses(parts)}


def test_every_figure_names_every_domain_and_can_be_drawn() -> None:
    for name, figure in drawn(tables()).items():
        assert all(domain in words(figure) for domain in DOMAINS), name
        assert imread(io.BytesIO(figures.png(figure, dpi=40))).shape[0] >= 40


def test_empty_frames_give_a_figure_that_says_so() -> None:
    empty = {name: frame.head(0) for name, frame in tables().items()}
    assert all(words(figure) == "no data" for figure in drawn(empty).values())
    assert words(figures_confidence.candidates(empty["top_characters"], "x", "math")) == "no data"


def test_candidates_show_every_character_that_follows_at_every_checkpoint() -> None:
    prompt = PROMPTS["wikipedia"]
    figure = figures_confidence.candidates(tables()["top_characters"], prompt, "wikipedia", DOMAINS)
    assert len(figure.axes) == len([step for step in STEPS if step])
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "".join(labels) == figures.visible(prompt[1:])
    figures.png(figure, dpi=40)


def test_the_report_has_the_evaluation_in_it() -> None:
    names = ["zero_shot_matrix", "confidence_curves", "attribution_1", "candidates_1",
             *(name for name in drawn(tables()))]
    assert report.evaluation_figures(study()).keys() == drawn(tables()).keys()
    page = report.render(study(), dict.fromkeys(names, figures.png(figures.no_data(), dpi=20)))
    for name in names:
        assert report.CAPTIONS[name.removesuffix("_1")] in page.replace("&#39;", "'")
    assert "trigram divergence bits" in page and "ahead bits per byte" in page


def said(**changes: pd.DataFrame) -> str:
    return " ".join(findings.findings(study(**changes)))


def test_sentences_follow_the_numbers() -> None:
    text = said()
    assert "ahead of the next model by +1.00 (+0.80 to +1.20)" in text and "3 of 3 surely" in text
    assert "of a 5-gram by +0.10 (-0.10 to +0.30)" in text and "0 of 3 surely" in text
    assert "1.00 on the own domain and 1.50 on the others" in text
    assert "to the unigram at step 50 (0.00 nats; at the end 7.50)" in text and "to the bigram at step 200" in text
    assert "math with math" not in text.split("No test text")[0] and "0.20% of its characters" in text
    assert "in 67% of 6 texts and like the prompt's in 33%" in text and "held-out accuracy of 97.5%" in text
    assert "6 ordered pairs" in text
    own = tables()["zero_shot"].query("source == target and step == @LAST").set_index("target")["bits_per_byte"]
    below = [sum(bits < own[name] for bits in (2.4, 2.6)) for name in DOMAINS]
    said_of = text.split("Below the own model's loss")[1].split(" bits per byte).")[0]
    assert said_of.count("the lowest, 2.40 against") == sum(count > 0 for count in below)
    assert all(f"{count} on {name}" in said_of for count, name in zip(below, DOMAINS, strict=True) if count)


@pytest.mark.parametrize("table", ["comparisons", "distances", "leakage", "writing", "baselines"])
def test_a_missing_table_leaves_its_sentence_out(table: str) -> None:
    assert len(said(**{table: pd.DataFrame()})) < len(said())


def test_the_joint_model_is_no_rival_of_the_domains_own() -> None:
    zero, rivals = tables()["zero_shot"], tables()["comparisons"]
    joint = zero[zero["source"] == "math"].assign(source=JOINT, bits_per_byte=0.1, temperature=9.0)
    better = rivals[rivals["rival"] == STRONGEST_COUNTS].assign(rival=JOINT, ahead_bits_per_byte=-1.5)
    text = said(zero_shot=pd.concat([zero, joint]), comparisons=pd.concat([rivals, better]))
    assert "for all 3 domains" in text and "ahead of the next model by +1.00" in text
    assert "of the model of all domains by -1.50" in text and "9.00" not in text
    assert JOINT in dataclasses.replace(study(zero_shot=pd.concat([zero, joint]))).domains
