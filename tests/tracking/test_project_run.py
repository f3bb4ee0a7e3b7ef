"""The run that `mlflow run` makes: marked and removed where it stays empty, made anew beside the models."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus
from support import mlflow_run

from nanogpt.commands.registry import registry
from nanogpt.commands.train import train
from nanogpt.tracking import project_run
from nanogpt.tracking.project_run import ENTRY_POINT, EXPERIMENT_ID, EXPERIMENT_NAME, RUN_ID
from nanogpt.tracking.run import open_run

LATE = "models:/nanogpt-shakespeare@late"


@pytest.fixture
def client(model_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """A user who has set a store of the test's own and no experiment."""
    own = tmp_path / "mlflow.db"
    with sqlite3.connect(model_store.removeprefix("sqlite:///")) as source, sqlite3.connect(own) as copy:
        source.backup(copy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    for name in (RUN_ID, EXPERIMENT_ID, EXPERIMENT_NAME):
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{own}")
    yield MlflowClient()
    mlflow.set_tracking_uri(None)


def made_by_mlflow_run(client: MlflowClient, monkeypatch: pytest.MonkeyPatch, experiment_id: str = "0") -> str:
    """What `mlflow run` does before it starts the program."""
    run_id = client.create_run(experiment_id, tags={ENTRY_POINT: "evaluate", "mlflow.source.name": "a"}).info.run_id
    client.log_param(run_id, "preset", "smoke")
    monkeypatch.setenv(RUN_ID, run_id)
    monkeypatch.setenv(EXPERIMENT_ID, experiment_id)
    return str(run_id)


def experiment_of_the_models(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name("domains")
    assert experiment is not None
    return str(experiment.experiment_id)


def all_runs(client: MlflowClient) -> dict[str, Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id: run for run in client.search_runs(experiments)}


def is_marked(client: MlflowClient, run_id: str) -> bool:
    return project_run.UNUSED in client.get_run(run_id).data.tags


def test_a_run_that_nothing_opened_is_marked_and_removed_when_it_is_closed(client: MlflowClient,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    first = made_by_mlflow_run(client, monkeypatch)
    with pytest.raises(KeyError), project_run.tidied():
        raise KeyError("a fault")
    assert is_marked(client, first)
    second = made_by_mlflow_run(client, monkeypatch)
    with project_run.tidied():
        pass
    assert is_marked(client, second) and first in all_runs(client), "`mlflow run` has not closed it yet"
    for run_id in (first, second):
        client.set_terminated(run_id)
    made_by_mlflow_run(client, monkeypatch)
    with project_run.tidied(), open_run("work") as run:
        assert run.id in all_runs(client) and not {first, second} & all_runs(client).keys()


def test_a_run_that_the_program_opened_stays(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = made_by_mlflow_run(client, monkeypatch)
    with project_run.tidied(), open_run("work") as run:
        assert run.id == run_id
    assert not is_marked(client, run_id)


def test_a_run_that_the_user_named_stays(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = client.create_run("0").info.run_id
    monkeypatch.setenv(RUN_ID, run_id)
    with project_run.tidied():
        pass
    assert not is_marked(client, run_id)


def test_a_store_that_lacks_the_run_is_no_error(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_ID, "0" * 32)
    with project_run.tidied():
        pass
    assert RUN_ID not in os.environ


def test_runs_open_beside_the_models_that_they_read(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    domains = experiment_of_the_models(client)
    with project_run.tidied():
        project_run.follow(f"{LATE}, models:/another/1")
        with open_run("outer") as outer, open_run("inner") as inner:
            assert (outer.experiment_id, inner.experiment_id) == (domains, domains)
    assert EXPERIMENT_ID not in os.environ


def test_a_run_in_default_is_made_anew_beside_the_models(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made, domains = made_by_mlflow_run(client, monkeypatch), experiment_of_the_models(client)
    with project_run.tidied():
        project_run.follow(LATE)
        with open_run("outer") as outer, open_run("inner") as inner:
            assert (outer.experiment_id, inner.experiment_id) == (domains, domains)
    old, new = client.get_run(made), client.get_run(outer.id)
    assert is_marked(client, made) and not is_marked(client, new.info.run_id) and new.data.params == old.data.params
    assert new.data.tags[ENTRY_POINT] == "evaluate" and new.data.tags["mlflow.source.name"] == "a"
    assert os.environ[EXPERIMENT_ID] == "0"


def test_an_experiment_that_the_user_has_chosen_stays(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    other = client.create_experiment("other")
    made_by_mlflow_run(client, monkeypatch, other)                    # mlflow run --experiment-name other
    project_run.follow(LATE)
    assert os.environ[EXPERIMENT_ID] == other
    monkeypatch.delenv(RUN_ID)                                        # MLFLOW_EXPERIMENT_ID alone
    project_run.follow(LATE)
    assert os.environ[EXPERIMENT_ID] == other
    monkeypatch.delenv(EXPERIMENT_ID)
    monkeypatch.setenv(EXPERIMENT_NAME, "other")
    project_run.follow(LATE)
    assert EXPERIMENT_ID not in os.environ


def test_the_experiment_of_a_model_by_every_kind_of_name(client: MlflowClient) -> None:
    version = client.get_model_version_by_alias("nanogpt-shakespeare", "late")
    domains = experiment_of_the_models(client)
    for uri in (LATE, f"models:/nanogpt-shakespeare/{version.version}", version.source,
                f"runs:/{version.run_id}/checkpoints/final.pt"):
        assert project_run.experiment_of(uri) == domains, uri
    for uri in ("model.pt", "", "models:/", "models:/nothing@late", "models:/nanogpt-shakespeare/99",
                "runs:/nothing/x"):
        assert project_run.experiment_of(uri) == ""


def used_runs(client: MlflowClient) -> dict[str, Run]:
    return {run_id: run for run_id, run in all_runs(client).items() if project_run.UNUSED not in run.data.tags}


def test_a_failed_entry_point_leaves_a_marked_run_which_the_next_one_removes_and_that_writes_beside_the_models(
        client: MlflowClient, tmp_path: Path) -> None:
    before = all_runs(client)
    refused = mlflow_run(tmp_path, "evaluate", "models=models:/nothing@late")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    (error,) = (line for line in refused.stderr.splitlines() if line.startswith("Error: "))
    assert error.startswith("Error: model must exist")
    (marked,) = all_runs(client).keys() - before.keys()
    assert is_marked(client, marked) and client.get_run(marked).info.status == "FAILED"
    done = mlflow_run(tmp_path, "generate", f"model={LATE}", "generate_characters=5")
    assert done.returncode == 0, done.stderr
    assert marked not in all_runs(client)
    (run_id,) = used_runs(client).keys() - before.keys()
    run = client.get_run(run_id)
    assert run.info.experiment_id == experiment_of_the_models(client) and run.info.status == "FINISHED"
    assert run.data.tags[ENTRY_POINT] == "generate" and run.data.params["generate_characters"] == "5"


def test_mlflow_run_still_fails_where_its_run_was_deleted() -> None:
    """Where this fails, `tidied` can delete the run at once: MLflow then sees that the run was closed before."""
    assert not RunStatus.is_terminated("FINISHED")  # type: ignore[arg-type]


def test_resuming_below_mlflow_run_goes_on_in_the_old_run_alone(client: MlflowClient,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    trained = CliRunner().invoke(train, ["--domain", "math", "--preset", "smoke", "--max-steps", "4", "--checkpoints",
                                         "1"], catch_exceptions=False)
    assert trained.exit_code == 0, trained.output
    before = used_runs(client)
    (run_id,) = [run_id for run_id, run in before.items() if run.data.tags.get("phase") == "train"]
    made = made_by_mlflow_run(client, monkeypatch)
    resumed = CliRunner().invoke(train, ["--resume", run_id], catch_exceptions=False)
    assert resumed.exit_code == 0, resumed.output
    after = used_runs(client)
    assert after.keys() == before.keys() and after[run_id].info.end_time > before[run_id].info.end_time
    assert is_marked(client, made)


def test_a_listing_leaves_its_run_marked(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_by_mlflow_run(client, monkeypatch)
    listing = CliRunner().invoke(registry, [], catch_exceptions=False)
    assert "nanogpt-shakespeare" in listing.output and is_marked(client, made)
