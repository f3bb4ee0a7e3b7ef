"""Sentences follow the numbers of a made-up study, and go with their tables."""

from __future__ import annotations

import dataclasses
import re

import pandas as pd
import pytest
from support.study_tables import DOMAINS, STEPS, make_tables

from nanogpt.config import JOINT, STRONGEST_COUNTS
from nanogpt.report.findings import LEAKED_SHARE, NAMED_LEAKS, findings, leaks
from nanogpt.report.tables import StudyTables
from nanogpt.transfer.tables import stage_comparisons

MOST_WORDS = 45
"""Of a sentence about three domains."""


def text_of(study: StudyTables, **changes: pd.DataFrame) -> str:
    return " ".join(findings(dataclasses.replace(study, tables={**study.tables, **changes})))


def test_losses_and_stages_are_told_as_they_are(study: StudyTables) -> None:
    text = text_of(study)
    assert "for all 3 domains" in text and "bits per byte lower than the early one's" in text
    zero_shot = study.table("zero_shot")
    swapped = zero_shot.assign(source=zero_shot["source"].replace({"math": "wikipedia", "wikipedia": "math"}))
    text = text_of(study, zero_shot=swapped)
    assert "for 1 of 3 domains" in text and "on math the model of wikipedia is ahead" in text
    runs = study.table("transfers")
    swapped = stage_comparisons(runs.assign(stage=runs["stage"].replace({"early": "late", "late": "early"})))
    text = text_of(study, stage_comparisons=swapped)
    assert "bits per byte higher than the early one's" in text


def test_margins_are_those_of_the_table(study: StudyTables) -> None:
    zero_shot = study.table("zero_shot")
    last = zero_shot[(zero_shot["step"] == zero_shot["step"].max()) & (zero_shot["target"] == "math")]
    best, second = last["bits_per_byte"].nsmallest(2)
    assert f"math by {second - best:.2f}" in text_of(study)


def test_one_domain_alone_has_no_rival() -> None:
    alone = StudyTables("alone", {}, {}, make_tables(("recipes",)))
    (sentence,) = findings(alone)
    assert "training steps" in sentence and "recipes" in sentence


def test_the_evaluation_is_told_as_it_is(study: StudyTables) -> None:
    text = text_of(study)
    assert "leads the next model in 3 of 3 domains. Its lead: +1.00 (+0.80 to +1.20)" in text
    assert "leads a 5-gram in 0 of 3 domains. Its lead: +0.10 (-0.10 to +0.30)" in text
    assert "over 100 units of text and 2 trainings of each domain" in text
    assert "a standard deviation of 0.01 on the own text and 0.01 on others" in text
    assert "1.00 on the own domain and 1.50 on the others" in text
    assert "to the unigram at step 50 (0.00 nats; at the end 7.50)" in text and "to the bigram at step 200" in text
    assert "0.40% of its characters" in text and "6 ordered pairs" in text
    assert "in 67% of 6 texts and like the prompt's in 33%" in text and "held-out accuracy is 97.5%" in text
    own = study.table("zero_shot").query("source == target and step == @LAST", local_dict={"LAST": max(STEPS)})
    losses = own.set_index("target")["bits_per_byte"]
    below = [sum(bits < losses[name] for bits in (2.4, 2.6)) for name in DOMAINS]
    clause = text.split("Below the own model's loss")[1].split(" bits per byte).")[0]
    assert clause.count("the lowest, 2.40 against") == sum(count > 0 for count in below)
    assert all(f"{count} on {name}" in clause for count, name in zip(below, DOMAINS, strict=True) if count)


def test_a_training_far_from_the_other_seeds_is_named(study: StudyTables) -> None:
    zero_shot = study.table("zero_shot")
    seeds = [zero_shot.assign(training_seed=seed, bits_per_byte=zero_shot["bits_per_byte"] + 0.01 * seed
                              + 0.5 * ((zero_shot["source"] == "math") & (seed == 3))) for seed in (1, 2, 3)]
    text = text_of(study, zero_shot=pd.concat(seeds, ignore_index=True))
    assert "Far from the other seeds of its domain ends math with seed 3" in text
    assert "Far from" not in text_of(study, zero_shot=pd.concat(seeds[:2], ignore_index=True))
    once = study.table("zero_shot_means").assign(seeds=1)
    assert "how much another seed would change is not known" in text_of(study, zero_shot_means=once)


