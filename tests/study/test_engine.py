"""The engines of cells: the same work in the same order, here or by workers, and the same tables to the last bit."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from support.stopped_studies import assert_nothing_is_left_over, assert_same, finished_studies, tables_of

from nanogpt.commands.study import study as study_command
from nanogpt.config import Config, make_config
from nanogpt.errors import UserError
from nanogpt.study import engine as engines
from nanogpt.study import sharing
from nanogpt.study.cells import Cells, cell_digest
from nanogpt.study.engine import LocalEngine, open_engine
from nanogpt.study.phase import Study
from nanogpt.study.pipeline import run_study
from nanogpt.study.worker import Listener
from nanogpt.text.corpus import Corpus
from nanogpt.tracking.handover import check_shared_store, handover, taken_over
from nanogpt.tracking.resumption import cell_above, close_below
from nanogpt.tracking.run import CELL, WHOLE, open_run


def with_engine(config: Config, engine: str) -> Config:
    return replace(config, cells=replace(config.cells, engine=engine))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user in an empty folder, with a store there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture
def store(elsewhere: None) -> MlflowClient:
    """A client of that store, which is made for it."""
    return MlflowClient()


def test_the_local_engine_works_in_order_when_it_is_asked() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        done.append(number)
        return number**2

    results = LocalEngine().each(work, [3, 1, 2])
    assert (next(results), done) == (9, [3])
    assert (list(results), done) == ([1, 4], [3, 1, 2])


def test_an_unknown_engine_is_refused_in_one_line() -> None:
    result = CliRunner().invoke(study_command, ["--engine", "dask"])
    assert (result.exit_code, result.output) == (2, "Error: engine must be local or ray, got 'dask'\n")


def test_without_ray_one_line_names_the_extra_and_nothing_is_begun(
        corpora: dict[str, Corpus], tiny_config: Config, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^engine must be local where Ray .*nanogpt\[ray\].*, got 'ray'$"):
        run_study(corpora, with_engine(tiny_config, "ray"))
    assert not store.search_runs([experiment.experiment_id for experiment in store.search_experiments()])


def test_a_cell_does_not_depend_on_the_engine(corpora: dict[str, Corpus], tiny_config: Config) -> None:
    other = replace(tiny_config, cells=replace(tiny_config.cells, engine="ray", cell_cpus=3))
    kinds = ("study", "train", "evaluate", "transfer", "tune", "attribute")
    assert [cell_digest(kind, tiny_config, corpora.values()) for kind in kinds] == [
        cell_digest(kind, other, corpora.values()) for kind in kinds]


def test_what_is_shared_is_written_once_and_comes_back_as_what_it_was() -> None:
    text, numbers = "a long text" * 100, {"one": 1}
    holder = {"text": text, "more": [numbers]}
    keys = {id(text): "text", id(numbers): "numbers"}
    content, used = sharing.written([holder, text, 7], lambda value: keys.get(id(value)))
    assert used == ["text", "numbers"] and text.encode() not in content
    (own, same, seven) = sharing.read(content, {"text": text, "numbers": numbers}.__getitem__)
    assert own["text"] is same is text and own["more"][0] is numbers and seven == 7


def test_a_process_keeps_the_shared_things_that_it_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MOST_KEPT_BYTES", 2000)
    asked: list[str] = []

    def bytes_of(key: str) -> bytes:
        asked.append(key)
        return pickle.dumps(key * 900)

    kept = sharing.KeptThings()
    for key in "ababcba":
        assert kept.get(key, bytes_of) == key * 900
    assert asked == ["a", "b", "c", "a"]
    assert set(kept.keys().values()) == {"a", "b"}


def test_a_worker_gets_of_a_study_its_inputs_and_no_results(corpora: dict[str, Corpus], tiny_config: Config) -> None:
    study = Study(tiny_config, corpora, cells=Cells(owner="a run"), compared_stages=("final",))
    study.left_out.append("a training")
    study.tables.add("training", [{"step": 1}])
    got = pickle.loads(pickle.dumps(study))
    assert (got.prompts, got.cells.owner, got.compared_stages) == (study.prompts, "a run", ("final",))
    assert got.digest("evaluate") == study.digest("evaluate")
    assert not got.left_out and not got.tables.rows
    got.config = replace(tiny_config, analysis=replace(tiny_config.analysis, prompts="/nowhere/prompts.txt"))
    assert got.prompts == study.prompts


def test_a_listener_keeps_the_last_of_lines_that_tell_how_far_the_work_is() -> None:
    logger, listener = logging.Logger("worker"), Listener()
    logger.addHandler(listener)
    logger.info("math seed 2")
    for step in range(3):
        logger.info("step %d", step, extra={"share_of_phase": step / 3})
    logger.warning("a state is left out")
    assert [line.text for line in listener.lines] == ["math seed 2", "step 2", "a state is left out"]


def in_a_worker(action: Callable[[], Any]) -> Any:
    """What an action gives in a process that takes this one's run over, as a worker does."""
    handed, (ear, mouth) = handover(), multiprocessing.Pipe(duplex=False)

    def work() -> None:
        mlflow.tracking.fluent._active_run_stack.set([])
        with taken_over(handed):
            mouth.send(action())

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return ear.recv()


