"""What goes wrong between a program and its tracking store: for each known error a line that says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from nanogpt.errors import UserError

ANOTHER_EXPERIMENT = "choose another one (--experiment-name of mlflow run, or MLFLOW_EXPERIMENT_NAME)"
FULL_DISK = "the disk is full: free some space, then start again"
ADVICE = {
    "an mlflow-artifacts URI was supplied":
        "the experiment keeps its files behind a server (`mlflow ui` made it): set MLFLOW_TRACKING_URI to the "
        f"server's address, or {ANOTHER_EXPERIMENT}",
    "must be in the 'active' state":
        f"the experiment was deleted: restore it (mlflow experiments restore) or {ANOTHER_EXPERIMENT}",
    "Cannot set a deleted experiment":
        f"the experiment was deleted: restore it (mlflow experiments restore) or {ANOTHER_EXPERIMENT}",
    "database is locked":
        "another program keeps the tracking store locked: wait for it or end it, then start again; for many writers "
        "at once start `mlflow server` and set MLFLOW_TRACKING_URI to its address",
    "database or disk is full": FULL_DISK,
    os.strerror(errno.ENOSPC): FULL_DISK,
    "You are not authenticated": "the server wants a name and a password: set MLFLOW_TRACKING_USERNAME and "
                                 "MLFLOW_TRACKING_PASSWORD",
    "Permission denied": "the server or the disk does not permit this to you: ask for the permission, or choose "
                         "another experiment or folder",
    "Max retries exceeded": "no server answers at MLFLOW_TRACKING_URI: start it or correct the address",
}  # fmt: skip


STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)


def explain(error: BaseException | None) -> str:
    """Say in a line what to do about an error of the store or one of its causes; '' where it is no known one.

    An error of another kind is a fault of the program, also where it came up while the store failed.
    """
    while isinstance(error, STORE_ERRORS):
        for sign, advice in ADVICE.items():
            if sign in str(error):
                return advice
        error = error.__cause__ or error.__context__
    return ""


def check_store() -> None:
    """UserError where `mlflow run` passed on a relative path of a store, which means another file in this folder."""
    uri = mlflow.get_tracking_uri()
    path = uri.removeprefix("sqlite:///")
    if "MLFLOW_RUN_ID" in os.environ and path != uri and not os.path.isabs(path):
        raise UserError("MLFLOW_TRACKING_URI must be absolute with mlflow run, which changes the folder "
                         f"(sqlite:////path/to/{os.path.basename(path)}), got {uri!r}")


@contextlib.contextmanager
def closed_in_any_case(seconds: float = 60.0) -> Iterator[list[str]]:
    """Take the id of a run; where the store failed while the run was closed, close it as soon as it can be."""
    ids: list[str] = []
    try:
        yield ids
    except STORE_ERRORS:
        end = time.monotonic() + seconds
        while ids and time.monotonic() < end:
            with contextlib.suppress(*STORE_ERRORS):
                if mlflow.MlflowClient().get_run(ids[0]).info.status == "RUNNING":
                    mlflow.MlflowClient().set_terminated(ids[0], "FAILED")
                break
            time.sleep(1)
        raise
