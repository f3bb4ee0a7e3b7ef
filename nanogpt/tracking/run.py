"""The run: the one object whose side effects outlive the process."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # read by MLflow when it is imported

import mlflow
import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.uri import is_local_uri

from nanogpt.config import GROUPS, Config, config_of
from nanogpt.errors import UserError
from nanogpt.model.processes import this_process
from nanogpt.tracking import request_limits
from nanogpt.tracking.download import downloaded
from nanogpt.tracking.environment import commit, environment, git
from nanogpt.tracking.launches import launch_tags
from nanogpt.tracking.new_store import create_missing_store
from nanogpt.tracking.own_words import is_ours, marked
from nanogpt.tracking.project_run import mark_unused
from nanogpt.tracking.scratch import scratch_folder, scratch_path
from nanogpt.tracking.store_errors import (
    NO_ANSWER,
    STORE_ERRORS,
    again_if_beaten,
    closed_in_any_case,
    explain,
    suppress_code,
)

CELL, WHOLE = "nanogpt.cell", "nanogpt.whole"
"""Tags of a run: the digest of all that its result depends on; that its result is kept (study/cells.py)."""
PROCESS = "nanogpt.process"
"""The tag of a run that says which process has it open."""
TRAININGS = "trainings"
"""The phase of a run over several trainings."""

SETTINGS_OF = {"train": {"data", "model", "train"}, TRAININGS: {"data", "model", "train"},
               "evaluate": {"data", "model", "analysis"}, "compare": {"data", "model", "analysis"},
               "writing": {"data", "model", "analysis"}, "generate": {"model", "analysis"},
               "tune": {"data", "model", "transfer"}, "transfer": {"data", "model", "transfer"},
               "adapt": {"data", "model", "transfer"}, "analyze": {"data", "model", "analysis", "attribution"},
               "scale": {"data", "model", "train", "transfer", "scaling"}}
"""The groups of settings that matter to a phase and are parameters of its run; of others all are."""


def key(*parts: str) -> str:
    """Build a metric key: `key("zero_shot", "math", "bits_per_byte")` is "zero_shot/math/bits_per_byte"."""
    return "/".join(parts)


MODELS_PAGE = "/#/models?workflowType=machine_learning"
"""The page of the registry below the address of the MLflow UI."""


def in_ui(page: str) -> str:
    """Say how to open a page below the address of the MLflow UI: on the server of the store, or on one to be begun."""
    uri = urlsplit(mlflow.get_tracking_uri())
    if uri.scheme not in ("http", "https"):
        return f"mlflow ui, then http://127.0.0.1:5000{page}"
    host = uri.netloc.rpartition("@")[2]        # without a password
    return f"{uri.scheme}://{host}{uri.path.rstrip('/')}{page}"


@dataclass(frozen=True)
class TextDataset:
    """A text as MLflow shows it: name, digest and origin, not the text itself."""

    name: str
    sha256: str
    origin: str
    licence: str

    def for_mlflow(self) -> MetaDataset:
        source = CodeDatasetSource({"origin": self.origin, "licence": self.licence, "sha256": self.sha256})
        return MetaDataset(source, name=self.name, digest=self.sha256[:32])  # type: ignore[abstract]


@dataclass(frozen=True)
class TrackedRun:
    """An open MLflow run: it takes numbers, tables, text, bytes and files."""

    id: str
    experiment_id: str
    name: str

    @property
    def link(self) -> tuple[str, str]:
        """Give its id, and its page below the address of the MLflow UI."""
        return self.id, f"/#/experiments/{self.experiment_id}/runs/{self.id}"

    def metrics(self, values: Mapping[str, float], step: int = 0, model_id: str | None = None,
                dataset: TextDataset | None = None) -> None:
        """Log finite numbers at a training step, in one batch.

        Also on the logged model where its id is given, and with the text that they were read from.
        """
        now, text = get_current_time_millis(), dataset.for_mlflow() if dataset else None
        of_text: dict[str, Any] = {"dataset_name": text.name, "dataset_digest": text.digest} if text else {}
        batch = [Metric(name, float(value), now, step, model_id=model_id, run_id=self.id, **of_text)
                 for name, value in values.items() if value == value]
        mlflow.MlflowClient().log_batch(self.id, metrics=batch)

    def metrics_by_step(self, by_step: Mapping[int, Mapping[str, float]]) -> None:
        """Log finite numbers of many training steps in one batch."""
        now = get_current_time_millis()
        batch = [Metric(name, float(value), now, step) for step, values in by_step.items()
                 for name, value in values.items() if value == value]
        mlflow.MlflowClient().log_batch(self.id, metrics=batch)

    def models(self, ids: Iterable[str | None]) -> None:
        """Record which logged models were read."""
        inputs = [LoggedModelInput(model_id) for model_id in ids if model_id]
        mlflow.MlflowClient().log_inputs(self.id, models=inputs)

    def table(self, frame: pd.DataFrame, name: str) -> None:
        """Log one table, which the UI shows."""
        self.tables({name: frame}, shown={name})

    def tables(self, frames: Mapping[str, pd.DataFrame], shown: Collection[str]) -> None:
        """Log `tables/<name>.csv` of each frame that has rows; of those to be shown also JSON, of the others Parquet.

        The JSON is what `mlflow.log_table` writes; that function asks the store six times for each table.
        """
        if not (frames := {name: frame for name, frame in frames.items() if len(frame)}):
            return
        shown = [name for name in frames if name in shown]
        folder = Path(tempfile.mkdtemp(dir=scratch_folder()))
        for name, frame in frames.items():
            if name in shown:
                frame.to_csv(folder / f"{name}.csv", index=False)
                frame.to_json(folder / f"{name}.json", orient="split", index=False, date_format="iso")
            else:    # a large one: pandas would need 13 times as long
                table = pyarrow.Table.from_pandas(frame, preserve_index=False)
                pyarrow.csv.write_csv(table, folder / f"{name}.csv")
                pyarrow.parquet.write_table(table, folder / f"{name}.parquet")
        mlflow.log_artifacts(str(folder), "tables", run_id=self.id)
        if shown:
            tags = mlflow.get_run(self.id).data.tags
            known = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
            new = [{"path": f"tables/{name}.json", "type": "table"} for name in shown]
            self.tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps(known + [entry for entry in new if entry not in known])})

    def bytes(self, data: bytes, path: str) -> None:
        copy = scratch_path(Path(path).name)
        copy.write_bytes(data)
        self.file(copy, str(Path(path).parent))

    def file(self, path: Path, folder: str) -> None:
        mlflow.log_artifact(str(path), folder, run_id=self.id)

    def fail(self) -> None:
        """Mark the run, which is closed, FAILED."""
        mlflow.MlflowClient().set_terminated(self.id, "FAILED")

    def folder(self, path: Path, folder: str) -> None:
        mlflow.log_artifacts(str(path), folder, run_id=self.id)

    def text(self, text: str, path: str) -> None:
        mlflow.log_text(text, path, run_id=self.id)

    def artifact(self, path: str) -> str:
        """Say where an artifact lies: a path where the store is on this machine, else its address."""
        uri = f"{mlflow.MlflowClient().get_run(self.id).info.artifact_uri}/{path}"
        return str(local_file_uri_to_path(uri)) if is_local_uri(uri) else str(uri)

    def describe(self, markdown: str) -> None:
        """Write the description at the head of the run's page: headings and lists, no tables."""
        self.tags({"mlflow.note.content": markdown})

    def introduce(self, markdown: str) -> None:
        """Write the description at the head of the experiment's pages, unless it has one of a person."""
        note, client = "mlflow.note.content", mlflow.MlflowClient()
        if is_ours(client.get_experiment(self.experiment_id).tags.get(note)):
            again_if_beaten(lambda: client.set_experiment_tag(self.experiment_id, note, marked(markdown)))

    def tags(self, tags: Mapping[str, Any]) -> None:
        mlflow.MlflowClient().log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def datasets(self, datasets: Iterable[TextDataset], context: str) -> None:
        """Record which texts were read."""
        inputs = [DatasetInput(dataset.for_mlflow()._to_mlflow_entity(), [InputTag(MLFLOW_DATASET_CONTEXT, context)])
                  for dataset in datasets]
        mlflow.MlflowClient().log_inputs(self.id, inputs)

    def files(self, folder: str) -> list[str]:
        """List the artifacts of a folder by path, sorted."""
        return sorted(item.path for item in mlflow.MlflowClient().list_artifacts(self.id, folder))

    def download(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """Give a copy of an artifact for as long as it is read."""
        return downloaded(f"runs:/{self.id}/{path}")

    def delete(self, *paths: str) -> None:
        for path in paths:
            get_artifact_repository(mlflow.get_run(self.id).info.artifact_uri).delete_artifacts(path)

    def history(self, metrics: Mapping[str, str]) -> list[dict[str, Any]]:
        """List what was logged of `metrics` (column to key), a row for each step; None where a metric has no value."""
        client = mlflow.MlflowClient()
        by_column = {column: {m.step: m.value for m in client.get_metric_history(self.id, name)}
                     for column, name in metrics.items()}
        steps = sorted({step for values in by_column.values() for step in values})
        return [{"step": step} | {column: values.get(step) for column, values in by_column.items()} for step in steps]

    def config(self, config: Config, phase: str) -> None:
        """Log the resolved configuration: `config.json`, and as parameters what matters to the phase.

        A parameter that the run has, because `mlflow run` was given it, stays as it is.
        """
        nested = asdict(config)
        mlflow.log_dict(nested, "config.json", run_id=self.id)
        client = mlflow.MlflowClient()
        left_out = set().union(*(nested[group] for group in GROUPS.keys() - SETTINGS_OF.get(phase, GROUPS.keys())))
        known = client.get_run(self.id).data.params.keys() | left_out
        params = [Param(name, str(value)) for name, value in config.flat().items() if name not in known]
        client.log_batch(self.id, params=params)


def create_named_experiment() -> None:
    """Make the experiment that MLFLOW_EXPERIMENT_NAME names: MLflow fails where two processes do so at once."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if name and not mlflow.get_experiment_by_name(name):
        with suppress_code("RESOURCE_ALREADY_EXISTS"):
            mlflow.create_experiment(name)


_open: list[str] = []
"""Ids of the runs that this process has open, or that have failed."""


def close_open_runs(status: str) -> None:
    """Give the runs that are still open a status: where the program cannot close them in their order."""
    for run_id in list(_open):
        with contextlib.suppress(*STORE_ERRORS):
            if mlflow.MlflowClient().get_run(run_id).info.status == "RUNNING":
                mlflow.MlflowClient().set_terminated(run_id, status)


outermost_runs: list[TrackedRun] = []
"""Those that this process has opened, the last one at the end."""


@dataclass(frozen=True)
class RunAbove:
    """A run that another process has open and below which this one opens its own, and what these take of it."""

    id: str
    experiment_id: str
    artifacts: str                  # where its files are
    tags: Mapping[str, str]         # whose they are, and the process that answers for them


_above: list[RunAbove] = []


def run_above() -> RunAbove | None:
    """Give the run of another process below which this one opens its own; None in a process that stands alone."""
    return _above[-1] if _above else None


def as_run_above() -> RunAbove:
    """Give the run that was opened last as that below which other processes open theirs."""
    run = mlflow.get_run(open_run_id())
    tags, info = run.data.tags, run.info
    taken = {name: tags[name] for name in (MLFLOW_USER, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE) if name in tags}
    return RunAbove(info.run_id, info.experiment_id, str(info.artifact_uri),
                    taken | {PROCESS: json.dumps(this_process())})


@contextmanager
def opened_below(above: RunAbove) -> Iterator[None]:
    """Have the runs of the block, which are no other run's, open below a run of another process."""
    _above.append(above)
    try:
        yield
    finally:
        _above.pop()


def open_run_id() -> str:
    """Give the id of the run that was opened last, here or by the process above; '' where none is open."""
    run, above = mlflow.active_run(), run_above()
    return str(run.info.run_id) if run else above.id if above else ""


def first_tags(cell: str | None) -> dict[str, Any]:
    """Give what a nested run is told from its first moment, as a kill may be the next: its cell, owner and place.

    The owner is the process above, where there is one. MLflow itself puts a run below one that is open here.
    """
    above, known = run_above(), {CELL: cell} if cell else {}
    return known | ({**above.tags, MLFLOW_PARENT_RUN_ID: above.id} if above else {})


@contextmanager
def open_run(name: str, config: Config | None = None, resume: str = "", parent: str = "",
             **tags: Any) -> Iterator[TrackedRun]:
    """Open an MLflow run, nested where one is open; the run that `mlflow run` made is adopted by the first.

    `resume` is the id of an earlier run, which goes on. `parent` is the id of the run that a nested one belongs to; by
    default the one that was opened last. With `config` the configuration and the environment are
    logged; at the outermost run also what git has not committed and, every ten seconds, the load of the machine. A
    failure inside marks it FAILED, the end of the process KILLED.
    """
    above = run_above() if mlflow.active_run() is None else None
    outermost = mlflow.active_run() is None and above is None
    if outermost:
        create_missing_store()
        create_named_experiment()
    if resume:
        mark_unused()
    first = launch_tags() if outermost else first_tags(tags.get(CELL))
    with closed_in_any_case() as ids, mlflow.start_run(
            resume or None, above.experiment_id if above else None, run_name=name, nested=not outermost,
            tags={PROCESS: json.dumps(this_process())} | first,
            log_system_metrics=outermost) as active:
        run = TrackedRun(active.info.run_id, active.info.experiment_id, name)
        ids.append(run.id)
        _open.append(run.id)
        if outermost:
            outermost_runs.append(run)
        shared = {"preset": config.preset, "seed": config.seed, "git_commit": commit()} if config else {}
        if parent and not outermost:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        run.tags({"mlflow.runName": name} | {tag: value for tag, value in {**shared, **tags}.items() if value != ""})
        if config is not None:
            run.config(config, str(tags.get("phase", "")))
            mlflow.log_dict(environment(config), "environment.json", run_id=run.id)
            if outermost and (changes := git("diff", "HEAD")):
                run.text(changes, "uncommitted.diff")
        try:
            yield run
        except (SystemExit, KeyboardInterrupt):
            mlflow.end_run("KILLED")
            raise
        except STORE_ERRORS as error:
            if explain(error) == NO_ANSWER:     # it was tried for long enough
                request_limits.shorten()
            raise
    _open.remove(run.id)


def run_config(run_id: str) -> Config:
    """Read the configuration of a run from its `config.json`. UserError where it has none."""
    try:
        return config_of(mlflow.artifacts.load_dict(f"runs:/{run_id}/config.json"))
    except (MlflowException, OSError) as error:
        raise UserError(f"run must have a config.json, got {run_id!r}") from error


@dataclass(frozen=True)
class EarlierTraining:
    """What the store knows of a training, or of several that one command began: they may go on."""

    config: Config                              # with the first seed and the number of seeds
    domains: tuple[str, ...]                    # by name
    runs: Mapping[tuple[str, int], str]         # domain and seed to the id of the training's run; "": it has none yet
    parent: str                                 # id of the run over several trainings, or ""


def earlier_training(run_id: str) -> EarlierTraining:
    """Read what a run of the entry point train began. UserError where there is no such run."""
    try:
        config, run = run_config(run_id), mlflow.get_run(run_id)
        tags, domains = run.data.tags, tuple(run.data.tags["domain"].split(","))
        first_seed = int(tags.get("first_seed", config.seed))
    except (ValueError, MlflowException, KeyError) as error:
        raise UserError(f"resume must be the id of a run of the entry point train, got {run_id!r}") from error
    if tags.get("phase") != TRAININGS:
        seeds = replace(config.train, seeds=config.seed - first_seed + 1)
        return EarlierTraining(replace(config, seed=first_seed, train=seeds), domains,
                               {(domains[0], config.seed): run_id}, "")
    below = mlflow.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'",
                               output_format="list")
    found = {(child.data.tags["domain"], int(child.data.tags["seed"])): child.info.run_id for child in below
             if child.data.tags.get("phase") == "train"}
    planned = {(domain, config.seed + k): "" for domain in domains for k in range(config.train.seeds)}
    return EarlierTraining(config, domains, planned | found, run_id)
