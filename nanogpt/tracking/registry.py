"""Checkpoints as registered versions, and back."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from itertools import groupby
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.utils.validation import _validate_model_alias_name, _validate_model_alias_name_reserved

from nanogpt.config import STAGE_SHARES
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from nanogpt.model.safetensors_io import load_safetensors
from nanogpt.serving import pyfunc as serving
from nanogpt.serving.bundle import Bundle, write_bundle
from nanogpt.tracking import cards
from nanogpt.tracking.download import downloaded
from nanogpt.tracking.new_store import create_missing_store
from nanogpt.tracking.own_words import is_ours, marked
from nanogpt.tracking.scratch import scratch_folder, scratch_path
from nanogpt.tracking.store_errors import again_if_beaten, suppress_code

log = logging.getLogger("nanogpt")

PACKAGES = ("torch", "mlflow")    # pandas and numpy come with MLflow; each one named costs time at every checkpoint

DATA = "data"
"""The folder of a model in which MLflow keeps its file."""

SCORED_ON = "scored_on"
"""The tag that says which validation text a version's score was read from: domain, characters, digest."""

MOST_OPEN_RUNS = 1024
"""Trainings that are logged side by side and more."""

SEED = "-seed-"
"""Stands in the aliases of all seeds but the first: `late-seed-2`."""


def model_name(domain: str) -> str:
    return f"nanogpt-{domain}"


def log_model(checkpoint: Checkpoint, path: Path, tags: Mapping[str, Any], run_id: str) -> str:
    """Log the checkpoint file at `path`, which is used up, as a model of a run; returns the id of the logged model.

    These are the steps of `mlflow.pyfunc.log_model`, which logs to the run that was opened last and takes no other,
    asks the model for an answer, and reads the history of every metric of the run for each checkpoint. A version is
    loaded and scored when it is promoted; the metrics of a checkpoint are logged with its model.
    """
    client = mlflow.MlflowClient()
    logged = mlflow.initialize_logged_model(
        cards.logged_name(checkpoint, tags), run_id, {tag: str(value) for tag, value in tags.items()},
        dict(parameters_of(run_id)))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, checkpoint.step)])
    folder = write_model(path, logged, run_id)
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    shutil.rmtree(folder)
    return str(logged.model_id)


def write_model(path: Path, logged: LoggedModel, run_id: str) -> Path:
    """Write the folder of an MLflow model of the checkpoint file at `path`, which moves there; returns the folder.

    `mlflow.pyfunc.save_model` needs 40 ms for what is the same for every checkpoint: it writes one, and each is a copy.
    """
    folder = scratch_path(logged.model_id)
    saved = saved_model(served_code())
    shutil.copytree(saved, folder)
    (placeholder,) = (folder / DATA).iterdir()
    placeholder.unlink()
    shutil.move(path, folder / DATA / path.name)
    model = copy.deepcopy(described_model(saved))
    model.artifact_path, model.run_id = logged.artifact_location, run_id
    model.model_id = model.model_uuid = logged.model_id
    model.utc_time_created = str(datetime.now(UTC).replace(tzinfo=None))
    model.flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.DATA] = f"{DATA}/{path.name}"
    model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    model.save(str(folder / MLMODEL_FILE_NAME))
    return folder


@functools.cache
def saved_model(code: Bundle) -> Path:
    """Save an MLflow model of an empty checkpoint file, once in a process; returns its folder."""
    folder, placeholder = scratch_path("model"), scratch_path("placeholder.pt")
    placeholder.touch()
    mlflow.pyfunc.save_model(
        str(folder), loader_module=code.loader.stem, data_path=str(placeholder),
        code_paths=[str(file) for file in code],
        signature=serving.SIGNATURE, input_example=serving.EXAMPLE,
        pip_requirements=[f"{package}=={installed(package)}" for package in PACKAGES])
    return folder


@functools.cache
def described_model(folder: Path) -> Model:
    """Read what a saved model says of itself."""
    return Model.load(str(folder / MLMODEL_FILE_NAME))


