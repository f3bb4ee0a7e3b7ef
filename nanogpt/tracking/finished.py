"""Runs that have ended, read back from the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from nanogpt.config import LATEST
from nanogpt.errors import UserError
from nanogpt.tracking.new_store import create_missing_store
from nanogpt.tracking.run import TrackedRun


def find_study(which: str) -> TrackedRun:
    """Find the run of a study by its id, or the latest one that ended well. UserError where there is none."""
    create_missing_store()
    studies = mlflow.search_runs(
        search_all_experiments=True, output_format="list", order_by=["attributes.start_time DESC"],
        filter_string="tags.phase = 'study' AND attributes.status = 'FINISHED'")
    for stored in studies:
        if which in (LATEST, stored.info.run_id):
            return as_tracked(stored)
    known = ", ".join(stored.info.run_id for stored in studies[:5]) or "none is in this store yet"
    raise UserError(f"study must be the run id of a finished study or {LATEST!r}, got {which!r} (newest: {known})")


def as_tracked(stored: Run) -> TrackedRun:
    return TrackedRun(stored.info.run_id, stored.info.experiment_id, stored.info.run_name)


def runs_below(run: TrackedRun) -> list[TrackedRun]:
    """List the runs nested in a run, the earliest first."""
    below = mlflow.search_runs([run.experiment_id], f"tags.mlflow.parentRunId = '{run.id}'", output_format="list",
                               order_by=["attributes.start_time ASC"])
    return [as_tracked(stored) for stored in below]


def read_tables(run: TrackedRun, names: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Read the tables of these names that a run has logged. UserError where it has none."""
    try:
        with run.download("tables") as folder:
            return {name: pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])
                    for name in names if (folder / f"{name}.csv").is_file()}
    except (MlflowException, OSError) as error:
        raise UserError(f"study must have its tables, got {run.id!r}") from error


def read_environment(run: TrackedRun) -> dict[str, Any]:
    """Read what a run ran on. UserError where it did not log that."""
    try:
        environment: dict[str, Any] = mlflow.artifacts.load_dict(f"runs:/{run.id}/environment.json")
        return environment
    except (MlflowException, OSError) as error:
        raise UserError(f"study must have its environment.json, got {run.id!r}") from error
