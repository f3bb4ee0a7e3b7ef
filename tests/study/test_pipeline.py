"""A whole study through a real `mlflow run`, and what a user does with its store afterwards."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.entities import Run
from support import HAS_REPOSITORY, QUIET, ROOT

from nanogpt.commands.adapt import adapt
from nanogpt.commands.analyze import analyze
from nanogpt.commands.evaluate import evaluate
from nanogpt.commands.generate import generate
from nanogpt.commands.registry import registry as registry_command
from nanogpt.commands.train import train
from nanogpt.commands.transfer import transfer
from nanogpt.commands.tune import tune
from nanogpt.config import make_config
from nanogpt.report import page as report
from nanogpt.report.headlines import HEADLINES
from nanogpt.report.plots.vector import Drawing
from nanogpt.study import train as training_phase
from nanogpt.study.archive import read_study
from nanogpt.study.inputs import study_corpora
from nanogpt.study.views import study_views
from nanogpt.tracking import environment, registry
from nanogpt.tracking import run as tracking
from nanogpt.tracking.finished import find_study
from nanogpt.tracking.views import metric, tag
from nanogpt.training import loop as training

DOMAINS = make_config().data.domain_specs
ALIASES = {"early", "mid", "late", "final", "best"}


def runs(client: MlflowClient, phase: str) -> list[Run]:
    experiment = client.get_experiment_by_name("domains")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], f"tags.phase = '{phase}'", max_results=500)


def call(command, *arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output + result.stderr
    return result


def test_progress_is_shown_and_the_summary_says_where_to_look(store: Path) -> None:
    progress, summary = (store / "stderr").read_text(), (store / "stdout").read_text()
    for number in range(1, 6):
        assert re.search(rf"^\[{number}/5\] .* · \d+ s so far{' · about .* left' if number > 1 else ''}$", progress,
                         re.MULTILINE)
    assert re.search(r"step \d+/60 · loss \d\.\d+ nats .* characters/s · \d+ s left", progress)
    done, report, view, model, note = summary.rstrip().splitlines()[-5:]
    assert re.fullmatch(r"Study of shakespeare, wikipedia, math: 15 checkpoints in \d+ s\.", done)
    assert Path(report.split(maxsplit=2)[2]).is_file()
    assert "mlflow ui" in view and f"viewStateShareKey={study_views(DOMAINS)[0].key}" in view
    assert "mlflow.pyfunc.load_model('models:/nanogpt-shakespeare@late')" in model and "nanogpt registry" in note


def test_runs_are_nested_finished_and_named(client: MlflowClient) -> None:
    (study,) = runs(client, "study")
    children = {phase: runs(client, phase) for phase in ("train", "evaluate", "transfer", "analyze")}
    assert [len(found) for found in children.values()] == [3, 3, 3 + 3 * 2 * 2, 1]
    for run in (run for found in children.values() for run in found):
        assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
    tuned = runs(client, "tune")
    assert {run.data.tags["stage"] for run in tuned} == {"scratch", "early", "late"} and not runs(client, "trial")
    for run in tuned:
        trials = pd.read_csv(f"{run.info.artifact_uri}/tables/trials.csv")
        best = trials.loc[trials["validation_bits_per_byte"].idxmin(), "learning_rate"]
        assert len(trials) == 2 and run.data.metrics["tune/best_learning_rate"] == pytest.approx(best)
    for run in (study, *tuned, *(run for found in children.values() for run in found)):
        assert run.info.status == "FINISHED"
    assert {run.info.run_name for run in children["train"]} == {f"train {name}" for name in DOMAINS}


def test_a_training_run_holds_metrics_by_step_checkpoints_and_its_configuration(client: MlflowClient) -> None:
    for run in runs(client, "train"):
        run_id = run.info.run_id
        history = client.get_metric_history(run_id, "validation/bits_per_byte")
        steps = sorted({metric.step for metric in history})
        assert steps[0] == 0 and steps[-1] == 60
        by_step = {metric.step: metric.value for metric in history}
        assert by_step[60] < by_step[0]
        names = [Path(item.path).name for item in client.list_artifacts(run_id, "checkpoints")]
        assert names == ["final.pt", *(f"iter_{step:06d}.pt" for step in steps[:-1])]
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="checkpoints/final.pt")
        assert torch.load(path, weights_only=True)["step"] == 60
        config = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.json"))
        assert config["preset"] == "smoke" and config["model"]["n_embd"] == int(run.data.params["n_embd"]) == 32
        assert [d.dataset.name for d in run.inputs.dataset_inputs] == [run.data.tags["domain"]]


def test_every_checkpoint_is_scored_on_every_domain_and_is_ranked_in_one_call(client: MlflowClient) -> None:
    (study,) = runs(client, "study")
    frame = pd.read_csv(f"{study.info.artifact_uri}/tables/zero_shot.csv")
    assert len(frame) == len(frame.drop_duplicates(["source", "step", "target"])) == 3 * 5 * 3
    last = frame[frame["step"] == 60].pivot(index="target", columns="source", values="bits_per_byte")
    assert (last.idxmin(axis=1) == last.index).all(), "each domain's own model is the best on its text"
    ranked = mlflow.search_logged_models(
        experiment_ids=[study.info.experiment_id], output_format="list",
        order_by=[{"field_name": "metrics.validation/bits_per_byte", "ascending": True}])
    assert len(ranked) == 15 + 6, "the adapted models have another metric and come last"
    values = [next(m.value for m in model.metrics if m.key == "validation/bits_per_byte") for model in ranked[:15]]
    assert values == sorted(values)


def test_registered_versions_are_checkpoints_with_aliases(client: MlflowClient) -> None:
    for domain in DOMAINS:
        model = client.get_registered_model(f"nanogpt-{domain}")
        assert model.aliases.keys() == ALIASES
        found = registry.versions(model.name)
        assert len({version.tags["sha256"] for version in found}) == len(found) == 5
        for version in found:
            checkpoint = registry.load(f"models:/{model.name}/{version.version}")
            assert checkpoint.sha256 == version.tags["sha256"] and str(checkpoint.step) == version.tags["step"]
            assert checkpoint.domain == version.tags["domain"] == domain
        steps = [registry.load(f"models:/{model.name}@{alias}").step for alias in ("early", "mid", "late", "final")]
        assert steps == sorted(steps) and steps[-1] == 60


def test_the_best_adapted_model_of_each_pair_is_registered_with_its_parent(client: MlflowClient) -> None:
    (study,) = runs(client, "study")
    transfers = pd.read_csv(f"{study.info.artifact_uri}/tables/transfers.csv")
    assert len(transfers) == (3 + 3 * 2 * 2) * 2 and set(transfers["view"]) == {"tuned", "fixed"}
    for source, target in itertools.permutations(DOMAINS, 2):
        best = client.get_model_version_by_alias(f"nanogpt-{source}-to-{target}", "best")
        assert f"models:/nanogpt-{source}-to-{target}@best" in client.get_registered_model(best.name).description
        parent = registry.load(best.tags["parent"])
        adapted = registry.load(f"models:/{best.name}@best")
        assert parent.domain == source and adapted.notes["parent_sha256"] == parent.sha256


def test_adapt_answers_from_the_registered_models_alone(client: MlflowClient) -> None:
    result = call(adapt, "--preset", "smoke", "--domains", "shakespeare,math", "--trials", "1", "--transfer-seeds", "3",
                  "--transfer-steps", "2")
    assert "Adapted at the tuned (everywhere the fixed) learning rate" in result.output    # one trial: the middle rate
    (run,) = runs(client, "adapt")
    tables = {name: pd.read_csv(f"{run.info.artifact_uri}/tables/{name}.csv")
              for name in ("transfers", "transfer_measures", "stage_comparisons")}
    assert len(tables["transfers"]) == (2 + 2 * 2) * 2 * 3 and set(tables["transfer_measures"]["seeds"]) == {3}
    assert set(tables["stage_comparisons"]["pairs"]) == {2}
    assert "figures/stage_differences.png" in {item.path for item in client.list_artifacts(run.info.run_id, "figures")}


def test_a_model_loads_by_name_in_a_fresh_process_elsewhere(store: Path, tmp_path: Path) -> None:
    program = ("import mlflow; print(mlflow.pyfunc.load_model('models:/nanogpt-shakespeare@late').predict(['ROMEO:'], "
               "params={'max_new_tokens': 100, 'temperature': 0.8, 'seed': 1}))")
    environment = os.environ | QUIET | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    (text,) = eval(done.stdout)
    assert text.startswith("ROMEO:") and len(text) == len("ROMEO:") + 100


def test_the_study_keeps_tables_figures_and_a_report(client: MlflowClient) -> None:
    (study,) = runs(client, "study")
    tables = {Path(item.path).stem for item in client.list_artifacts(study.info.run_id, "tables")}
    assert tables == {"corpora", "excerpts", "training", "zero_shot", "generations", "top_characters", "transfers",
                      "transfer_curves", "trials", "transfer_measures", "stage_comparisons", "attribution",
                      "breakdown", "reliability", "baselines", "distances", "leakage", "comparisons",
                      "zero_shot_means", "specialisation", "writing", "attribution_summary", "faithfulness",
                      "deletion_curves",
                      "method_agreement", "attribution_domains", "attribution_words"}
    ahead = pd.read_csv(f"{study.info.artifact_uri}/tables/comparisons.csv")
    assert len(ahead) == 4 * 3 * 3 and (ahead["ahead_low"] <= ahead["ahead_bits_per_byte"]).all()
    attribution = pd.read_csv(f"{study.info.artifact_uri}/tables/attribution.csv", keep_default_na=False)
    assert {"model", "domain", "step", "prompt", "position", "character", "target", "probability",
            "score", "share", "method", "unknown"} <= set(attribution.columns)
    norms = attribution[attribution["method"] == "gradient_norm"]
    assert set(attribution["domain"]) == set(DOMAINS) and (norms["score"].astype(float) >= 0).all()
    assert norms[["domain", "step"]].drop_duplicates().shape[0] == 15, "every checkpoint is read"
    excerpts = pd.read_csv(f"{study.info.artifact_uri}/tables/excerpts.csv")
    assert set(excerpts["domain"]) == set(DOMAINS) and excerpts["text"].str.len().min() > 40
    corpora = pd.read_csv(f"{study.info.artifact_uri}/tables/corpora.csv")
    assert corpora["used_bytes"].max() < 1.02 * corpora["used_bytes"].min()
    report = Path(mlflow.artifacts.download_artifacts(run_id=study.info.run_id, artifact_path="report.html"))
    assert all(name in report.read_text("utf-8") for name in DOMAINS)
    assert "Findings" in study.data.tags["mlflow.note.content"]
    assert {name for name in study.data.metrics if name.startswith("study/")} == {f"study/{name}" for name in HEADLINES}
    others = client.search_runs([study.info.experiment_id], max_results=500)
    assert {run.data.tags["phase"] for run in others if not run.data.tags.get("mlflow.note.content")} <= {"trial"}
    address = study.data.tags.get("mlflow.source.git.repoURL", "")
    assert address.startswith("git://127.0.0.1:") == HAS_REPOSITORY
    introduction = client.get_experiment(study.info.experiment_id).tags["mlflow.note.content"]
    for view in study_views(DOMAINS):
        assert f"({view.page(study.info.experiment_id)[1:]})" in introduction
        found = client.search_runs([study.info.experiment_id], view.state()["searchFilter"])
        columns = set().union(*([metric(name) for name in run.data.metrics] + [tag(name) for name in run.data.tags]
                                for run in found))
        assert found and set(view.columns) <= columns, view.title


def test_an_experiment_that_says_what_it_is_keeps_its_words(client: MlflowClient) -> None:
    mlflow.set_experiment("with a note")
    note, words = "mlflow.note.content", []
    with tracking.open_run("note") as run:
        for said in ("first", "second", "third"):
            run.introduce(said)
            words.append(client.get_experiment(run.experiment_id).tags[note])
            if said == "second":
                client.set_experiment_tag(run.experiment_id, note, words[-1].replace("second", "second, and mine"))
    assert [text.partition("\n")[0] for text in words] == ["first", "second", "second, and mine"]


def test_a_package_that_is_missing_is_left_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config, find = make_config("smoke"), environment.find_spec
    whole = environment.environment(config)
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "gensim" else find(name))
    monkeypatch.setattr(environment, "versions", environment.versions.__wrapped__)     # once in a process
    assert whole.keys() - environment.environment(config).keys() == {"gensim"}


def test_evaluate_scores_a_model_on_the_users_own_text(client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "recipes.txt").write_text("Boil the water, then add the rice and a pinch of salt.\n" * 40)
    result = call(evaluate, "--models", "models:/nanogpt-math@late", "--preset", "smoke", "--domains",
                  "math,recipes=recipes.txt")
    assert "recipes" in result.output and "bits_per_byte" in result.output


def test_generate_answers_and_says_which_characters_it_does_not_know(client: MlflowClient) -> None:
    result = call(generate, "--model", "models:/nanogpt-math@final", "--prompt", "Let ☃ be", "--preset", "smoke")
    assert result.stdout.startswith("Let ☃ be") and "'☃'" in result.stderr


def test_tune_and_transfer_leave_a_study_curves_and_an_adapted_model(client: MlflowClient, tmp_path: Path) -> None:
    shared = ["--source", "models:/nanogpt-shakespeare@early", "--target", "math", "--preset", "smoke", "--storage",
              "mlruns/optuna.journal"]
    best = re.search(r"best learning rate of 2 trials: (\S+)", call(tune, *shared).output)
    assert best and (tmp_path / "mlruns" / "optuna.journal").is_file()
    call(transfer, *shared)
    run = max(runs(client, "transfer"), key=lambda run: run.info.start_time)
    assert float(best[1]) == pytest.approx(run.data.metrics["tune/best_learning_rate"], rel=1e-5)
    artifacts = {item.path for folder in ("tables", "figures", "checkpoints")
                 for item in client.list_artifacts(run.info.run_id, folder)}
    assert {"tables/transfer_curves.csv", "tables/trials.csv", "figures/learning_curves.png",
            "figures/trials_by_learning_rate.png", "checkpoints/adapted.pt"} <= artifacts
    uri = f"runs:/{run.info.run_id}/checkpoints/adapted.pt"
    assert registry.load(uri).domain == "shakespeare-to-math"


def test_a_checkpoint_file_is_a_model_too_and_a_given_rate_is_taken(client: MlflowClient) -> None:
    trained = runs(client, "train")[0].info.run_id
    uri = f"runs:/{trained}/checkpoints/iter_000030.pt"
    call(evaluate, "--models", uri, "--preset", "smoke", "--domains", "math")
    run = max(runs(client, "evaluate"), key=lambda run: run.info.start_time)
    assert {"tables/generations.csv", "tables/zero_shot.csv"} <= {
        item.path for item in client.list_artifacts(run.info.run_id, "tables")}
    call(transfer, "--source", uri, "--target", "math", "--preset", "smoke", "--rate", "0")
    run = max(runs(client, "transfer"), key=lambda run: run.info.start_time)
    assert run.info.run_name == "math@step 30 → math"
    row = pd.read_csv(f"{run.info.artifact_uri}/tables/transfers.csv").iloc[0]
    assert row["trials"] == 0 and row["test_bits_per_byte"] == pytest.approx(row["zero_shot_bits_per_byte"], rel=1e-12)


@pytest.mark.slow
def test_a_killed_training_goes_on_in_its_run_and_ends_with_the_same_bits(client: MlflowClient, store: Path) -> None:
    settings = {"preset": "smoke", "max_steps": 150, "seed": 2, "state_seconds": 0.0}
    command = [sys.executable, "-m", "entrypoints.train", "--domain", "math"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    experiment = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "domains"}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | QUIET | experiment, stderr=subprocess.DEVNULL)
    while not (found := [run.info.run_id for run in runs(client, "train") if run.data.params.get("seed") == "2"]) or (
            max((m.step for m in client.get_metric_history(found[0], "train/loss_nats")), default=0) < 40):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9 and client.get_run(found[0]).info.status == "RUNNING"

    call(train, "--resume", found[0])
    config = make_config(**settings)
    whole = list(training.train(study_corpora(config)["math"], config))
    assert client.get_run(found[0]).info.status == "FINISHED" and not client.list_artifacts(found[0], "states")
    stored = {source.checkpoint.step: source.checkpoint.sha256 for source, _ in training_phase.logged_before(
        tracking.TrackedRun(found[0], client.get_run(found[0]).info.experiment_id, ""))}
    assert stored == {record.step: record.checkpoint.sha256 for record in whole if record.checkpoint}
    losses = {m.step: m.value for m in client.get_metric_history(found[0], "train/loss_nats")}
    assert losses == {record.step: record.loss_nats for record in whole if record.loss_nats is not None}


def test_a_users_text_extends_the_vocabulary(client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "recetas.txt").write_text("Añade la sal y una piña; el niño la pela mañana.\n" * 60)
    call(transfer, "--source", "models:/nanogpt-math@late", "--target", "recetas=recetas.txt", "--preset", "smoke",
         "--shots", "2", "--trials", "1", "--fine-tune", "head", "--extend-vocabulary", "true")
    adapted, parent = (registry.load(f"models:/nanogpt-math{name}") for name in ("-to-recetas@best", "@late"))
    assert set(adapted.vocabulary.characters) - set(parent.vocabulary.characters) == {"ñ"}
    assert all(len(adapted.weights[name]) == len(parent.weights[name]) + 1 for name in ("head.weight",
                                                                                        "embedding.weight"))


def test_analyze_reads_the_users_prompts(client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("To be or not\nLet x be ☃\n")
    models = "models:/nanogpt-shakespeare@early,models:/nanogpt-shakespeare@late"
    result = call(analyze, "--models", models, "--prompts", "prompts.txt", "--preset", "smoke",
                  "--methods", "gradient_norm", "--contrastive", "yes", "--attribute-of", "log_probability")
    assert "'☃'" in result.stderr
    run = max(runs(client, "analyze"), key=lambda run: run.info.start_time)
    frame = pd.read_csv(f"{run.info.artifact_uri}/tables/attribution.csv", keep_default_na=False)
    assert set(frame["prompt"]) == {"To be or not", "Let x be ☃"} and set(frame["model"]) == set(models.split(","))
    assert set(frame["method"]) == {"gradient_norm", "leave_one_out", "recency", "random"}
    assert set(frame.loc[frame["unknown"], "character"]) == {"☃"}
    worth = pd.read_csv(f"{run.info.artifact_uri}/tables/faithfulness.csv")
    assert {"faithfulness/shakespeare/random/comprehensiveness", "attribution/shakespeare/entropy_nats"} <= set(
        run.data.metrics) and len(worth) == 2 * 4
    assert {item.path for item in client.list_artifacts(run.info.run_id, "figures")} >= {
        "figures/attribution_map_01.png", "figures/attribution_map_02.png"}


def test_the_report_is_made_anew_from_the_store_alone(client: MlflowClient) -> None:
    run = find_study("latest")
    assert run == find_study(run.id)
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.id, artifact_path="figures"))
    drawn = {path.stem: Drawing(path.read_bytes(), "<svg></svg>") for path in folder.iterdir()}
    logged = mlflow.artifacts.load_text(f"runs:/{run.id}/report.html")
    logged, pictures = re.subn("<svg.*?</svg>", "<svg></svg>", logged, flags=re.DOTALL)
    assert pictures == len(drawn)
    page = read_study(run)
    assert sorted(report.render(page, drawn).splitlines()) == sorted(logged.splitlines())
    assert set(page.table("transfers")["run_id"]) == {found.info.run_id for found in below(client, run.id, "transfer")}
    with pytest.raises(ValueError, match="study must be the run id of a finished study"):
        find_study("nothing")


def test_every_version_is_what_the_registry_says_of_it(client: MlflowClient) -> None:
    result = CliRunner().invoke(registry_command, ["--action", "verify", "--model", "math"])
    lines = [line for line in result.output.splitlines() if line.startswith("nanogpt-math ")]
    assert len(lines) >= 5 and all(line.endswith(" · ok") for line in lines)
    number = client.get_model_version_by_alias("nanogpt-math", "early").version
    client.set_model_version_tag("nanogpt-math", str(number), "bits_per_byte", "1.0000")
    result = CliRunner().invoke(registry_command, ["--action", "promote", "--model", "models:/nanogpt-math@early",
                                                   "--alias", "late"])
    assert result.exit_code == 2 and "recorded 1.0000" in result.stderr
    assert client.get_model_version_by_alias("nanogpt-math", "late").version != number


def below(client: MlflowClient, study: str, phase: str) -> list[Run]:
    return [run for run in runs(client, phase) if run.data.tags.get("mlflow.parentRunId") == study]


def test_runs_say_what_and_where(client: MlflowClient) -> None:
    (study,) = runs(client, "study")
    trainings = below(client, study.info.run_id, "train")
    for run in (study, *trainings, *below(client, study.info.run_id, "evaluate")):
        assert (run.data.tags["preset"], run.data.tags["seed"]) == ("smoke", "1")
        assert run.data.tags["mlflow.note.content"]
        environment = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/environment.json")
        assert {"processor", "cores", "memory", "torch", "mlflow", "git_commit"} <= environment.keys()
    for run in trainings:
        assert len(run.data.tags["corpus_sha256"]) == len(run.data.tags["vocabulary_sha256"]) == 64
    assert any(name.startswith("system/") for name in study.data.metrics)


def test_a_checkpoints_scores_are_linked_to_the_texts_that_they_were_read_from(client: MlflowClient) -> None:
    training = below(client, runs(client, "study")[0].info.run_id, "train")[0]
    model = client.get_logged_model(training.outputs.model_outputs[0].model_id)
    read = {metric.key: metric.dataset_name for metric in model.metrics}
    assert read["validation/bits_per_byte"] == model.tags["domain"]
    assert all(read[f"zero_shot/{name}/bits_per_byte"] == name for name in DOMAINS)


def test_an_adapted_model_stands_below_its_parent(client: MlflowClient) -> None:
    source = "models:/nanogpt-wikipedia@mid"
    call(transfer, "--source", source, "--target", "math", "--preset", "smoke", "--rate", "0.01")
    adapted = max(registry.versions("nanogpt-wikipedia-to-math"), key=lambda version: int(version.version))
    assert adapted.tags["parent"] == registry.version_of(source).uri and adapted.tags["learning_rate"] == "0.01"
    lines = call(registry_command).output.splitlines()
    (at,) = [i for i, line in enumerate(lines) if f"nanogpt-wikipedia-to-math {adapted.version}" in line]
    assert "mid" in lines[at - 1] and "└── " in lines[at]
