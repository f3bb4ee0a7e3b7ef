"""Studies in processes of their own that are killed, or run beside others, and what their stores hold in the end."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient

from support import ROOT, elsewhere_environment

PROGRAM = "from nanogpt.commands.app import main; main()"
OF_THE_MOMENT = ["run_id", "seconds", "characters_per_second"]
"""Columns that say when and where a result was had, and how fast."""


def start_study(folder: Path, *options: str, uri: str = "", program: str = PROGRAM, **environment: str
                ) -> subprocess.Popen[str]:
    """`nanogpt study --preset smoke` in a folder, with the store `mlflow.db` there or another one."""
    inherited = elsewhere_environment(uri or f"sqlite:///{folder}/mlflow.db") | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", program, "study", "--preset", "smoke", "--device", "cpu", *options]
    log = (folder / "log").open("a")
    return subprocess.Popen(command, cwd=folder, env=inherited, text=True, stdout=log, stderr=log)


def tables_of(run_id: str, client: MlflowClient) -> dict[str, list[list[str]]]:
    """The tables of a study's run as they were written, without what is of the moment: name to lines of fields.

    A model is named by its weights: studies that register the same ones at once leave holes in the numbers of versions.
    """
    weights = {f"models:/{version.name}/{version.version}": f"models:/{version.name} {version.tags['sha256']}"
               for version in client.search_model_versions()}
    tables = {}
    for item in client.list_artifacts(run_id, "tables"):
        if item.path.endswith(".csv"):
            path = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{item.path}", tracking_uri=client.tracking_uri)
            frame = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=OF_THE_MOMENT, errors="ignore")
            frame = frame.replace(weights)
            tables[Path(item.path).stem] = [list(frame.columns), *frame.to_numpy().tolist()]
    return tables


def finished_studies(client: MlflowClient) -> list[str]:
    """The ids of the studies that ended well."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.phase = 'study' AND attributes.status = 'FINISHED'")
    return [run.info.run_id for run in runs]


def assert_nothing_is_left_over(client: MlflowClient) -> None:
    """No run is RUNNING, and no version is there twice."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert not client.search_runs(experiments, "attributes.status = 'RUNNING'")
    versions = Counter((version.name, version.tags["step"], version.tags["sha256"])
                       for version in client.search_model_versions())
    assert max(versions.values()) == 1, versions.most_common(3)


def assert_same(tables: dict[str, list[list[str]]], expected: dict[str, list[list[str]]]) -> None:
    """All tables are equal to the last bit."""
    assert tables.keys() == expected.keys()
    for name, lines in expected.items():
        differing = [(own, other) for own, other in zip(tables[name], lines, strict=True) if own != other]
        assert not differing, (name, len(differing), differing[:2])
