"""The run that `mlflow run` makes before the program starts, and the experiment in which the program's runs open.

`mlflow run` hands over the run's id in MLFLOW_RUN_ID. MLflow takes the id out of the environment when the program
opens its first run, which then is that run: an id that is still there at the end belongs to a run that is empty.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.entities import Experiment, Param
from mlflow.exceptions import MlflowException

from nanogpt.tracking.store_errors import STORE_ERRORS

log = logging.getLogger("nanogpt")

RUN_ID, EXPERIMENT_ID, EXPERIMENT_NAME = "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"
ENTRY_POINT = "mlflow.project.entryPoint"
"""The tag that `mlflow run` writes on the run that it makes."""
UNUSED = "nanogpt.unused"
UNUSED_TAGS = {UNUSED: "yes", "mlflow.runName": "unused",
               "mlflow.note.content": "`mlflow run` made this run and the program logged nothing in it. The next "
                                      "entry point removes it."}


@contextmanager
def tidied() -> Iterator[None]:
    """Leave no empty run of `mlflow run` behind, nor a changed experiment in the environment.

    The run that this process leaves unused can only be marked: `mlflow run` closes it when the process has ended,
    and fails where it is deleted by then (tests/tracking/test_project_run.py tells when that is over). The next
    process removes it.
    """
    experiment_id = os.environ.get(EXPERIMENT_ID)
    remove_unused()
    try:
        yield
    finally:
        mark_unused()
        if experiment_id is None:
            os.environ.pop(EXPERIMENT_ID, None)
        else:
            os.environ[EXPERIMENT_ID] = experiment_id


def mark_unused() -> None:
    """Say on the run that `mlflow run` made that it is empty, if no run was opened since.

    A run that a user named in MLFLOW_RUN_ID is left alone, and a store that does not answer is no error here.
    """
    if run_id := os.environ.pop(RUN_ID, ""):
        client = mlflow.MlflowClient()
        with contextlib.suppress(*STORE_ERRORS):
            if ENTRY_POINT in client.get_run(run_id).data.tags:
                for name, value in UNUSED_TAGS.items():
                    client.set_tag(run_id, name, value)


def remove_unused() -> None:
    """Delete the marked runs that `mlflow run` has closed by now; the store keeps deleted runs.

    Only below `mlflow run` itself, which has just reached the store.
    """
    if RUN_ID in os.environ:
        with contextlib.suppress(*STORE_ERRORS):
            marked = mlflow.search_runs(search_all_experiments=True, output_format="list",
                                        filter_string=f"tags.`{UNUSED}` = 'yes' AND attributes.status != 'RUNNING'")
            for run in marked:
                mlflow.delete_run(run.info.run_id)


def follow(uris: str) -> None:
    """Have the next runs open in the experiment of the first of the models, unless the user has chosen one.

    `mlflow run` without --experiment-name makes its run in the experiment `Default`: an equal run in the experiment
    of the models then takes its place.
    """
    if is_chosen() or not (experiment_id := experiment_of(uris.partition(",")[0].strip())):
        return
    if run_id := os.environ.get(RUN_ID):
        if mlflow.get_run(run_id).info.experiment_id == experiment_id:
            return
        os.environ[RUN_ID] = copy_run(run_id, experiment_id)
        log.info("the run goes on as %s, in the experiment of the models", os.environ[RUN_ID])
    os.environ[EXPERIMENT_ID] = experiment_id


def is_chosen() -> bool:
    """Tell whether the user has named an experiment. `mlflow run` sets MLFLOW_EXPERIMENT_ID in any case."""
    if run_id := os.environ.get(RUN_ID):
        experiment = mlflow.get_experiment(mlflow.get_run(run_id).info.experiment_id)
        return EXPERIMENT_NAME in os.environ or experiment.name != Experiment.DEFAULT_EXPERIMENT_NAME
    return EXPERIMENT_NAME in os.environ or EXPERIMENT_ID in os.environ


def experiment_of(uri: str) -> str:
    """Find the experiment of the run that a model is from, by its id; '' for a file or where there is no model."""
    scheme, _, name = uri.partition(":/")
    client, (path, at, alias) = mlflow.MlflowClient(), name.partition("@")
    first, _, rest = path.partition("/")
    with contextlib.suppress(MlflowException):    # whoever loads the model says what is wrong with it
        if scheme == "runs":
            return str(client.get_run(first).info.experiment_id)
        if scheme == "models" and first.startswith("m-"):
            return str(client.get_logged_model(first).experiment_id)
        if scheme == "models":
            version = client.get_model_version_by_alias(first, alias) if at else client.get_model_version(first, rest)
            return str(client.get_run(version.run_id or "").info.experiment_id)
    return ""


def copy_run(run_id: str, experiment_id: str) -> str:
    """Make a run with the tags and parameters of an unused one, which is marked; returns the new run's id."""
    client = mlflow.MlflowClient()
    unused = client.get_run(run_id)
    run = client.create_run(experiment_id, unused.info.start_time, unused.data.tags, unused.info.run_name)
    client.log_batch(run.info.run_id, params=[Param(name, value) for name, value in unused.data.params.items()])
    mark_unused()
    return str(run.info.run_id)