def test_maps_of_two_seeds_stand_beside_those_of_early_and_final(study: StudyTables) -> None:
    text = text_of(study)
    assert "agree to ρ = 0.80 at the end; those of the early and the final checkpoint of one training to 0.40" in text


def test_maps_are_ranked_by_their_tables(study: StudyTables) -> None:
    last = study.table("faithfulness").query("step > 0")
    value = last.loc[last["method"] == "recency", "spearman_leave_one_out"].mean()
    assert f"{value:.2f} by recency" in text_of(study) and "by leave one out" not in text_of(study)


def test_a_leak_is_the_first_finding_and_names_the_worst_texts(study: StudyTables) -> None:
    cells = pd.DataFrame([("math", "wikipedia", 0.0, 0.3), ("shakespeare", "shakespeare", 0.02, 0.015),
                          ("math", "math", 0.0, LEAKED_SHARE)],
                         columns=["training", "test", "shared_share", "approximate_share"])
    told = findings(dataclasses.replace(study, tables={**study.tables, "leakage": cells}))
    assert told[0].startswith("Warning") and sum("exact spans" in sentence for sentence in told) == 1
    own = "2.0% of the test text of shakespeare stands in its own training text (2.0% in exact spans of 50)"
    other = "30.0% of the test text of wikipedia stands in the training text of math (0.0% in exact spans of 50)"
    assert leaks(cells) == [own, other], "the own text first; a share of just the threshold is none"
    assert f"{own} and {other}" in told[0] and len(told) == len(findings(study))
    many = pd.concat([cells[:1]] * (NAMED_LEAKS + 2))
    assert "and 2 more." in text_of(study, leakage=many) and leaks(pd.DataFrame()) == []


def test_without_a_leak_its_sentence_keeps_its_place(study: StudyTables) -> None:
    (place,) = (i for i, sentence in enumerate(findings(study)) if "near copies of passages included" in sentence)
    assert place > 0
    exact = study.table("leakage").drop(columns="approximate_share")
    text = text_of(study, leakage=exact)
    assert "0.20% of its characters" in text and "near copies" not in text, "as tables of earlier versions say it"


@pytest.mark.parametrize("table", ["comparisons", "distances", "leakage", "writing", "baselines", "faithfulness",
                                   "stage_comparisons", "zero_shot"])
def test_a_missing_table_leaves_its_sentence_out(study: StudyTables, table: str) -> None:
    sentences = set(findings(study))
    left = set(findings(dataclasses.replace(study, tables={**study.tables, table: pd.DataFrame()})))
    assert left < sentences


def test_the_joint_model_is_no_rival_of_the_domains_own(study: StudyTables) -> None:
    zero_shot, rivals = study.table("zero_shot"), study.table("comparisons")
    joint = zero_shot[zero_shot["source"] == "math"].assign(source=JOINT, bits_per_byte=0.1, temperature=9.0)
    better = rivals[rivals["rival"] == STRONGEST_COUNTS].assign(rival=JOINT, ahead_bits_per_byte=-1.5)
    text = text_of(study, zero_shot=pd.concat([zero_shot, joint]), comparisons=pd.concat([rivals, better]))
    assert "for all 3 domains" in text and "leads the next model in 3 of 3 domains. Its lead: +1.00" in text
    assert "leads the model of all domains in 0 of 3 domains. Its lead: -1.50" in text and "9.00" not in text
    tables = {**study.tables, "zero_shot": pd.concat([zero_shot, joint])}
    assert JOINT in dataclasses.replace(study, tables=tables).domains


def test_a_finding_is_told_in_short_sentences(study: StudyTables) -> None:
    told = [sentence for finding in findings(study) for sentence in re.split(r"[.;] (?=[A-Z])", finding)
            if not sentence.startswith("Adapt")]        # of transfers: transfer/tables.py
    assert max(len(sentence.split()) for sentence in told) <= MOST_WORDS, max(told, key=lambda text: len(text.split()))


def test_a_leak_of_a_long_text_says_that_it_was_looked_for_in_a_sample() -> None:
    cells = pd.DataFrame([{"training": "a", "test": "a", "shared_share": 0.2, "approximate_share": 0.3,
                           "training_characters": 10_000, "compared_characters": 2_000}])
    (told,) = leaks(cells)
    assert told.endswith("(20.0% in exact spans of 50, in a sample of 2,000 of its 10,000 characters)")
    (told,) = leaks(cells.assign(compared_characters=10_000))
    assert told.endswith("(20.0% in exact spans of 50)")
