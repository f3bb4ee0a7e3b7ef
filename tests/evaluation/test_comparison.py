"""Differences on the same characters, means over seeds, regret, advantage and asymmetry: by hand."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

from nanogpt.config import JOINT
from nanogpt.evaluation.comparison import bits_interval, comparisons, specialisation, text_interval, zero_shot_means
from nanogpt.evaluation.intervals import clustered_interval, holm
from nanogpt.text.corpus import Corpus, Split, joined


@pytest.fixture(scope="module")
def split(corpora: dict[str, Corpus]) -> Split:
    """Two documents of several pieces each and two pieces that are units by themselves."""
    pieces = corpora["wikipedia"].test.pieces
    assert len(pieces) >= 4
    halves = [part._replace(unit=piece.unit) for piece in pieces[:2] for middle in [(piece.begin + piece.end) // 2]
              for part in (piece._replace(end=middle), piece._replace(begin=middle))]
    return joined([corpora["wikipedia"].test.part(halves), corpora["math"].test.part(corpora["math"].test.pieces[:2])])


def random_bits(seeds: int, split: Split, seed: int) -> Tensor:
    """Bits (S, N) that differ from unit to unit and from seed to seed."""
    generator = torch.Generator().manual_seed(seed)
    of_unit = torch.rand(100, generator=generator, dtype=torch.float64)[split.units_N]
    of_seed = 0.2 * torch.rand(seeds, 1, generator=generator, dtype=torch.float64)
    return of_unit + of_seed + torch.rand(seeds, len(split), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_the_interval_of_a_text_is_that_of_its_characters_clustered_by_unit_and_by_seed(split: Split,
                                                                                         seeds: int) -> None:
    bits_SN = random_bits(seeds, split, 0)
    sizes = [len(character.encode()) for character in split.text]
    units = [piece.unit for piece in split.pieces for _ in range(piece.begin, piece.end)]
    clusters = [units * seeds, [seed for seed in range(seeds) for _ in units]][:1 if seeds == 1 else 2]
    expected = clustered_interval(bits_SN.flatten().numpy(), sizes * seeds, *clusters)
    found = text_interval(bits_SN, split)
    assert found.units == expected.units == min([4, seeds] if seeds > 1 else [4])
    for name in ("value", "low", "high", "p_value"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6)
    assert found.value == pytest.approx(statistics.fmean(sum(bits) / sum(sizes) for bits in bits_SN.tolist()))
    if seeds == 1:
        assert bits_interval(bits_SN[0], split) == {"bits_per_byte_low": found.low, "bits_per_byte_high": found.high}


def test_means_over_seeds_are_those_of_each_seeds_bits_per_byte(split: Split) -> None:
    losses = {"a": {"a": random_bits(3, split, 1), "b": random_bits(2, split, 2)}, "c": {"b": random_bits(1, split, 3)}}
    rows = list(zero_shot_means(losses, {"a": split, "c": split}, "late"))
    assert [(row["source"], row["target"], row["seeds"]) for row in rows] == [("a", "a", 3), ("b", "a", 2),
                                                                             ("b", "c", 1)]
    for row in rows:
        by_seed = [sum(bits) / len(split.text.encode()) for bits in losses[row["target"]][row["source"]].tolist()]
        assert row["bits_per_byte"] == pytest.approx(statistics.fmean(by_seed)) and row["stage"] == "late"
        assert row["low"] < row["bits_per_byte"] < row["high"] and row["units"] == 4
        deviation = statistics.stdev(by_seed) if len(by_seed) > 1 else float("nan")
        assert row["seed_deviation"] == pytest.approx(deviation, nan_ok=True)


def test_a_lead_over_two_seeds_is_the_mean_of_the_leads_of_each(split: Split) -> None:
    models = {"own": random_bits(2, split, 1), "near": random_bits(2, split, 2), "far": random_bits(2, split, 3) + 1,
              "counts": random_bits(1, split, 4).expand(2, -1)}
    rows = comparisons({"own": models}, {"own": split}, "final")
    assert [row["rival"] for row in rows] == ["near", "far", "counts"]
    for row in rows:
        leads = [comparisons({"own": {name: models[name][[seed]] for name in ("own", row["rival"])}}, {"own": split},
                             "final")[0] for seed in (0, 1)]
        assert row["ahead_bits_per_byte"] == pytest.approx(statistics.fmean(
            lead["ahead_bits_per_byte"] for lead in leads))
        assert (row["seeds"], row["units"]) == (2, 4) and [lead["seeds"] for lead in leads] == [1, 1]
        assert row["ahead_low"] < row["ahead_bits_per_byte"] < row["ahead_high"]
    assert [row["p_holm"] for row in rows] == holm([row["p_value"] for row in rows])


def test_who_wins_does_not_depend_on_who_is_asked(split: Split) -> None:
    """A lead of one domain's model over the other's on one text is the other's lead with its sign turned."""
    a_SN, b_SN = random_bits(2, split, 1), random_bits(2, split, 2)
    (first,), (second,) = (comparisons({own: {"a": a_SN, "b": b_SN}}, {own: split}, "final") for own in "ab")
    assert first["ahead_bits_per_byte"] == pytest.approx(-second["ahead_bits_per_byte"])
    assert first["ahead_low"] == pytest.approx(-second["ahead_high"])
    assert first["p_value"] == pytest.approx(second["p_value"])


