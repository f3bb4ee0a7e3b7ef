"""What a report reads of a study: settings, domains, prompts, methods, and the rows that figures pick."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from support.study_tables import DOMAINS, PROMPTS, STEPS

from nanogpt.config import make_config
from nanogpt.report.tables import StudyTables, last_steps, loss_tables


def test_settings_are_read_with_and_without_groups_and_have_defaults() -> None:
    config = make_config("smoke", methods="occlusion", contrastive=True)
    for mapping in (config.flat(), dataclasses.asdict(config)):
        tables = StudyTables("", mapping, {}, {})
        assert tables.setting("methods") == "occlusion" and tables.setting("contrastive") is True
    assert StudyTables("", {}, {}, {}).setting("attribute_of") == "logit"


def test_domains_have_the_order_of_the_configuration_and_others_follow() -> None:
    frame = pd.DataFrame({"domain": ["joint", "recipes", "math"]})
    tables = StudyTables("", {"domains": "math, recipes=a/path.txt,wikipedia"}, {}, {"training": frame})
    assert tables.domains == ["math", "recipes", "joint"]
    assert tables.domain_order == ["math", "recipes", "wikipedia", "joint"]


def test_prompts_and_the_first_method_are_those_of_the_tables(study: StudyTables) -> None:
    assert study.prompts == list(PROMPTS.values())
    other = {"attribution": study.table("attribution").assign(method="occlusion")}
    assert dataclasses.replace(study, tables=other).first_method == "occlusion"
    assert StudyTables("", {"methods": "grad_cam,occlusion"}, {}, {}).first_method == "grad_cam"


def test_a_stage_that_a_file_lost_is_empty_again() -> None:
    tables = StudyTables("", {}, {}, {"zero_shot": pd.DataFrame({"stage": ["early", None]})})
    assert list(tables.table("zero_shot")["stage"]) == ["early", ""]
    with pytest.raises(AssertionError):
        tables.table("zero_shots")


def test_last_steps_are_each_models_own() -> None:
    rows = pd.DataFrame({"source": ["a", "a", "b"], "step": [1, 2, 1]})
    assert last_steps(rows, "source")["step"].tolist() == [2, 1]


def test_losses_stand_in_the_order_of_the_domains(study: StudyTables) -> None:
    tables = loss_tables(study.table("zero_shot"), DOMAINS[::-1])
    assert list(tables) == [f"{stage}, step {step}" for step, stage in STEPS.items() if stage]
    assert all(list(table.index) == list(table.columns) == list(DOMAINS[::-1]) for table in tables.values())
    unnamed = loss_tables(study.table("zero_shot").assign(stage=""), DOMAINS)
    assert list(unnamed) == [f"last step, step {max(STEPS)}"] or list(unnamed) == ["last step"]