@functools.lru_cache(maxsize=MOST_OPEN_RUNS)
def parameters_of(run_id: str) -> Mapping[str, str]:
    """Read the parameters of a run, which are logged when it is opened: each of its models has them too."""
    return mlflow.MlflowClient().get_run(run_id).data.params


@functools.cache
def served_code() -> Bundle:
    """Write the code that travels with every model, once in a process."""
    return write_bundle("serving.pyfunc", "_load_pyfunc", Path(scratch_folder()))


@dataclass(frozen=True)
class ToRegister:
    """A checkpoint that was logged as a model, and the tags that its version gets."""

    checkpoint: Checkpoint
    model_id: str
    tags: Mapping[str, Any]

    @property
    def version_tags(self) -> dict[str, str]:
        tags = {tag: str(value) for tag, value in self.tags.items()}
        sha256, step = self.identity
        return {"domain": self.checkpoint.domain, "sha256": sha256, "step": step} | tags

    @property
    def identity(self) -> tuple[str, str]:
        """Give what two checkpoints of one version share: digest and step."""
        return self.checkpoint.sha256, str(self.checkpoint.step)


def register(logged: Sequence[ToRegister], run_id: str) -> list[str]:
    """Register logged models of one domain and run, each once: identical weights keep their version. Returns the URIs.

    Of several processes that register the same weights at once each may make a version: all but the first is removed
    by whoever made it, or, where that was killed, by the next one.
    """
    domain = logged[0].checkpoint.domain
    name, client = model_name(domain), mlflow.MlflowClient()
    make_registered_model(name, domain)
    remove_damaged(name, logged)
    numbers = version_numbers(name)
    if new := [model for model in logged if model.identity not in numbers]:
        for model in new:
            again_if_beaten(functools.partial(
                client.create_model_version, name, source=f"models:/{model.model_id}", model_id=model.model_id,
                run_id=run_id, description=cards.version_card(model.checkpoint, model.tags, model.model_id),
                tags=model.version_tags))
        numbers = version_numbers(name)
    for number in (number for model in logged for number in numbers[model.identity][1:]):
        with suppress_code("RESOURCE_DOES_NOT_EXIST"):
            client.delete_model_version(name, str(number))
    return [f"models:/{name}/{numbers[model.identity][0]}" for model in logged]


def remove_damaged(name: str, logged: Sequence[ToRegister]) -> None:
    """Remove the versions that these models would share, but for their own, and whose files no longer hold them."""
    expected, own = {model.identity for model in logged}, {f"models:/{model.model_id}" for model in logged}
    for version in versions(name):
        if (version.tags.get("sha256"), version.tags.get("step")) in expected and version.source not in own:
            try:
                load(f"models:/{name}/{version.version}")
            except CheckpointError as error:
                log.warning("version %s of %s is registered anew: %s", version.version, name, error)
                with suppress_code("RESOURCE_DOES_NOT_EXIST"):
                    mlflow.MlflowClient().delete_model_version(name, str(version.version))


