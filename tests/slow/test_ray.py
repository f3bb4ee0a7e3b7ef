"""A study on a real cluster that loses a node, before a server with PostgreSQL and proxied artifacts: nothing is lost.

`pytest -m slow -n 0 -s tests/slow/test_ray.py`
"""

from __future__ import annotations

import functools
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support import tracking_server
from support.database import postgres
from support.stopped_studies import (
    assert_nothing_is_left_over,
    assert_same,
    finished_studies,
    start_study,
    tables_of,
)

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="the extra ray is not installed")
SMOKE: tuple[str, ...] = ()
LONGER = ("--domains", "shakespeare,math", "--seeds", "2", "--max-steps", "300", "--state-seconds", "0",
          "--transfer-steps", "20", "--together", "4")
"""Options of studies of the preset smoke; the longer one has cells of seconds, and many transfers."""
Tables = dict[str, list[list[str]]]
Versions = list[tuple[str, str, str, tuple[str, ...]]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], tuple[Tables, Versions]]:
    """The tables and the registered versions of a study in one process, which runs once."""
    @functools.cache
    def run(options: tuple[str, ...]) -> tuple[Tables, Versions]:
        folder = tmp_path_factory.mktemp("alone")
        assert start_study(folder, *options).wait() == 0, (folder / "log").read_text()[-3000:]
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        (study,) = finished_studies(client)
        return tables_of(study, client), versions_of(client)

    return run


def versions_of(client: MlflowClient) -> Versions:
    """Name, step, digest and aliases of each registered version, in no order of theirs."""
    return sorted((model.name, version.tags["step"], version.tags["sha256"], tuple(sorted(
        alias for alias, number in model.aliases.items() if str(number) == str(version.version))))
        for model in client.search_registered_models() for version in client.search_model_versions(
            f"name = '{model.name}'"))


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres() as database, tracking_server(tmp_path_factory.mktemp("server"), database) as (address, _):
        yield address


def open_runs(client: MlflowClient, phase: str, status: str = "RUNNING") -> list[Any]:
    return list(client.search_runs(["0"], f"tags.phase = '{phase}' AND attributes.status = '{status}'"))


def a_training_on_each_node(client: MlflowClient) -> bool:
    return len(open_runs(client, "train")) == 2


def two_trainings_with_states(client: MlflowClient) -> bool:
    """Whether each node is in the middle of a training, from which a state after step 0 is kept."""
    kept = [max((state.path for state in client.list_artifacts(run.info.run_id, "states")), default="")
            for run in open_runs(client, "train")]
    return sum(path > "states/step_000000000.pt" for path in kept) == 2


def some_transfers(client: MlflowClient) -> bool:
    return len(open_runs(client, "transfer", "FINISHED")) >= 2


@pytest.mark.parametrize(("options", "moment"), [
    (SMOKE, a_training_on_each_node), (LONGER, two_trainings_with_states), (LONGER, some_transfers)])
def test_a_node_is_lost_and_the_study_ends_the_same(
        options: tuple[str, ...], moment: Callable[[MlflowClient], bool],
        alone: Callable[[tuple[str, ...]], tuple[Tables, Versions]], server: str, tmp_path: Path) -> None:
    from support.clusters import cluster_of

    client = MlflowClient(server)
    with cluster_of(2) as cluster:
        process = start_study(tmp_path, *options, "--engine", "ray", uri=server,
                              RAY_ADDRESS=cluster.address)
        wait_for(lambda: moment(client), process)
        cluster.remove_node(next(node for node in cluster.list_all_nodes() if not node.head), allow_graceful=False)
        assert process.wait(300) == 0, (tmp_path / "log").read_text()[-3000:]
    said = (tmp_path / "log").read_text()
    assert "Ray: " in said and "state-dump" not in said
    if moment is two_trainings_with_states:
        assert re.search(r"goes on from step [1-9]", said)
    (study,) = finished_studies(client)
    assert_nothing_is_left_over(client)
    tables, versions = alone(options)
    assert_same(tables_of(study, client), tables)
    assert versions_of(client) == versions


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, "the study ended before"
        time.sleep(0.1)
    raise TimeoutError
