"""Differences on the same characters, regret, advantage and asymmetry: by hand."""

from __future__ import annotations

import pytest
import torch

from nanogpt.config import JOINT
from nanogpt.evaluation.comparison import comparisons, specialisation
from nanogpt.text.corpus import Corpus


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


def test_the_joint_model_is_no_rival_of_the_domains() -> None:
    """What is said of them does not depend on whether a study also trains on all of them together."""
    bits = {("a", "a"): 2.0, ("b", "a"): 3.0, ("a", "b"): 4.0, ("b", "b"): 2.5,
            (JOINT, "a"): 1.5, (JOINT, "b"): 3.5}         # better than all on a, worse than the best on b
    table = [{"step": step, "source": s, "target": t, "bits_per_byte": value}
             for (s, t), value in bits.items() for step in (7, 9) if s != JOINT or step == 9]
    domains = [row for row in table if row["source"] != JOINT]
    rows = list(specialisation(table))
    assert [row for row in rows if row["source"] != JOINT] == list(specialisation(domains))
    joint = {row["target"]: row for row in rows if row["source"] == JOINT}
    assert {target: row["regret"] for target, row in joint.items()} == {"a": -0.5, "b": 1.0}
    assert {(row["step"], row["advantage"], row["asymmetry"]) for row in joint.values()} == {(9, None, None)}
