"""The evaluation phase says what makes its numbers doubtful."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanogpt.config import Config
from nanogpt.evaluation.rows import scored_texts
from nanogpt.study.evaluate import fill_comparisons
from nanogpt.study.phase import Study
from nanogpt.study.tables import Tables
from nanogpt.text.corpus import Corpus, make_split


def test_each_leak_is_one_warning_that_names_its_texts(corpora: dict[str, Corpus], tiny_config: Config,
                                                       caplog: pytest.LogCaptureFixture) -> None:
    own = corpora["shakespeare"]
    leaked = make_split(own.test.text[:1000] + corpora["wikipedia"].train.text[5000:6000], own.vocabulary)
    told = ("leakage: 50.0% of the test text of shakespeare stands in the training text of wikipedia "
            "(50.0% in exact spans of 50)")
    for test, warnings in ((own.test, []), (leaked, [told])):
        caplog.clear()
        studied = {"shakespeare": replace(own, test=test), "wikipedia": corpora["wikipedia"]}
        fill_comparisons({}, scored_texts(studied, tiny_config), Study(tiny_config, studied), Tables())
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == warnings
