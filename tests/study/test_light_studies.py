"""Whole studies of little work in this process: what a full one of the default settings does not meet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Run
from support import ROOT

from nanogpt.commands.registry import registry
from nanogpt.commands.study import study
from nanogpt.commands.train import train
from nanogpt.commands.transfer import transfer
from nanogpt.config import Config
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.study import train as training_phase
from nanogpt.text.corpus import Corpus
from nanogpt.training import loop
from nanogpt.training.loop import Pretraining

DOMAINS = ("readme", "changes")
LIGHT = ("--preset", "smoke", "--domains", "readme=readme.txt,changes=changes.txt", "--max-steps", "8",
         "--checkpoints", "1", "--trials", "1", "--transfer-steps", "1", "--eval-characters", "512",
         "--generate-characters", "5", "--methods", "gradient_norm", "--compared-prompts", "0", "--device", "cpu")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """A user of a new store, with two texts of their own."""
    monkeypatch.chdir(tmp_path)
    for name, file in zip(DOMAINS, ("README.md", "CHANGELOG.md"), strict=True):
        (tmp_path / f"{name}.txt").write_text((ROOT / file).read_text("utf-8") * 3, "utf-8")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment("light")
    yield MlflowClient()
    mlflow.set_tracking_uri(None)


def call(command, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output + result.stderr
    return result.output


def runs(client: MlflowClient, phase: str) -> list[Run]:
    """The finished runs of a phase, the newest first."""
    experiment = client.get_experiment_by_name("light")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], f"tags.phase = '{phase}'")


def test_a_model_of_all_domains_together_is_verified_promoted_and_resumed(client: MlflowClient) -> None:
    """And with one checkpoint, which stands for early too, so that it is adapted as early."""
    call(study, *LIGHT, "--joint", "yes", "--stages", "early")
    verified = call(registry, "--action", "verify", "--model", "joint")
    assert all(line.endswith(" · ok") for line in verified.splitlines() if line.startswith("nanogpt-joint"))
    call(registry, "--action", "promote", "--model", "models:/nanogpt-joint@early", "--alias", "chosen")
    chosen, early = (client.get_model_version_by_alias("nanogpt-joint", alias) for alias in ("chosen", "early"))
    assert chosen.version == early.version and early.tags["domain"] == "joint"
    tables = f"{runs(client, 'study')[0].info.artifact_uri}/tables"
    assert {*DOMAINS, "joint"} == set(pd.read_csv(f"{tables}/zero_shot.csv")["source"])
    transfers = pd.read_csv(f"{tables}/transfers.csv")
    assert {(row.source, row.checkpoint_step) for row in transfers.itertuples()} == {
        ("scratch", 0), *((name, 8) for name in DOMAINS)}
    (joint,) = (run for run in runs(client, "train") if run.data.tags["domain"] == "joint")
    assert "nanogpt-joint@final" in call(train, "--resume", joint.info.run_id)


def test_a_study_of_one_domain_compares_with_random_weights_alone(client: MlflowClient) -> None:
    call(study, *LIGHT, "--domains", "readme=readme.txt")
    transfers = pd.read_csv(f"{runs(client, 'study')[0].info.artifact_uri}/tables/transfers.csv")
    assert set(transfers["source"]) == {"scratch"} and transfers["source_bits_per_byte_before"].isna().all()


def test_best_stays_with_a_better_version_of_an_earlier_training(client: MlflowClient) -> None:
    train_readme = ("--preset", "smoke", "--domain", "readme=readme.txt", "--domains", "readme=readme.txt",
                    "--checkpoints", "1")
    call(train, *train_readme, "--max-steps", "20")
    best = client.get_model_version_by_alias("nanogpt-readme", "best").version
    call(train, *train_readme, "--max-steps", "1")
    final = client.get_model_version_by_alias("nanogpt-readme", "final")
    assert client.get_model_version_by_alias("nanogpt-readme", "best").version == best != final.version
    stages = [version.tags.get("stage") for version in client.search_model_versions("name = 'nanogpt-readme'")]
    assert stages.count("final") == 1


def test_a_diverged_transfer_is_logged_as_it_is_and_not_registered(client: MlflowClient) -> None:
    call(train, *LIGHT[:6], "--domain", "readme=readme.txt")
    adapt = ("--source", "models:/nanogpt-readme@final", "--target", "changes=changes.txt", *LIGHT[:4])
    call(transfer, *adapt, "--rate", "1e30", "--transfer-steps", "3")
    (run,) = runs(client, "transfer")
    transfers = pd.read_csv(f"{run.info.artifact_uri}/tables/transfers.csv")
    assert run.info.status == "FINISHED" and set(transfers["stopped_at_step"]) == {0}
    assert transfers["test_bits_per_byte"].tolist() == pytest.approx(transfers["zero_shot_bits_per_byte"].tolist())
    assert not (transfers["last_bits_per_byte"] < 100).any()
    assert [model.name for model in client.search_registered_models()] == ["nanogpt-readme"]


SEEDS = ("--preset", "smoke", "--domain", "readme=readme.txt,changes=changes.txt", "--domains", "readme=readme.txt",
         "--max-steps", "8", "--checkpoints", "2", "--eval-characters", "512", "--device", "cpu", "--seeds", "2")


@pytest.mark.slow
def test_each_of_several_trainings_has_its_run_and_models_whether_stacked_or_not(client: MlflowClient) -> None:
    for number in ("1", "4"):
        call(train, *SEEDS, "--train-together", number)
        (over, *_), trainings = runs(client, "trainings"), runs(client, "train")[:4]
        assert {(run.data.tags["domain"], run.data.tags["seed"]) for run in trainings} == {
            (domain, seed) for domain in DOMAINS for seed in "12"}
        assert {run.data.tags["mlflow.parentRunId"] for run in trainings} == {over.info.run_id}
        table = pd.read_csv(f"{over.info.artifact_uri}/tables/training.csv")
        assert set(table["training_seed"]) == {1, 2} and set(table["run_id"]) == {run.info.run_id for run in trainings}
    for alias, seed in (("late", "1"), ("late-seed-2", "2")):
        version = client.get_model_version_by_alias("nanogpt-changes", alias)
        assert version.tags["seed"] == seed and version.tags["stage"] == "late"
    assert "ok" in call(registry, "--action", "verify", "--model", "readme")


def test_what_is_not_finished_of_several_trainings_goes_on(client: MlflowClient, monkeypatch) -> None:
    settings = (*SEEDS, "--train-together", "2", "--state-seconds", "0")
    whole, group = [], training_phase.train_and_log

    def interrupted(tracked, trainings, share) -> None:
        whole.append([training.run.id for training in tracked])
        if len(whole) == 1:
            return group(tracked, trainings, share)
        for records in training_phase.train_together([Pretraining(t.corpus, t.config) for t in tracked]):
            training_phase.log_records(tracked, records)
            for training, progress in zip(tracked, records, strict=True):
                training_phase.keep_state(training.run, progress.state())
            if records[0].step:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_phase, "train_and_log", interrupted)
        assert CliRunner().invoke(train, settings).exit_code == 1
    (over,) = runs(client, "trainings")
    assert {run.info.status for run in runs(client, "train")} == {"FINISHED", "KILLED"}
    output = call(train, "--domain", SEEDS[3], "--resume", over.info.run_id)
    assert output.count("registered 6 checkpoints") == 2
    assert {run.info.status for run in runs(client, "train")} == {"FINISHED"} and len(runs(client, "train")) == 4
    call(train, *settings)
    by_member: dict[tuple[str, int], list[float]] = {}
    for run in runs(client, "train"):
        last = pd.read_csv(f"{run.info.artifact_uri}/tables/training.csv").iloc[-1]
        by_member.setdefault((last["domain"], last["training_seed"]), []).append(last["validation_nats"])
    assert len(by_member) == 4 and all(len(set(values)) == 1 and len(values) == 2 for values in by_member.values())


ALONE = ("--preset", "smoke", "--domain", "readme=readme.txt", "--domains", "readme=readme.txt", "--max-steps", "8",
         "--checkpoints", "2", "--eval-characters", "512", "--device", "cpu")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_training_that_stopped_before_its_last_metrics_goes_on_to_its_last_step(
        client: MlflowClient, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    """An earlier training has `best`, so that nothing would fail; a checkpoint may have been damaged since."""
    def stop_at_the_last(checkpoint: Checkpoint, *given: Any) -> Any:
        model = log_checkpoint(checkpoint, *given)
        if checkpoint.step == 8:
            raise KeyboardInterrupt
        return model

    call(train, *ALONE, "--seed", "2")
    log_checkpoint = training_phase.log_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(training_phase, "log_checkpoint", stop_at_the_last)
        assert CliRunner().invoke(train, ALONE).exit_code == 1
    (stopped,) = [run for run in runs(client, "train") if run.info.status == "KILLED"]
    if damaged:
        (logged,) = [model for model in client.search_logged_models([stopped.info.experiment_id])
                     if model.source_run_id == stopped.info.run_id and model.tags["step"] == "4"]
        os.truncate(f"{logged.artifact_location}/data/iter_000004.pt", 1000)
    output = call(train, "--domain", "readme=readme.txt", "--resume", stopped.info.run_id)
    assert "registered 3 checkpoints" in output
    assert client.get_model_version_by_alias("nanogpt-readme", "final").tags["step"] == "8"
    table = pd.read_csv(f"{client.get_run(stopped.info.run_id).info.artifact_uri}/tables/training.csv")
    assert list(table["step"]) == [0, 4, 8]
    assert "ok" in call(registry, "--action", "verify", "--model", "readme")


def test_a_version_that_was_damaged_is_registered_anew(client: MlflowClient) -> None:
    call(train, *ALONE)
    last = client.get_model_version_by_alias("nanogpt-readme", "final")
    os.truncate(f"{client.get_logged_model(last.source.split('/')[-1]).artifact_location}/data/final.pt", 1000)
    call(train, *ALONE)
    assert client.get_model_version_by_alias("nanogpt-readme", "final").version != last.version
    assert "ok" in call(registry, "--action", "verify", "--model", "readme")


def test_a_training_that_diverges_is_left_out_and_the_study_goes_on(client: MlflowClient,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(corpus: Corpus, config: Config) -> GPT:
        model = new_model(corpus, config)
        if corpus.name == "changes":
            model.embedding.weight.data.fill_(float("inf"))
        return model

    new_model = loop.new_model
    monkeypatch.setattr(loop, "new_model", spoil)
    result = CliRunner().invoke(study, LIGHT, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    line = ("the training of changes seed 1 diverged: its loss is not finite from step 0 on "
            "(learning rates 0.02 of matrices, 0.01 of the rest)")
    assert f"Left out: {line}." in result.output and f"{line}; it is left out" in result.stderr
    assert {model.name for model in client.search_registered_models()} == {"nanogpt-readme"}
    experiment = client.get_experiment_by_name("light")
    assert experiment
    status = {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}
    assert status["train changes"] == "FAILED" and set(status.values()) == {"FAILED", "FINISHED"}
    result = CliRunner().invoke(train, ["--domain", "changes=changes.txt", "--domains", "readme=readme.txt",
                                        "--preset", "smoke", "--max-steps", "8", "--device", "cpu"])
    assert result.exit_code == 2 and line in result.stderr.splitlines()[-1]
