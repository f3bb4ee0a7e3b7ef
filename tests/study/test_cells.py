"""A study that is killed goes on where it was stopped, and its tables are those of a study that never was."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from support.stopped_studies import assert_nothing_is_left_over, assert_same, finished_studies, tables_of

from nanogpt.config import Config
from nanogpt.errors import UserError
from nanogpt.model.processes import this_process
from nanogpt.report import figures
from nanogpt.study.cells import Cells, cell_digest, keep, kept_tables, run_cell
from nanogpt.study.pipeline import run_study
from nanogpt.study.tables import Tables
from nanogpt.text.corpus import Corpus
from nanogpt.tracking.resumption import cells_below, close_dead_runs, stopped_study
from nanogpt.tracking.run import CELL, PROCESS, TrackedRun, open_run


def run_in_folder(folder: Path, corpora: Mapping[str, Corpus], config: Config, *, last_line: str = "") -> None:
    """The process of a study with a store of its own; it is killed once it has said a line that begins so."""
    class KilledAt(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with (folder / "log").open("a") as log:
                log.write(record.getMessage() + "\n")
            if last_line and record.getMessage().strip().startswith(last_line):
                os.kill(os.getpid(), signal.SIGKILL)

    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.tracking.fluent._active_experiment_id = None
    logging.getLogger("nanogpt").handlers = [KilledAt()]
    logging.getLogger("nanogpt").setLevel(logging.INFO)
    (folder / "said").write_text(run_study(corpora, config))


def run_study_in(folder: Path, *arguments: object, **settings: object) -> int:
    """The exit code of that process, which is forked: it need not import anything."""
    folder.mkdir(exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=run_in_folder, args=(folder, *arguments),
                                                          kwargs=settings)
    process.start()
    process.join(100)
    assert process.exitcode is not None
    return process.exitcode


def test_a_study_that_is_killed_ends_with_the_tables_of_one_that_never_was(
        corpora: dict[str, Corpus], tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {})       # a third of the time
    names = ("shakespeare", "math")
    config = replace(tiny_config, train=replace(tiny_config.train, max_steps=8, checkpoints=1, log_every=4),
                     transfer=replace(tiny_config.transfer, trials=1, stages="late", together=2),
                     attribution=replace(tiny_config.attribution, methods="gradient_norm", compared_prompts=0))
    arguments = {name: corpora[name] for name in names}, config
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert run_study_in(alone, *arguments) == 0
    for line in ("math step 0 · ", "[4/5]"):        # while it is scored, and when all is transferred
        assert run_study_in(killed, *arguments, last_line=line) == -signal.SIGKILL
    assert run_study_in(killed, *arguments) == 0
    assert re.search(r"The study had been stopped: 1\d finished parts were read back", (killed / "said").read_text())
    said = (killed / "log").read_text()
    assert (said.count("train math: read back"), said.count("evaluate math: read back")) == (2, 1)
    assert (said.count("scratch → math: read back"), said.count("attribution: read back")) == (1, 0)
    stores = [MlflowClient(f"sqlite:///{folder}/mlflow.db") for folder in (killed, alone)]
    studies = [finished_studies(store) for store in stores]
    assert [len(found) for found in studies] == [1, 1]
    assert_nothing_is_left_over(stores[0])
    assert_same(tables_of(studies[0][0], stores[0]), tables_of(studies[1][0], stores[1]))


def fill(run: TrackedRun, tables: Tables) -> None:
    tables.add("zero_shot", [{"source": "math", "stage": "", "none": None, "nan": float("nan"), "third": 1 / 3}])
    scores = pd.Series([1 / 3, 2 / 3], dtype="float32")
    tables.add_frame("attribution", pd.DataFrame({"score": scores, "text": ["", "é"]}))


def test_a_whole_cell_is_read_back_as_it_was_and_an_unfinished_one_is_not(models: str, tiny_config: Config) -> None:
    with open_run("study") as study:
        run, made = run_cell(Cells(), "evaluate math", "a1", fill, tiny_config)
        with pytest.raises(ZeroDivisionError):
            run_cell(Cells(), "evaluate math", "b2", lambda run, tables: 1 / 0, tiny_config)
    cells = Cells(cells_below(study))
    assert cells.whole("a1") == run and cells.begun("a1") is None
    assert cells.whole("b2") is None and cells.begun("b2") is not None
    again, tables = run_cell(cells, "evaluate math", "a1", lambda run, tables: 1 / 0, tiny_config)
    assert again == run and cells.reused == ["evaluate math"]
    for name in ("zero_shot", "attribution"):
        pd.testing.assert_frame_equal(tables.frame(name), made.frame(name), check_exact=True)
    assert repr(tables.rows) == repr(made.rows)


def test_a_digest_depends_on_what_the_result_depends_on(corpora: dict[str, Corpus], tiny_config: Config) -> None:
    math = corpora["math"]

    def digest(config: Config = tiny_config, corpus: Corpus = math, kind: str = "train", parent: str = "") -> str:
        return cell_digest(kind, config, [corpus], parent)

    without_effect = replace(tiny_config, preset="quick", data=replace(tiny_config.data, cache="/tmp"),
                             transfer=replace(tiny_config.transfer, storage="other", trials=7))
    assert digest() == digest(without_effect)
    others = [digest(replace(tiny_config, seed=2)), digest(corpus=corpora["wikipedia"]), digest(kind="evaluate"),
              digest(replace(tiny_config, model=replace(tiny_config.model, n_layer=1))), digest(parent="a"),
              digest(without_effect, kind="transfer")]
    assert len({digest(), *others}) == 7


def test_runs_of_dead_processes_are_closed_and_those_of_live_ones_left(models: str) -> None:
    client, experiment = MlflowClient(), MlflowClient().get_experiment_by_name("domains")
    assert experiment is not None
    mine, hour = this_process(), 3_600_000
    here, elsewhere = mine | {"started": 1.0}, mine | {"host": "another"}
    now = int(time.time() * 1000)
    expected = {}
    for process, began, status in ((mine, now, "RUNNING"), (here, now, "KILLED"), (elsewhere, now, "RUNNING"),
                                   (elsewhere | {"pid": 1}, now - hour, "KILLED"), ("", now - hour, "RUNNING")):
        run = client.create_run(experiment.experiment_id, began, {PROCESS: str(process).replace("'", '"')})
        expected[run.info.run_id] = status
    close_dead_runs()
    assert {run_id: client.get_run(run_id).info.status for run_id in expected} == expected
    for run_id in expected:
        client.set_terminated(run_id)


def test_which_study_goes_on(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def study(digest: str, process: str = "") -> str:
        with pytest.raises(KeyError), open_run("study", phase="study", **{CELL: digest}) as run:
            raise KeyError
        if process:
            run.tags({PROCESS: process})
        return run.id

    monkeypatch.setattr("nanogpt.tracking.resumption.CLAIM_SECONDS", 0)
    older, newer = study("a"), study("a")
    assert stopped_study("a", "auto") == newer and stopped_study("a", "off") == "" and stopped_study("b", "auto") == ""
    assert stopped_study("a", older) == older
    for wrong in (older, "nothing"):
        with pytest.raises(UserError, match="resume must be"):
            stopped_study("b", wrong)
    with open_run("study", phase="study", **{CELL: "c"}) as running:
        assert stopped_study("c", "auto") == ""
        with pytest.raises(UserError, match="resume must be a study that no process runs"):
            stopped_study("c", running.id)
    assert stopped_study("c", "auto") == "", "a finished study is left as it is"


def test_what_is_kept_are_plain_numbers(models: str) -> None:
    import numpy as np

    with open_run("cell") as run:
        tables = Tables()
        tables.add("rows", [{"share": np.float64(1) / 3, "count": np.int64(3), "flag": np.bool_(True)}])
        keep(run, tables)
    assert kept_tables(run).rows["rows"] == [{"share": 1 / 3, "count": 3, "flag": True}]
    assert mlflow.get_run(run.id).info.status == "FINISHED"
