"""Answers end when uvicorn is told to end; a process without it is left alone."""

from __future__ import annotations

import importlib
import itertools
import signal
import sys
from types import ModuleType

import pytest
import uvicorn
import uvicorn.server

from nanogpt.serving.end_with_server import end_with_server
from nanogpt.serving.turns import Interrupted, Turns


@pytest.fixture
def fresh_uvicorn(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import uvicorn's server once more: models that other tests loaded would end with the one of this process."""
    monkeypatch.setattr(uvicorn, "server", uvicorn.server)
    monkeypatch.delitem(sys.modules, "uvicorn.server")
    return importlib.import_module("uvicorn.server")


def test_answers_end_when_uvicorn_takes_a_signal(fresh_uvicorn: ModuleType) -> None:
    turns, server = Turns(), fresh_uvicorn.Server(uvicorn.Config("none:none"))
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
