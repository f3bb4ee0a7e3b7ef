"""What a worker on another machine must know of the process that it works for, to log below its run.

The workers answer for nothing themselves: their runs bear the process that they work for, and are closed with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from nanogpt.errors import require
from nanogpt.tracking.project_run import EXPERIMENT_ID, EXPERIMENT_NAME, RUN_ID
from nanogpt.tracking.run import RunAbove, as_run_above, opened_below

MLFLOW = "MLFLOW_"
HANDED = (MLFLOW, "AWS_", "AZURE_", "GOOGLE_")
"""How the names of variables begin that say how a store and its files are reached."""
OWN = (RUN_ID, EXPERIMENT_ID, EXPERIMENT_NAME)
"""Variables that are of the process above alone: its run and its experiment are handed over by their ids."""


@dataclass(frozen=True)
class Handover:
    """The store of a process, the run that it has open, and how both are reached."""

    tracking_uri: str
    registry_uri: str
    environment: Mapping[str, str]
    folder: str                 # in which relative paths are meant
    above: RunAbove


def handover() -> Handover:
    """Describe this process's store and the run that it has opened last."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(HANDED) and name not in OWN}
    return Handover(absolute(mlflow.get_tracking_uri()), absolute(mlflow.get_registry_uri()), environment, os.getcwd(),
                    as_run_above())


def absolute(uri: str) -> str:
    """Give the address of a SQLite file with its whole path."""
    scheme, separator, path = uri.partition("sqlite:///")
    return f"{separator}{os.path.abspath(path)}" if not scheme and separator else uri


@contextlib.contextmanager
def taken_over(handed: Handover) -> Iterator[None]:
    """Work for the process that has handed this over: runs of the block open below its run."""
    for name in [name for name in os.environ if name.startswith(MLFLOW) and name not in handed.environment]:
        del os.environ[name]
    os.environ.update(handed.environment)
    if os.path.isdir(handed.folder):
        os.chdir(handed.folder)
    if mlflow.get_tracking_uri() != handed.tracking_uri:
        mlflow.set_tracking_uri(handed.tracking_uri)
    if mlflow.get_registry_uri() != handed.registry_uri:
        mlflow.set_registry_uri(handed.registry_uri)
    check_artifacts(handed.above.artifacts)
    with opened_below(handed.above):
        yield


def check_artifacts(uri: str) -> None:
    """UserError where files of the store lie in a folder that this machine does not see."""
    if is_local_uri(uri):
        require(Path(local_file_uri_to_path(uri)).is_dir(), "artifacts must lie where all nodes of the cluster see "
                "them: behind an MLflow server, or in a folder that they share", uri)


def check_shared_store(hosts: int) -> None:
    """UserError where machines of a cluster, so many, cannot write into the store: a file of SQLite is one machine's.

    On one machine its writers wait for each other (MLflow sets 20 s).
    """
    uri = mlflow.get_tracking_uri()
    shared = uri.startswith(("http://", "https://")) or not uri.startswith(("sqlite:", "file:", "/", "."))
    require(hosts == 1 or shared, f"MLFLOW_TRACKING_URI must be an MLflow server or a database for the {hosts} "
            "machines of this cluster", uri)