def version_numbers(name: str) -> dict[tuple[str, str], list[int]]:
    """List the numbers of the versions of each digest and step, the first made first."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for version in versions(name):
        numbers.setdefault((version.tags.get("sha256", ""), version.tags.get("step", "")), []).append(
            int(version.version))
    return {identity: sorted(of_identity) for identity, of_identity in numbers.items()}


def make_registered_model(name: str, domain: str) -> None:
    """Make the registered model of a domain, unless it is there by now."""
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        with suppress_code("RESOURCE_ALREADY_EXISTS"):
            client.create_registered_model(name, tags={"domain": domain},
                                           description=marked(cards.model_card(name, domain, [])))


def forget_logged(model_id: str) -> None:
    """Delete a logged model, as the UI does: MLflow keeps its files until they are collected."""
    mlflow.MlflowClient().delete_logged_model(model_id)


def logged_models(run_id: str, experiment_id: str) -> list[tuple[str, Mapping[str, str]]]:
    """List id and tags of each model that a run has logged wholly."""
    models = mlflow.search_logged_models([experiment_id], f"source_run_id = '{run_id}'", output_format="list")
    return [(model.model_id, model.tags) for model in models if model.status == LoggedModelStatus.READY]


def settle(domain: str, uri: str) -> None:
    """Point `best` at the best version, and write the card anew, when all trainings of a domain have ended.

    Each training has done so by itself, by what others had registered by then.
    """
    set_alias(best_of(uri), "best")
    write_card(model_name(domain))


def write_card(name: str) -> None:
    """Write the description of a registered model anew, with the aliases of its first seed; a person's words stay."""
    client = mlflow.MlflowClient()
    model, by_number = client.get_registered_model(name), {str(version.version): version for version in versions(name)}
    domain = model.tags.get("domain", name)
    if is_ours(model.description):
        scores = [(alias, by_number[str(number)].tags) for alias, number in model.aliases.items()
                  if str(number) in by_number and SEED not in alias]     # a database may hold 5000 characters
        scores.sort(key=lambda score: (number_in(score[1], "step"), score[0] == "best"))
        client.update_registered_model(name, marked(cards.model_card(name, domain, scores)))


def versions(name: str, rule: str = "") -> Sequence[Any]:
    """List the versions of a registered model, those alone that a rule of MLflow's search lets through."""
    rules = " and ".join(filter(None, (f"name = '{name}'", rule)))
    return list(mlflow.MlflowClient().search_model_versions(rules))


def untrained(domain: str) -> str:
    """Find the newest registered version of step 0. UserError where there is none."""
    numbers = [int(version.version) for version in versions(model_name(domain)) if version.tags.get("step") == "0"]
    if not numbers:
        raise UserError(f"{model_name(domain)} must have a registered version of step 0, got none ({known_models()})")
    return f"models:/{model_name(domain)}/{max(numbers)}"


def set_alias(uri: str, alias: str) -> None:
    """Point an alias at the version `models:/<name>/<version>`; a stage is written on the version as a tag too.

    UserError where MLflow takes no alias of this name.
    """
    _, name, number = uri.split("/")
    client = mlflow.MlflowClient()
    check_alias(alias)
    again_if_beaten(lambda: client.set_registered_model_alias(name, alias, number))
    stage, _, _ = alias.partition(SEED)
    if stage in STAGE_SHARES:
        seed = client.get_model_version(name, number).tags.get("seed")
        for version in versions(name, f"tags.stage = '{stage}'"):
            if version.tags.get("seed") == seed and str(version.version) != number:
                with suppress_code("RESOURCE_DOES_NOT_EXIST"):
                    client.delete_model_version_tag(name, str(version.version), "stage")
        again_if_beaten(lambda: client.set_model_version_tag(name, number, "stage", stage))


def check_alias(alias: str) -> None:
    """Raise UserError where MLflow takes no alias of this name."""
    try:
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
    except MlflowException as error:
        reason = error.message.splitlines()[0]
        raise UserError(f"alias must be a name that MLflow takes, got {alias!r} ({reason})") from error


def number_in(tags: Mapping[str, str], name: str) -> float:
    """Read a number of a version's tags, which anybody may change in the UI; NaN where it is none."""
    try:
        return float(tags[name])
    except (KeyError, ValueError):
        return math.nan


def best_of(uri: str) -> str:
    """Find the version of the lowest `bits_per_byte` of this version and those that were scored on the same text.

    Scores on other texts, or on other lengths of one, say nothing of each other (`scored_on`): the newest version's
    text decides. Of equal scores the newest counts, of equal weights the oldest: `register` removes the others.
    """
    _, name, number = uri.split("/")
    every = sorted(versions(name), key=lambda version: int(version.version))
    (scored_on,) = (version.tags.get(SCORED_ON) for version in every if str(version.version) == number)
    oldest: dict[tuple[str, str], Any] = {}
    for version in every:
        identity = (version.tags.get("sha256", f"version {version.version}"), version.tags.get("step", ""))
        oldest.setdefault(identity, version)
    scores = [(number_in(version.tags, "bits_per_byte"), -int(version.version)) for version in oldest.values()
              if version.tags.get(SCORED_ON) == scored_on]
    scores = [score for score in scores if math.isfinite(score[0])]
    return f"models:/{name}/{-min(scores, default=(0.0, -int(number)))[1]}"