def test_a_model_that_is_better_everywhere_is_ahead_by_its_margin(corpora: dict[str, Corpus]) -> None:
    split = corpora["math"].test
    own_SN = torch.rand(1, len(split), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = comparisons({"math": {"math": own_SN, "wikipedia": own_SN + 0.5, "5-gram": own_SN.flip(1)}},
                       {"math": split}, "final")
    assert [row["rival"] for row in rows] == ["wikipedia", "5-gram"]
    ahead, level = rows
    assert ahead["ahead_bits_per_byte"] == pytest.approx(0.5 * len(split) / split.n_bytes)
    assert ahead["ahead_low"] > 0 and ahead["p_holm"] < 0.01
    assert level["ahead_low"] < 0 < level["ahead_high"] and level["p_holm"] > 0.05
    assert comparisons({"math": {"wikipedia": own_SN}}, {"math": split}, "final") == []


def test_regret_advantage_and_asymmetry_by_hand() -> None:
    bits = {("a", "a"): 2.0, ("b", "a"): 3.0, ("c", "a"): 5.0, ("a", "b"): 4.0, ("b", "b"): 2.5, ("c", "b"): 2.0,
            ("a", "c"): 3.0, ("b", "c"): 3.0, ("c", "c"): 1.0}
    table = [{"training_seed": 1, "step": 7, "source": s, "target": t, "bits_per_byte": value}
             for (s, t), value in bits.items()]
    alone = [{"training_seed": seed, "step": step, "source": "a", "target": "a", "bits_per_byte": 9.0}
             for seed, step in ((1, 3), (2, 7))]        # no other domain has a model of this step, or of this seed
    rows = {(row["source"], row["target"]): row for row in specialisation(table + alone)}
    assert {(row["training_seed"], row["step"]) for row in rows.values()} == {(1, 7)}
    assert rows["b", "a"]["regret"] == 1 and rows["b", "b"]["regret"] == 0.5 and rows["c", "b"]["regret"] == 0
    assert rows["a", "a"]["advantage"] == 2 and rows["b", "b"]["advantage"] == 0.5
    assert rows["a", "b"]["asymmetry"] == 2 - 1 == -rows["b", "a"]["asymmetry"]
    assert rows["a", "a"]["asymmetry"] is None and rows["a", "b"]["advantage"] is None


def test_each_seeds_models_are_measured_against_each_other_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = [[{"training_seed": seed, "step": step, "source": source, "target": target,
                "bits_per_byte": float(torch.rand((), generator=generator))}
               for step in (2, 9) for source in "abc" for target in "abc"] for seed in (5, 1)]
    rows = list(specialisation([row for pair in zip(*tables, strict=True) for row in pair]))
    assert rows == [row for table in reversed(tables) for row in specialisation(table)] and len(rows) == 36


def test_the_joint_model_is_no_rival_of_the_domains() -> None:
    """What is said of them does not depend on whether a study also trains on all of them together."""
    bits = {("a", "a"): 2.0, ("b", "a"): 3.0, ("a", "b"): 4.0, ("b", "b"): 2.5,
            (JOINT, "a"): 1.5, (JOINT, "b"): 3.5}         # better than all on a, worse than the best on b
    table = [{"training_seed": 1, "step": step, "source": s, "target": t, "bits_per_byte": value}
             for (s, t), value in bits.items() for step in (7, 9) if s != JOINT or step == 9]
    domains = [row for row in table if row["source"] != JOINT]
    rows = list(specialisation(table))
    assert [row for row in rows if row["source"] != JOINT] == list(specialisation(domains))
    joint = {row["target"]: row for row in rows if row["source"] == JOINT}
    assert {target: row["regret"] for target, row in joint.items()} == {"a": -0.5, "b": 1.0}
    assert {(row["step"], row["advantage"], row["asymmetry"]) for row in joint.values()} == {(9, None, None)}
