"""The scaling phase: every size has its trainings and tables, none is registered, and it goes on where it stopped."""

from __future__ import annotations

import math
from dataclasses import replace

import mlflow
import pandas as pd
import pytest

from nanogpt.config import Config, ScalingConfig
from nanogpt.report.tables import StudyTables
from nanogpt.study.cells import Cells
from nanogpt.study.phase import Study
from nanogpt.study.pipeline import PHASE_SECONDS, PHASES, phases_of
from nanogpt.study.scale import scale_models
from nanogpt.text.corpus import Corpus
from nanogpt.tracking.resumption import cells_below
from nanogpt.tracking.run import open_run

SIZES = "1x32,2x32,1x64,2x64"


@pytest.fixture
def study(models: str, corpora: dict[str, Corpus], tiny_config: Config) -> Study:
    config = replace(
        tiny_config, scaling=ScalingConfig(SIZES, size_checkpoints=1),
        train=replace(tiny_config.train, max_steps=12, log_every=6),
        transfer=replace(tiny_config.transfer, trials=1, transfer_steps=2, curve_points=1, shots=400),
        analysis=replace(tiny_config.analysis, eval_characters=512))
    return Study(config, {name: corpora[name] for name in ("shakespeare", "math")})


def test_each_size_is_trained_and_transferred_and_none_is_registered(study: Study) -> None:
    client = mlflow.MlflowClient()
    before = {version.version for version in client.search_model_versions("name = 'nanogpt-shakespeare'")}
    with open_run("study") as run:
        scale_models(study)
        rows = study.tables.frame("scaling")
        assert set(rows["size"]) == set(SIZES.split(","))
        whole = rows[rows["one_in"] == 1]
        assert whole.groupby(["size", "domain"]).size().eq(2).all() and len(whole) == 4 * 2 * 2   # steps 0 and 12
        assert (rows.groupby(["size", "domain", "one_in"])["chosen"].sum() == 1).all()
        transfers = study.tables.frame("scaling_transfers")
        assert set(zip(transfers["source"], transfers["target"], strict=True)) == {
            ("shakespeare", "math"), ("math", "shakespeare"), ("scratch", "math"), ("scratch", "shakespeare")}
        fits = study.tables.frame("scaling_fits")
        assert set(fits.loc[fits["law"] == "parameters", "domain"]) == {"shakespeare", "math"}
        assert all(math.isfinite(value) for value in fits["exponent"])
        after = {version.version for version in client.search_model_versions("name = 'nanogpt-shakespeare'")}
        assert after == before and not study.models

        again = Study(study.config, study.corpora, cells=Cells(cells_below(run), owner=run.id))
        scale_models(again)
        assert len(again.cells.reused) == 4 * 2 + 4 + 1
        for name, frame in study.tables.frames().items():
            pd.testing.assert_frame_equal(frame, again.tables.frame(name), check_dtype=False)


def test_a_study_without_sizes_has_the_phases_that_it_had(tiny_config: Config) -> None:
    assert [phase.run for phase in phases_of(tiny_config)] == [phase.run for phase in PHASES[:-1]]
    sized = replace(tiny_config, scaling=ScalingConfig(SIZES))
    assert phases_of(sized) == list(PHASES) and PHASES[-1].times(sized) == 4
    assert all(len(seconds) == len(PHASES) + 1 for seconds in PHASE_SECONDS.values())


def test_a_report_without_sizes_says_nothing_of_them() -> None:
    from nanogpt.report.figures import draw
    from nanogpt.report.findings import findings

    empty = StudyTables("nothing", {}, {}, {})
    assert not draw(empty) and not findings(empty)
