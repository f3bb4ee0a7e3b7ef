"""Studies that are told to end at all moments, and with a server that is dead or does not answer."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support import tracking_server
from support.stopped_studies import start_study

pytestmark = pytest.mark.slow
MOST_SECONDS = 5.5
"""From the signal to the end of the process: 5, and what a busy machine needs to tell."""
MOMENTS = [0.3, 0.5, 0.8, 1.2, 1.7, 2.3, 3.0, 4.0, 5.5, 8.0, 12.0, 17.0]
"""Seconds after the start of a study: in imports, in the making of the store, in its phases."""


def wait_for(line: str, folder: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while line not in (folder / "log").read_text():
        assert time.monotonic() < end, (folder / "log").read_text()[-2000:]
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_study_ends_in_time_at_any_moment(tmp_path: Path, number: int, moment: float) -> None:
    process = start_study(tmp_path)
    time.sleep(moment)
    process.send_signal(number)
    began = time.monotonic()
    assert process.wait(30) == 128 + number, (tmp_path / "log").read_text()[-2000:]
    print(f"signal {number} after {moment} s: {time.monotonic() - began:.1f} s", flush=True)
    assert time.monotonic() - began < MOST_SECONDS
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said and "the same command goes on from here" in said
    if (tmp_path / "mlflow.db").exists():
        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        assert not client.search_runs(["0"], "attributes.status = 'RUNNING'")


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("phase", ["[1/5]", "[2/5]", "[3/5]"])
def test_a_study_ends_in_time_though_its_server_is_dead(tmp_path: Path, harm: int, phase: str) -> None:
    with tracking_server(tmp_path) as (address, server):
        process = start_study(tmp_path, uri=address)
        wait_for(phase, tmp_path)
        os.killpg(server.pid, harm)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(30) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()[-2000:]
        print(f"server {harm} in {phase}: {time.monotonic() - began:.1f} s", flush=True)
        assert time.monotonic() - began < MOST_SECONDS


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_a_study_whose_server_dies_says_so_and_ends(tmp_path: Path, harm: int) -> None:
    """It does not wait for ever, nor long without a word."""
    with tracking_server(tmp_path) as (address, server):
        process = start_study(tmp_path, uri=address)
        wait_for("[2/5]", tmp_path)
        os.killpg(server.pid, harm)
        began, silent, last = time.monotonic(), 0.0, time.monotonic()
        size = (tmp_path / "log").stat().st_size
        while process.poll() is None:
            time.sleep(0.1)
            if (now := (tmp_path / "log").stat().st_size) != size:
                size, last = now, time.monotonic()
            silent = max(silent, time.monotonic() - last)
            assert time.monotonic() - began < 600, "it hangs"
        said = (tmp_path / "log").read_text()
        print(f"server {harm}: ended after {time.monotonic() - began:.0f} s, silent for {silent:.0f} s at most\n"
              f"{said[-1500:]}", flush=True)
        assert process.returncode == 2 and "Traceback" not in said and "no server answers" in said
        assert silent < 20
