"""`torchrun -m nanogpt train`: one run whatever the number of processes, and all of them end together."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_dict
from mlflow.entities import Run
from support.launches import log_of, torchrun

from nanogpt.text.sources import DomainText

STEPS = 400


@pytest.fixture
def folder(texts: list[DomainText], tmp_path: Path) -> Path:
    (tmp_path / "own.txt").write_text(texts[0].text)
    return tmp_path


def start(folder: Path, *options: str, restarts: int = 0, command: str = "train") -> psutil.Popen:
    own = ["--domains", "own=own.txt", "--preset", "smoke", "--device", "cpu", *options]
    return torchrun(folder, 2, "-m", "nanogpt", command, *own, restarts=restarts)


def train_options(*options: str) -> list[str]:
    return ["--domain", "own=own.txt", "--precision", "float32", *options]


def runs_of(folder: Path) -> list[Run]:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["0"])


def workers_of(process: psutil.Popen) -> dict[int, psutil.Process]:
    """The launcher's processes by their rank."""
    return {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children()
            if "RANK" in child.environ()}


def wait_for_step(folder: Path, step: int, seconds: float = 120) -> None:
    """Wait until the only run has logged a step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.2)
        if (folder / "mlruns").is_dir() and (runs := runs_of(folder)) and any(
                metric.step >= step for metric in runs[0].data._metric_objs if metric.key == "train/seconds"):
            return
    raise AssertionError(log_of(folder)[-3000:])


def losses_of(folder: Path, run: Run) -> dict[int, float]:
    history = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(run.info.run_id, "train/loss_nats")
    return {metric.step: metric.value for metric in history}


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused_in_a_line(folder: Path) -> None:
    process = start(folder, *train_options("--batch-size", "7"))
    assert process.wait(60) != 0
    said = log_of(folder)
    rule = "batch_size must be divisible by the number of processes = 2, got 7"
    assert said.count(f"Error: {rule}") == 1 and "exitcode  : 2" in said
    assert said.count("Traceback") == 1, "the launcher's own alone"
    assert not (folder / "mlflow.db").exists() or not runs_of(folder)


@pytest.mark.slow
def test_other_commands_are_refused(folder: Path) -> None:
    process = start(folder, command="study")
    assert process.wait(60) != 0
    assert log_of(folder).count("Error: several processes must carry out the command train, got 'study'") == 1


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_leads_back_to_the_last_state(folder: Path, killed: int,
                                                       tmp_path_factory: pytest.TempPathFactory) -> None:
    options = train_options("--max-steps", str(STEPS), "--state-seconds", "0")
    process = start(folder, *options, restarts=1)
    wait_for_step(folder, STEPS // 4)
    workers_of(process)[killed].send_signal(signal.SIGKILL)
    assert process.wait(200) == 0, log_of(folder)[-3000:]
    (run,) = runs_of(folder)
    assert run.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert load_dict(f"{run.info.artifact_uri}/environment.json")["world_size"] == "2"
    assert "registered 5 checkpoints" in log_of(folder)
    seconds = client.get_metric_history(run.info.run_id, "train/seconds")
    assert len(seconds) < 2 * STEPS / 10, "it went on and did not begin again"

    other = tmp_path_factory.mktemp("undisturbed")
    (other / "own.txt").write_text((folder / "own.txt").read_text())
    assert start(other, *options).wait(200) == 0
    (undisturbed,) = runs_of(other)
    assert losses_of(folder, run) == losses_of(other, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "first", "second"])
def test_a_signal_ends_all_within_seconds(folder: Path, whom: str) -> None:
    process = start(folder, *train_options("--max-steps", "100000"))
    wait_for_step(folder, 50)
    workers = workers_of(process)
    {"launcher": process, "first": workers[0], "second": workers[1]}[whom].send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(60) != 0
    psutil.wait_procs(list(workers.values()), timeout=10)
    print(f"SIGTERM to the {whom}: all ended after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 8 and not any(worker.is_running() for worker in workers.values())
    (run,) = runs_of(folder)
    assert run.info.status in ("KILLED", "FAILED"), log_of(folder)[-3000:]