def load(uri: str) -> Checkpoint:
    """Load a checkpoint: `models:/nanogpt-math@late`, `models:/…/3`, `runs:/<id>/checkpoints/final.pt` or a path.

    UserError where there is none, CheckpointError where it is damaged.
    """
    if not uri.startswith(("models:/", "runs:/")):
        return load_safetensors(uri) if uri.endswith(".safetensors") else load_checkpoint(uri)
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(downloaded(uri))
        except (MlflowException, OSError) as error:
            raise UserError(f"model must exist in the registry or a run, got {uri!r} ({known_models()})") from error
        files = [local] if local.is_file() else sorted(local.rglob("*.pt"))
        if len(files) != 1:
            raise CheckpointError(f"model must hold one checkpoint, got {len(files)} in {uri!r}")
        return load_checkpoint(files[0], uri)


@dataclass(frozen=True)
class Version:
    """A registered checkpoint as the registry describes it."""

    name: str
    number: int
    run_id: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"

    @property
    def line(self) -> str:
        """"3 · step 15 · 5.1234 bits per byte · early, best"."""
        parts = [str(self.number), f"step {self.tags.get('step', '?')}"]
        if score := self.tags.get("bits_per_byte"):
            parts.append(f"{score} bits per byte")
        return " · ".join([*parts, *filter(None, [", ".join(self.aliases)])])


def catalogue() -> list[Version]:
    """List all registered checkpoints, by name and number."""
    create_missing_store()
    models = mlflow.search_registered_models(filter_string="name LIKE 'nanogpt-%'")
    catalogued = [Version(model.name, int(version.version), version.run_id or "", version.tags,
                     tuple(sorted(a for a, number in model.aliases.items() if int(number) == int(version.version))))
             for model in models for version in versions(model.name)]
    return sorted(catalogued, key=lambda version: (version.name, version.number))


def version_of(uri: str) -> Version:
    """Find the version behind `models:/<name>@<alias>` or `models:/<name>/<number>`. UserError where there is none."""
    for version in catalogue():
        if uri in (version.uri, *(f"models:/{version.name}@{alias}" for alias in version.aliases)):
            return version
    raise UserError(f"model must be a registered version, got {uri!r} ({known_models()})")


def tree(catalogued: Sequence[Version]) -> str:
    """Draw versions below their model, or below the version that they were adapted from."""
    uris = {version.uri for version in catalogued}
    roots = [version for version in catalogued if version.tags.get("parent") not in uris]

    def draw(versions: Sequence[Version], indent: str, *, named: bool) -> Iterator[str]:
        for version in versions:
            last = version is versions[-1]
            yield f"{indent}{'└── ' if last else '├── '}{f'{version.name} ' if named else ''}{version.line}"
            children = [child for child in catalogued if child.tags.get("parent") == version.uri]
            yield from draw(children, indent + ("    " if last else "│   "), named=True)

    return "\n".join(line for name, group in groupby(roots, key=lambda version: version.name)
                     for line in (name, *draw(list(group), "", named=False)))


def known_models() -> str:
    """List what a mistyped name may have meant."""
    try:
        models = mlflow.MlflowClient().search_registered_models(max_results=20)
    except MlflowException as error:
        return str(error).splitlines()[0]
    if not models:
        return "nothing is registered here yet"
    return "registered: " + ", ".join(f"{m.name} @ {', '.join(sorted(m.aliases)) or 'no alias'}" for m in models)
