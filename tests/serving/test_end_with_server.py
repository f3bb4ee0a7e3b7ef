"""Answers end when uvicorn is told to end; a process without it is left alone."""

from __future__ import annotations

import itertools
import signal
import sys

import pytest
import uvicorn.server

from nanogpt.serving.end_with_server import end_with_server
from nanogpt.serving.turns import Interrupted, Turns


def test_answers_end_when_uvicorn_takes_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.server.Server, "handle_exit", uvicorn.server.Server.handle_exit)
    turns, server = Turns(), uvicorn.Server(uvicorn.Config("none:none"))
    end_with_server(turns)
    answer = turns.in_turns(itertools.count())
    next(answer)
    server.handle_exit(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="the server ends"):
        list(answer)
    assert server.should_exit


def test_nothing_is_done_without_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    before = uvicorn.server.Server.handle_exit
    monkeypatch.delitem(sys.modules, "uvicorn.server")
    end_with_server(Turns())
    assert uvicorn.server.Server.handle_exit is before
