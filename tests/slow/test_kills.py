"""Studies that are killed at random moments, and several at once: the must-shows of resumption, some at a time.

`NANOGPT_KILLS=50 pytest -m slow -n 0 -s tests/slow/test_kills.py` kills fifty times; by default it is six.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support import tracking_server
from support.stopped_studies import (
    assert_nothing_is_left_over,
    assert_same,
    finished_studies,
    start_study,
    tables_of,
)

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("NANOGPT_KILLS", "6"))
MOST_DONE_TWICE = 0.15
"""Of a study, on average over the kills."""
STORE = "sqlite:///{}/mlflow.db"
Tables = dict[str, list[list[str]]]


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended: other programs do not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Alone:
    """A study that nothing disturbed."""

    tables: Tables
    seconds: float                  # from process start to exit
    work: float                     # processor seconds from the first phase on


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder, began, before = tmp_path_factory.mktemp("alone"), time.monotonic(), processor_seconds()
    assert start_study(folder, PYTHONHASHSEED="0").wait() == 0
    seconds, used = time.monotonic() - began, processor_seconds() - before
    client = MlflowClient(STORE.format(folder))
    (study,) = finished_studies(client)
    return Alone(tables_of(study, client), seconds, used - beginning(tmp_path_factory.mktemp("beginning")))


def beginning(folder: Path) -> float:
    """The processor seconds of a study's process until its first phase: imports, texts, a new store."""
    process, before = start_study(folder), processor_seconds()
    while "[1/" not in (folder / "log").read_text():
        time.sleep(0.02)
    process.kill()
    process.wait()
    return processor_seconds() - before


def test_a_study_ends_the_same_however_often_it_is_killed(alone: Alone,
                                                         tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each process is killed at a moment of chance of its study's length, if it has not ended by then.

    What a process needs until its first phase is not done twice but in each anew: it is taken off.
    """
    chance, kills, studies, seed, work = random.Random(1), 0, 0, 0, 0.0
    start = beginning(tmp_path_factory.mktemp("beginning"))
    while kills < KILLS:
        folder, ended = tmp_path_factory.mktemp("killed"), list[str]()
        while not ended:
            seed, before = seed + 1, processor_seconds()
            process = start_study(folder, PYTHONHASHSEED=str(seed))
            try:
                code = process.wait(chance.uniform(0, alone.seconds) if kills < KILLS else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                code, kills = process.wait(), kills + 1
            work += max(0.0, processor_seconds() - before - start)
            assert code in (0, -signal.SIGKILL), (folder / "log").read_text()[-3000:]
            if (folder / "mlflow.db").exists():     # a kill may come when all but the last lines is done
                client = MlflowClient(STORE.format(folder))
                ended = finished_studies(client)
        (study,) = ended
        assert_nothing_is_left_over(client)
        assert_same(tables_of(study, client), alone.tables)
        studies += 1
        twice = (work - studies * alone.work) / kills / alone.work
        print(f"{kills} kills, {studies} studies: {100 * twice:.1f} % of a study done twice for each kill", flush=True)
    assert twice < MOST_DONE_TWICE


@pytest.mark.parametrize("together", [2, 8])
def test_studies_at_once_in_a_fresh_folder_end_as_alone(alone: Alone, together: int, tmp_path: Path) -> None:
    assert_all_end_as_alone(alone.tables, tmp_path, together, STORE.format(tmp_path))


@pytest.mark.parametrize("together", [2, 8])
def test_studies_at_once_on_one_server_end_as_alone(alone: Alone, together: int, tmp_path: Path) -> None:
    with tracking_server(tmp_path) as (address, _):
        assert_all_end_as_alone(alone.tables, tmp_path, together, address)


def assert_all_end_as_alone(expected: Tables, folder: Path, together: int, uri: str) -> None:
    began = time.monotonic()
    processes = [start_study(folder, uri=uri) for _ in range(together)]
    assert [process.wait() for process in processes] == [0] * together, (folder / "log").read_text()[-3000:]
    print(f"{together} studies at once at {uri.partition(':')[0]}: {time.monotonic() - began:.0f} s", flush=True)
    client = MlflowClient(uri)
    studies = finished_studies(client)
    assert len(studies) == together
    assert_nothing_is_left_over(client)
    for study in studies:
        assert_same(tables_of(study, client), expected)
