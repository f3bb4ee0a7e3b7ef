"""The registry: idempotent, drawn as a tree, and no alias without a reload that scores the same."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import mlflow
import pytest
import torch
from click.testing import CliRunner, Result
from support import log_file

import nanogpt
from nanogpt.commands.registry import registry as command
from nanogpt.config import Config
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.study import verify as verification
from nanogpt.text.corpus import Corpus
from nanogpt.tracking import registry
from nanogpt.tracking.registry import Version
from nanogpt.tracking.run import open_run

NAME = "nanogpt-shakespeare"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_native_checkpoints_load_by_name(models: str, trained: Checkpoint) -> None:
    loaded = nanogpt.load(f"models:/{NAME}@late")
    assert (loaded.sha256, loaded.step, loaded.vocabulary) == (trained.sha256, trained.step, trained.vocabulary)
    ids_BT = torch.arange(8)[None]
    assert torch.equal(loaded.build()(ids_BT), trained.build()(ids_BT))


def test_identical_weights_are_registered_once(models: str, trained: Checkpoint) -> None:
    before = registry.catalogue()
    with open_run("again") as run:
        model_id = registry.log_model(trained, log_file(run, trained), {}, run.id)
        (uri,) = registry.register([registry.ToRegister(trained, model_id, {"bits_per_byte": "4.0000"})], run.id)
    assert registry.catalogue() == before and uri == registry.version_of(f"models:/{NAME}@late").uri


def test_of_two_that_register_the_same_at_once_the_first_version_stays(
        models: str, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def see_none_at_first(name: str) -> dict[tuple[str, str], list[int]]:
        monkeypatch.setattr(registry, "version_numbers", version_numbers)
        return {}

    version_numbers, own = registry.version_numbers, dataclasses.replace(trained, domain="raced")
    with open_run("several") as run:
        ids = [registry.log_model(own, log_file(run, own), {"step": own.step}, run.id) for _ in range(2)]
        uris = set()
        for model_id in ids:
            monkeypatch.setattr(registry, "version_numbers", see_none_at_first)
            uris |= set(registry.register([registry.ToRegister(own, model_id, {})], run.id))
    assert uris == {"models:/nanogpt-raced/1"}
    assert [version.version for version in registry.versions("nanogpt-raced")] == [1]


def test_an_alias_waits_for_a_reload_that_scores_the_same(models: str, trained: Checkpoint, tiny_config: Config,
                                                          corpora: dict[str, Corpus]) -> None:
    split, uri = corpora["shakespeare"].validation, registry.version_of(f"models:/{NAME}@late").uri
    score = verification.rescore(trained, split, tiny_config)
    with pytest.raises(ValueError, match="must score the recorded"):
        verification.promote({uri: score + 0.01}, {"best": uri}, split, tiny_config)
    assert "best" not in mlflow.MlflowClient().get_registered_model(NAME).aliases
    verification.promote({uri: score}, {"best": uri, "final": uri}, split, tiny_config)
    assert set(registry.version_of(uri).aliases) >= {"late", "best", "final"}


def test_a_tag_that_is_no_number_is_none() -> None:
    tags = {"bits_per_byte": "2.5", "step": "three"}
    assert registry.number_in(tags, "bits_per_byte") == 2.5
    assert math.isnan(registry.number_in(tags, "step")) and math.isnan(registry.number_in(tags, "seed"))


def test_best_is_the_lowest_score_on_the_newest_versions_text(models: str, checkpoints: list[Checkpoint]) -> None:
    scored = [("math[:10] sha256:a", "3.0000"), ("math[:10] sha256:b", "2.0000"), ("math[:99] sha256:a", "1.0000"),
              ("math[:10] sha256:a", "3.5000"), ("math[:10] sha256:a", "2.5000")]
    bests = []
    with open_run("scores") as run:
        for checkpoint, (scored_on, bits) in zip(checkpoints, scored, strict=True):
            adapted = dataclasses.replace(checkpoint, domain="scores")
            model_id = registry.log_model(adapted, log_file(run, adapted), {}, run.id)
            tags = {"scored_on": scored_on, "bits_per_byte": bits}
            best = registry.best_of(*registry.register([registry.ToRegister(adapted, model_id, tags)], run.id))
            bests.append(registry.version_of(best).tags["bits_per_byte"])
    assert bests == ["3.0000", "2.0000", "1.0000", "3.0000", "2.5000"]


def test_a_digest_that_a_person_wrote_does_no_harm(models: str, checkpoints: list[Checkpoint]) -> None:
    with open_run("hand") as run:
        own = [dataclasses.replace(checkpoint, domain="hand") for checkpoint in checkpoints[:2]]
        logged = [registry.ToRegister(each, registry.log_model(each, log_file(run, each), {}, run.id),
                                      {"scored_on": "t[:1]", "bits_per_byte": bits})
                  for each, bits in zip(own, ("3.0000", "2.0000"), strict=True)]
        uris = registry.register(logged, run.id)
    mlflow.MlflowClient().set_model_version_tag("nanogpt-hand", "2", "sha256", own[0].sha256)
    assert registry.best_of(uris[1]) == uris[1] == "models:/nanogpt-hand/2"


@pytest.mark.parametrize("alias", ["a b", "latest", "v1", "a" * 500, "ä/b"])
def test_an_alias_that_mlflow_does_not_take_is_refused(models: str, alias: str) -> None:
    with pytest.raises(UserError, match="alias must be a name that MLflow takes"):
        registry.set_alias(registry.version_of(f"models:/{NAME}@late").uri, alias)


def version(name: str, number: int, parent: str = "", **tags: str) -> Version:
    return Version(name, number, "run", {"step": str(number), "parent": parent, **tags}, ())


def test_the_tree_shows_adapted_models_below_their_parents() -> None:
    versions = [version("a", 1), version("a", 2, bits_per_byte="2.5"), version("a-to-b", 1, "models:/a/1"),
             version("c", 1, "models:/gone/7")]
    assert registry.tree(versions).splitlines() == [
        "a", "├── 1 · step 1", "│   └── a-to-b 1 · step 1", "└── 2 · step 2 · 2.5 bits per byte",
        "c", "└── 1 · step 1"]


def test_list_and_export_from_the_command_line(models: str, trained: Checkpoint, tmp_path: Path) -> None:
    shown, catalogue = call().stdout.splitlines(), registry.catalogue()
    assert NAME in shown and len(shown) == len({version.name for version in catalogue}) + len(catalogue)
    assert re.search(rf"└── \d · step {trained.step} · 4.0000 bits per byte · .*late", shown[-1])
    written = call("--action", "export", "--model", f"models:/{NAME}@late").output.strip()
    assert Path(written).parent == tmp_path and nanogpt.load(written).sha256 == trained.sha256


@pytest.mark.parametrize(("arguments", "message"), [
    (["--action", "promote", "--model", f"models:/{NAME}@late"], "alias must be given to promote"),
    (["--action", "promote", "--model", f"models:/{NAME}/99", "--alias", "x"], "must be a registered version"),
    (["--action", "promote", "--model", f"models:/{NAME}@late", "--alias", "x"], "config.json"),
    (["--action", "export"], "model must be given to export"),
    (["--action", "export", "--model", "models:/nothing@late"], "model must exist in the registry"),
    (["--action", "export", "--model", f"models:/{NAME}@late", "--output", "."], "output must be a file"),
    (["--action", "export", "--model", f"models:/{NAME}@late", "--output", "/proc/x"], "output must be a file"),
    (["--action", "verify", "--model", "cooking"], "model must be a part of a registered name"),
    (["--action", "verify"], "that are not")])
def test_what_is_refused_is_one_line(models: str, arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.stderr.splitlines()[-1]