def test_a_worker_opens_runs_below_and_closes_what_a_dead_one_left(store: MlflowClient) -> None:
    def begin() -> tuple[str, str]:
        with open_run("a cell", **{CELL: "digest"}) as run, open_run("part of it") as inner:
            return run.id, inner.id

    def leave_open() -> str:
        run = store.create_run("0", tags={CELL: "left", "mlflow.parentRunId": above.id})
        return run.info.run_id

    with open_run("the study") as above:
        above.text("what it is", "about.txt")
        cell, inner = in_a_worker(begin)
        tags = store.get_run(cell).data.tags
        assert (tags["mlflow.parentRunId"], store.get_run(inner).data.tags["mlflow.parentRunId"]) == (above.id, cell)
        assert tags["nanogpt.process"] == store.get_run(above.id).data.tags["nanogpt.process"]
        assert cell_above("digest") is None         # this process is no worker
        left = in_a_worker(leave_open)
        assert in_a_worker(lambda: cell_above("nothing")) is None
        found = in_a_worker(lambda: cell_above("left"))
        assert (found.run.id, found.is_whole, store.get_run(left).info.status) == (left, False, "KILLED")
        store.set_tag(left, WHOLE, "yes")
        store.update_run(left, "RUNNING")
        close_below(above.id)
        assert store.get_run(left).info.status == "FINISHED"


def test_a_file_is_the_store_of_one_machine_alone(elsewhere: None) -> None:
    check_shared_store(hosts=1)
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI must be an MLflow server or a database for the 2 "):
        check_shared_store(hosts=2)
    mlflow.set_tracking_uri("http://127.0.0.1:1")
    check_shared_store(hosts=2)


@pytest.mark.parametrize(("address", "rule"), [
    ("127.0.0.1:1", "must be the address of a cluster that answers, got '127.0.0.1:1'"),
    ("ray://head:10001", "must be host:port of the head of a cluster"), ("head", "must be host:port of the head")])
def test_the_address_of_no_cluster_is_refused_at_once(address: str, rule: str, tiny_config: Config,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"^RAY_ADDRESS {rule}"), open_engine(with_engine(tiny_config, "ray")):
        raise AssertionError


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """The address of a cluster of two nodes with a core each."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from support.clusters import cluster_of

    with cluster_of(2) as cluster:
        yield cluster.address


def small(config: Config) -> Config:
    """A study of seconds: two trainings of each domain, two batches of transfers."""
    return replace(config, train=replace(config.train, max_steps=8, checkpoints=1, log_every=4, seeds=2),
                   transfer=replace(config.transfer, trials=2, stages="late", together=2),
                   attribution=replace(config.attribution, methods="gradient_norm", compared_prompts=0))


def run_in(folder: Path, corpora: Mapping[str, Corpus], config: Config) -> tuple[str, MlflowClient]:
    """The id of a study that ran with a store in a folder, and a client of that store."""
    folder.mkdir()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    config = replace(config, transfer=replace(config.transfer, storage=str(folder / "optuna.journal")))
    run_study(corpora, config)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (study,) = finished_studies(client)
    return study, client


@pytest.mark.slow
def test_ray_gives_the_tables_of_this_process_to_the_last_bit(
        ray_address: str, corpora: dict[str, Corpus], tiny_config: Config, elsewhere: None,
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    names = ("shakespeare", "math")
    domains, config = {name: corpora[name] for name in names}, small(tiny_config)
    alone, alone_store = run_in(tmp_path / "local", domains, config)
    many, many_store = run_in(tmp_path / "ray", domains, with_engine(config, "ray"))
    assert_nothing_is_left_over(many_store)
    assert_same(tables_of(many, many_store), tables_of(alone, alone_store))
    assert cells_of(many, many_store) == cells_of(alone, alone_store)


def cells_of(study: str, client: MlflowClient) -> list[tuple[str, str, str]]:
    """Name, status and digest of a study's cells; a tuning depends on the study's own run, whatever carries it out."""
    runs = client.search_runs(["0"], f"tags.mlflow.parentRunId = '{study}'")
    return sorted((run.info.run_name, run.info.status, run.data.tags[CELL] if run.data.tags["phase"] != "tune" else "")
                  for run in runs)


@pytest.mark.slow
def test_an_error_of_a_user_in_a_worker_comes_back_as_one(ray_address: str, tiny_config: Config, elsewhere: None,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    with open_engine(with_engine(tiny_config, "ray")) as engine, open_run("a study") as run:
        run.text("what it is", "about.txt")
        with pytest.raises(UserError, match=r"^preset must be one of .*, got 'none'$"):
            list(engine.each(make_config, ["smoke", "none"]))
        assert list(engine.each(iter, ["ab", "c"])) == [["a", "b"], ["c"]]
