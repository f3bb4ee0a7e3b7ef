"""Differences on the same characters, regret, advantage and asymmetry: by hand, and on a trained model."""

from __future__ import annotations

import pytest
import torch

from nanogpt.config import JOINT, Config
from nanogpt.evaluation.baselines import baseline_rows, counted_bits, distance_rows, leakage_rows
from nanogpt.evaluation.comparison import bits_interval, comparisons, specialisation
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.evaluation.rows import gather, readings
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import SPLITS, Corpus, joint_corpus


def test_a_model_that_is_better_everywhere_is_ahead_by_its_margin(corpora: dict[str, Corpus]) -> None:
    split = corpora["math"].test
    own_N = torch.rand(len(split), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = comparisons({"math": {"math": own_N, "wikipedia": own_N + 0.5, "5-gram": own_N.flip(0)}}, {"math": split},
                       "final")
    assert [row["rival"] for row in rows] == ["wikipedia", "5-gram"]
    ahead, level = rows
    assert ahead["ahead_bits_per_byte"] == pytest.approx(0.5 * len(split) / split.n_bytes)
    assert ahead["ahead_low"] > 0 and ahead["p_holm"] < 0.01
    assert level["ahead_low"] < 0 < level["ahead_high"] and level["p_holm"] > 0.05
    assert comparisons({"math": {"wikipedia": own_N}}, {"math": split}, "final") == []


def test_regret_advantage_and_asymmetry_by_hand() -> None:
    bits = {("a", "a"): 2.0, ("b", "a"): 3.0, ("c", "a"): 5.0, ("a", "b"): 4.0, ("b", "b"): 2.5, ("c", "b"): 2.0,
            ("a", "c"): 3.0, ("b", "c"): 3.0, ("c", "c"): 1.0}
    table = [{"step": 7, "source": s, "target": t, "bits_per_byte": value} for (s, t), value in bits.items()]
    alone = [{"step": 3, "source": "a", "target": "a", "bits_per_byte": 9.0}]
    rows = {(row["source"], row["target"]): row for row in specialisation(table + alone)}
    assert {row["step"] for row in rows.values()} == {7}
    assert rows["b", "a"]["regret"] == 1 and rows["b", "b"]["regret"] == 0.5 and rows["c", "b"]["regret"] == 0
    assert rows["a", "a"]["advantage"] == 2 and rows["b", "b"]["advantage"] == 0.5
    assert rows["a", "b"]["asymmetry"] == 2 - 1 == -rows["b", "a"]["asymmetry"]
    assert rows["a", "a"]["asymmetry"] is None and rows["a", "b"]["advantage"] is None


def test_a_reading_agrees_with_the_evaluation(trained: Checkpoint, corpora: dict[str, Corpus],
                                              tiny_config: Config) -> None:
    material, model = gather(corpora, tiny_config), trained.build()
    found = {reading.row["target"]: reading for reading in readings(model, trained, material, {"stage": "final"})}
    assert found.keys() == corpora.keys()
    for target, reading in found.items():
        split, row = material.tests[target], reading.row
        result = evaluate(model, trained, split, row["temperature"])
        assert {name: row[name] for name in result.row()} == pytest.approx(result.row(), nan_ok=True)
        assert row["bits_per_byte_low"] < row["bits_per_byte"] < row["bits_per_byte_high"]
        assert bits_interval(result.bits_N, split)["bits_per_byte_low"] == pytest.approx(row["bits_per_byte_low"])
        assert row["bigram_divergence_nats"] > 0 and row["tempered_nats"] > 0
        assert sum(part["characters"] for part in reading.reliability) == len(split)
        error = sum(part["characters"] * abs(part["confidence"] - part["accuracy"]) for part in reading.reliability)
        assert error / len(split) == pytest.approx(row["calibration_error"])


def test_baselines_get_better_with_what_they_read(corpora: dict[str, Corpus], tiny_config: Config) -> None:
    material, corpus = gather(corpora, tiny_config), corpora["math"]
    test = material.tests["math"]
    rows = {row["baseline"]: row["bits_per_byte"] for row in
            baseline_rows(corpus, test, counted_bits(material.ngrams["math"], test))}
    assert rows["uniform"] > rows["unigram"] > rows["bigram"] > rows["3-gram"] > 0
    assert 0 < rows["xz"] < rows["unigram"] and 0 < rows["gzip"] < rows["unigram"]


def test_distances_of_each_two_and_leaks_of_all(corpora: dict[str, Corpus]) -> None:
    assert [(row["first"], row["second"]) for row in distance_rows(corpora)] == [
        ("shakespeare", "wikipedia"), ("shakespeare", "math"), ("wikipedia", "math")]
    rows = list(leakage_rows(corpora))
    assert len(rows) == 9 and all(row["shared_share"] < 0.05 for row in rows)
    for row in rows:
        assert (row["shared_characters"] >= 50) == bool(row["example"])
        assert row["example"][:50] in corpora[row["training"]].train.text


def test_the_joint_corpus_has_an_equal_share_of_each(corpora: dict[str, Corpus]) -> None:
    joint = joint_corpus(corpora)
    assert joint.name == JOINT and joint.vocabulary == corpora["math"].vocabulary
    for name in SPLITS:
        text, begin = getattr(joint, name).text, 0
        for corpus in corpora.values():
            whole = getattr(corpus, name).text
            part = whole[:len(whole) // 3]
            assert text[begin:begin + len(part)] == part
            begin += len(part)
        assert begin == len(text)
    with pytest.raises(ValueError, match="must not be named 'joint'"):
        joint_corpus({JOINT: corpora["math"]})
