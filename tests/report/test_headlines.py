"""The numbers that studies are compared by, against tables whose means are known."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from nanogpt.report.headlines import HEADLINES, headlines
from nanogpt.report.tables import StudyTables


def test_a_whole_study_has_all_of_them_and_each_is_its_tables_mean(study: StudyTables) -> None:
    found, zero = headlines(study), study.table("zero_shot")
    last = zero[zero["step"] == zero["step"].max()].pivot(index="target", columns="source", values="bits_per_byte")
    own = [last.loc[name, name] for name in last.index]
    assert list(found) == list(HEADLINES)
    assert found["own_bits_per_byte"] == pytest.approx(sum(own) / len(own))
    assert found["others_bits_per_byte"] == pytest.approx((last.to_numpy().sum() - sum(own)) / 6)
    rivals = [last.loc[name].drop(name).min() - last.loc[name, name] for name in last.index]
    assert found["lead_bits_per_byte"] == pytest.approx(sum(rivals) / len(rivals)) and min(rivals) > 0
    assert found["others_overconfidence"] > found["own_overconfidence"]
    assert found["late_minus_early_bits_per_byte"] == pytest.approx(-0.4)     # maturity 0.3 and 0.7
    assert found["map_faithfulness"] == pytest.approx(1.0)      # the first method is worth most in the made-up tables


def test_what_has_no_table_is_left_out(study: StudyTables) -> None:
    def of(**tables: pd.DataFrame) -> set[str]:
        return set(headlines(dataclasses.replace(study, tables=tables)))

    zero = study.table("zero_shot")
    assert of() == set()
    assert of(zero_shot=zero) == {name for name in HEADLINES if name.startswith(("own", "others", "lead"))}
    assert of(zero_shot=zero[(zero["source"] == "math") & (zero["target"] == "math")]) == {
        "own_bits_per_byte", "own_overconfidence"}
