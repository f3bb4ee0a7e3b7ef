"""How long MLflow tries a server: settings that it reads anew for each request. No import of MLflow."""

from __future__ import annotations

import os

ATTEMPTS, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
USUAL = {ATTEMPTS: "5", TIMEOUT: "30"}
"""A server that refuses is tried for a minute, one that does not answer for three; MLflow's own are 4 and 14."""
SHORT = {ATTEMPTS: "0", TIMEOUT: "2"}
"""Once the program ends: it does not try again."""


def limit() -> None:
    """Take the usual limits, but for what the user has set."""
    for name, value in USUAL.items():
        os.environ.setdefault(name, value)


def shorten() -> None:
    """Have no request of this process wait any longer."""
    os.environ.update(SHORT)
