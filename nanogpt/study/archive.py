"""A finished study, read back from the store."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException

from nanogpt.errors import UserError
from nanogpt.report.tables import TABLES, StudyTables
from nanogpt.tracking.run import Run, run_config

LATEST = "latest"


def find_study(which: str) -> Run:
    """The run of a study by its id, or the latest one that ended well. UserError where there is none."""
    studies = mlflow.search_runs(
        search_all_experiments=True, output_format="list", order_by=["attributes.start_time DESC"],
        filter_string="tags.phase = 'study' AND attributes.status = 'FINISHED'")
    for stored in studies:
        if which in (LATEST, stored.info.run_id):
            return as_run(stored)
    known = ", ".join(stored.info.run_id for stored in studies[:5]) or "none is in this store yet"
    raise UserError(f"study must be the run id of a finished study or {LATEST!r}, got {which!r} (newest: {known})")


def as_run(stored: StoredRun) -> Run:
    return Run(stored.info.run_id, stored.info.experiment_id, stored.info.run_name)


def read_study(run: Run) -> StudyTables:
    """What the report of a study is made of: its tables, configuration, environment and runs."""
    try:
        folder = Path(mlflow.artifacts.download_artifacts(run_id=run.id, artifact_path="tables"))
        environment = mlflow.artifacts.load_dict(f"runs:/{run.id}/environment.json")
    except (MlflowException, OSError) as error:
        raise UserError(f"study must have its tables and environment.json, got {run.id!r}") from error
    tables = {name: pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])
              for name in TABLES if (folder / f"{name}.csv").is_file()}
    below = mlflow.search_runs([run.experiment_id], f"tags.mlflow.parentRunId = '{run.id}'", output_format="list",
                               order_by=["attributes.start_time ASC"])
    links = {found.name: found.link for found in (*map(as_run, below), run)}
    return StudyTables(run.name, run_config(run.id).flat(), environment, tables, links)
