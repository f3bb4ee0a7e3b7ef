"""What goes wrong between a program and its tracking store: for each known error a line that says what to do."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from nanogpt.errors import UserError, one_line, require
from nanogpt.tracking import request_limits

log = logging.getLogger("nanogpt")

ANOTHER_EXPERIMENT = "choose another one (--experiment-name of mlflow run, or MLFLOW_EXPERIMENT_NAME)"
FULL_DISK = "the disk is full: free some space, then start again"
NO_ANSWER = "no server answers at MLFLOW_TRACKING_URI: start it or correct the address"
ADDRESS = ("MLFLOW_TRACKING_URI must be a database (sqlite:////path/to/mlflow.db, postgresql://…) or the address of an "
           "MLflow server")
BROKEN = ("the tracking store is of another version of MLflow (`mlflow db upgrade <its address>` brings it up to date) "
          "or was left half-made by a process that was killed: move its file away, and a new one is made")
ADVICE = {
    "an mlflow-artifacts URI was supplied":
        "the experiment keeps its files behind a server (`mlflow ui` made it): set MLFLOW_TRACKING_URI to the "
        f"server's address, or {ANOTHER_EXPERIMENT}",
    "must be in the 'active' state":
        f"the experiment was deleted: restore it (mlflow experiments restore) or {ANOTHER_EXPERIMENT}",
    "Cannot set a deleted experiment":
        f"the experiment was deleted: restore it (mlflow experiments restore) or {ANOTHER_EXPERIMENT}",
    "out-of-date database schema": BROKEN,
    "duplicate column name": BROKEN,
    "(sqlite3.OperationalError) table": BROKEN,
    "no such table": BROKEN,
    "readonly database": "the tracking store can be read but not written: see to the rights of its file and folder, or "
                         "set MLFLOW_TRACKING_URI to another one",
    os.strerror(errno.EROFS): "the tracking store is on a disk that can only be read: choose another folder, or set "
                              "MLFLOW_TRACKING_URI",
    "unable to open database file": "the tracking store's file cannot be opened: see to the rights of its folder, or "
                                    "set MLFLOW_TRACKING_URI to another one",
    "database is locked":
        "another program keeps the tracking store locked: wait for it or end it, then start again; for many writers "
        "at once start `mlflow server` and set MLFLOW_TRACKING_URI to its address",
    "database or disk is full": FULL_DISK,
    os.strerror(errno.ENOSPC): FULL_DISK,
    "You are not authenticated": "the server wants a name and a password: set MLFLOW_TRACKING_USERNAME and "
                                 "MLFLOW_TRACKING_PASSWORD",
    "Permission denied": "the server or the disk does not permit this to you: ask for the permission, or choose "
                         "another experiment or folder",
    "unsupported URI": ADDRESS,
    "The filesystem tracking backend": ADDRESS,
    "Databricks authentication": ADDRESS,
    "Unity Catalog": ADDRESS,
    "MLFLOW_EXPERIMENT_ID environment variable": "MLFLOW_EXPERIMENT_ID must be the id of an experiment of this store: "
                                                 f"correct it, or {ANOTHER_EXPERIMENT}",
    "exceeds the maximum length": "a name is too long for the store: choose a shorter one",
    "Max retries exceeded": NO_ANSWER,
}  # fmt: skip


SERVER_SECONDS = 20.0
SECONDS_BETWEEN_LOOKS, LONG_SECONDS = 4.0, 10.0
"""Between two looks at a server, and after which a wait is said."""
WAITED = "the store was waited for in vain"
"""The note of an error after which nothing else waits for the store."""
UNAVAILABLE = (502, 503, 504)
SQLITE_HEADER = b"SQLite format 3\0"
BEATEN = ("unique constraint", "model version creation error")
ATTEMPTS = 5
"""At a write that other processes make at once."""
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)


def explain(error: BaseException | None) -> str:
    """Say in a line what to do about an error of the store or one of its causes; '' where it is no known one.

    An error of another kind is a fault of the program, also where it came up while the store failed.
    """
    while isinstance(error, STORE_ERRORS):
        if advice := advice_on(str(error)):
            return advice
        error = error.__cause__ or error.__context__
    return ""


def advice_on(message: str) -> str:
    return next((advice for sign, advice in ADVICE.items() if sign in message), "")


def check_store() -> None:
    """Look at the store before it is used. UserError where MLFLOW_TRACKING_URI or MLFLOW_RUN_ID cannot be right.

    MLflow itself tries a database or a server that does not answer for minutes, without a word.
    """
    uri = mlflow.get_tracking_uri()
    request_limits.limit()
    if uri.startswith(("http://", "https://")):
        check_server(uri)
    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite":
        check_sqlite(uri, path)
    elif scheme.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        check_database(uri)
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        try:
            mlflow.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise UserError(f"MLFLOW_RUN_ID must be a run of the store {uri}, got {run_id!r}") from error
            raise


def check_sqlite(uri: str, path: str) -> None:
    """UserError where the file is no database, or where `mlflow run` passed on a relative path.

    `mlflow run` changes the folder: the path means another file there.
    """
    if "MLFLOW_RUN_ID" in os.environ and not os.path.isabs(path):
        raise UserError("MLFLOW_TRACKING_URI must be absolute with mlflow run, which changes the folder "
                        f"(sqlite:////path/to/{os.path.basename(path)}), got {uri!r}")
    file = Path(path.partition("?")[0])
    require(not file.is_dir(), f"{ADDRESS}; a folder is none", uri)
    if file.is_file():
        with file.open("rb") as opened:
            require(opened.read(len(SQLITE_HEADER)) in (b"", SQLITE_HEADER), f"{ADDRESS}; the file is none", uri)
        check_writable(file)


def check_writable(file: Path, seconds: float = 60.0) -> None:
    """Begin to write and leave it; a lock is waited for. UserError where the file cannot be written."""
    end = time.monotonic() + seconds
    with said_when_long("another program keeps the tracking store locked"), contextlib.closing(
            sqlite3.connect(file, timeout=0, isolation_level=None)) as database:
        while True:
            try:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise UserError(advice_on(str(error)) or f"{ADDRESS}, got {str(file)!r} ({error})") from error
                time.sleep(0.2)


def check_server(uri: str) -> None:
    """Ask a server whether it lives; one that is just starting is waited for. UserError where nothing answers."""
    end, creds = time.monotonic() + SERVER_SECONDS, get_default_host_creds(uri)
    with said_when_long(f"no server answers at {uri} yet"):
        while True:
            try:
                answer = http_request(creds, "/health", "GET", max_retries=0, timeout=5, raise_on_status=False)
                if answer.status_code not in UNAVAILABLE:
                    return
                reason = f"status {answer.status_code}"
            except MlflowException as error:
                reason = advice_on(str(error)) or one_line(str(error))
            require(time.monotonic() < end, "MLFLOW_TRACKING_URI must be the address of a server that answers "
                    f"({reason})", uri)
            time.sleep(1)


@contextlib.contextmanager
def said_when_long(reason: str, seconds: float = LONG_SECONDS) -> Iterator[None]:
    """Say why the block waits once it has waited so long."""
    timer = threading.Timer(seconds, log.warning, ("waiting: %s", reason))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Say, while the block runs, when the store's server has not answered for long, each time that it is looked at."""
    over, uri = threading.Event(), mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        threading.Thread(target=watch, args=(uri, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def watch(uri: str, over: threading.Event) -> None:
    answered, creds = time.monotonic(), get_default_host_creds(uri)
    while not over.wait(SECONDS_BETWEEN_LOOKS):
        with contextlib.suppress(MlflowException):
            http_request(creds, "/health", "GET", max_retries=0, timeout=SECONDS_BETWEEN_LOOKS, raise_on_status=False)
            answered = time.monotonic()
        if (silent := time.monotonic() - answered) > LONG_SECONDS:
            log.warning("waiting: the server at %s has not answered for %.0f s", uri, silent)


def check_database(uri: str) -> None:
    """Connect once. UserError where the database does not answer or its driver is not installed."""
    from mlflow.store.db.utils import create_sqlalchemy_engine  # here: half a second that other stores need not spend

    try:
        create_sqlalchemy_engine(uri).connect().close()
    except (SQLAlchemyError, ImportError) as error:
        address, reason = uri.rpartition("@")[2], str(error).splitlines()[0]    # without name and password
        raise UserError(f"MLFLOW_TRACKING_URI must be a database that answers, got {address!r} ({reason})") from error


def again_if_beaten(write: Callable[[], object]) -> None:
    """Write what several processes may write at once, and again where another one was quicker.

    A store of MLflow that does not find a tag or alias inserts it, and fails where it is there by then.
    """
    for attempt in range(ATTEMPTS):
        try:
            write()
            return
        except MlflowException as error:
            if not any(sign in str(error).lower() for sign in BEATEN) or attempt == ATTEMPTS - 1:
                raise


@contextlib.contextmanager
def suppress_code(code: str) -> Iterator[None]:
    """Pass over an error of MLflow with this code: another process was quicker."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise


@contextlib.contextmanager
def closed_in_any_case(seconds: float = 60.0) -> Iterator[list[str]]:
    """Take the id of a run; where the store failed while the run was closed, close it as soon as it can be.

    Of nested runs the innermost alone waits so long.
    """
    ids: list[str] = []
    try:
        yield ids
    except STORE_ERRORS as error:
        end = time.monotonic() + (0 if WAITED in getattr(error, "__notes__", ()) else seconds)
        with said_when_long("the tracking store does not answer, and a run is to be closed"):
            while ids:
                with contextlib.suppress(*STORE_ERRORS):
                    if mlflow.MlflowClient().get_run(ids[0]).info.status == "RUNNING":
                        mlflow.MlflowClient().set_terminated(ids[0], "FAILED")
                    break
                if time.monotonic() > end:
                    error.add_note(WAITED)
                    break
                time.sleep(1)
        raise
