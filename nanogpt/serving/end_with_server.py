"""A trick: uvicorn's way to take a signal is extended, so that answers end when the server is told to end.

uvicorn waits for all requests, with all the time that they take, and tells them nothing: MLflow's server under load
needed 20 seconds to obey SIGTERM, with this one. No signal handler of the model's own would do, since uvicorn sets its
own after the model is loaded. It may go when MLflow's server ends the requests itself, which
`tests/slow/test_served_load.py` tells.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from nanogpt.serving.turns import Turns


def end_with_server(turns: Turns) -> None:
    """Have all answers interrupted once uvicorn takes a signal; nothing is done in a process without uvicorn."""
    module = sys.modules.get("uvicorn.server")
    if module is None:
        return
    take_signal = module.Server.handle_exit

    def handle_exit(server: Any, number: int, frame: FrameType | None) -> None:
        turns.has_ended = True
        take_signal(server, number, frame)

    module.Server.handle_exit = handle_exit
