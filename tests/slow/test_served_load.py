"""Served under load: abandoned requests hold up nobody, memory stays small, and the end comes when it is told to."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from support import elsewhere_environment, free_port, served_model, wait_for_port

pytestmark = pytest.mark.slow
LATE = "models:/nanogpt-shakespeare@late"
MOST_BYTES = 1_000_000_000
HUGE = {"inputs": ["To be"], "params": {"max_new_tokens": 10**9}}
LARGEST = {"inputs": ["To be"] * 32, "params": {"max_new_tokens": 10_000}}
NORMAL = {"inputs": ["To be"], "params": {"max_new_tokens": 100}}
QUESTION = {"domain": "shakespeare", "prompt": "To be", "characters": 100}


def abandon(address: str, body: object) -> None:
    """Ask, and go away without reading as soon as the server has begun to compute: before that it drops the request."""
    place, content = urlsplit(address), json.dumps(body).encode()
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        time.sleep(0.1)


def ask(address: str, body: object) -> tuple[int, float, str]:
    """Status, seconds and text of an answer."""
    place, began = urlsplit(address), time.monotonic()
    connection = http.client.HTTPConnection(place.netloc, timeout=60)
    connection.request("POST", place.path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, time.monotonic() - began, answer.read().decode()


def memory(process: subprocess.Popen[bytes]) -> list[int]:
    """Resident bytes of each process of a server."""
    first = psutil.Process(process.pid)
    return [each.memory_info().rss for each in (first, *first.children(recursive=True))]


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process has ended, though nobody may have asked for its exit status."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("body", [HUGE, LARGEST], ids=["10⁹ characters", "the most that is allowed"])
def test_fifty_abandoned_requests_beside_normal_ones(body: object, model_store: str, tmp_path: Path) -> None:
    with served_model(LATE, model_store, tmp_path) as (address, process):
        assert ask(address, NORMAL)[0] == 200
        seconds, most = [], max(memory(process))
        for _ in range(50):
            abandon(address, body)
            status, took, _ = ask(address, NORMAL)
            assert status == 200
            seconds.append(took)
            most = max(most, *memory(process))
        print(f"normal answers: {min(seconds):.3f} to {max(seconds):.3f} s; largest process {most / 1e6:.0f} MB")
        assert max(seconds) < 1 and most < MOST_BYTES
        status, _, text = ask(address, HUGE)
        assert status == 400 and "max_new_tokens must be in [0, 10000], got 1000000000" in json.loads(text)["message"]


def test_a_server_ends_within_two_seconds_under_load(model_store: str, tmp_path: Path) -> None:
    with served_model(LATE, model_store, tmp_path) as (address, process):
        (server,) = psutil.Process(process.pid).children(recursive=True)
        for _ in range(50):
            abandon(address, LARGEST)
        busy = server.cpu_times().user
        time.sleep(1)
        assert server.cpu_times().user - busy > 0.3      # it computes for clients that have gone
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        while not has_ended(server) and time.monotonic() - began < 20:
            time.sleep(0.02)
        took = time.monotonic() - began
        print(f"ended after {took:.2f} s")
        assert took < 2


@pytest.fixture
def demo(model_store: str, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port, environment = free_port(), elsewhere_environment(model_store)
    program = "from nanogpt.commands.demo import demo; demo()"
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with subprocess.Popen([sys.executable, "-c", program, "--port", str(port)], cwd=tmp_path, env=environment,
                          stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}/write", process
        finally:
            process.kill()


def test_the_demo_answers_under_load_and_ends(demo: tuple[str, subprocess.Popen[bytes]]) -> None:
    address, process = demo
    assert ask(address, QUESTION)[0] == 200
    seconds = []
    for _ in range(50):
        abandon(address, QUESTION | {"characters": 10**9})
        abandon(address, QUESTION | {"characters": 500})
        status, took, _ = ask(address, QUESTION)
        assert status == 200
        seconds.append(took)
    most = max(memory(process))
    for _ in range(50):
        abandon(address, QUESTION | {"characters": 500})
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    took = time.monotonic() - began
    print(f"normal answers up to {max(seconds):.3f} s; {most / 1e6:.0f} MB; ended after {took:.2f} s")
    assert max(seconds) < 1 and most < MOST_BYTES and took < 2
