"""Checkpoints: whole, verified, never overwritten, readable by torch alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.config import ModelConfig
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_of
from nanogpt.model.gpt import GPT, count_weights
from nanogpt.model.payload import DIGEST, atomic_path, save_payload
from nanogpt.text.corpus import Corpus
from nanogpt.text.vocabulary import Vocabulary


@pytest.fixture
def path(trained: Checkpoint, tmp_path: Path) -> Path:
    return save_checkpoint(trained, tmp_path / "checkpoints" / trained.file_name)


def change_file(path: Path, **changes: Any) -> None:
    torch.save(torch.load(path, weights_only=True) | changes, path)


def changed_weights(path: Path) -> dict[str, torch.Tensor]:
    weights = torch.load(path, weights_only=True)["model"]
    weights["head.weight"][3, 4] += 1e-6
    return weights


def test_what_is_read_is_what_was_written(trained: Checkpoint, path: Path) -> None:
    found = load_checkpoint(path)
    assert (found.domain, found.step, found.model_config) == (trained.domain, trained.step, trained.model_config)
    assert found.vocabulary == trained.vocabulary and dict(found.notes) == dict(trained.notes)
    assert torch.equal(found.character_counts_V, trained.character_counts_V)
    assert found.weights.keys() == trained.weights.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in trained.weights.items())
    assert found.sha256 == trained.sha256 and load_checkpoint(str(path)).sha256 == trained.sha256


def test_the_names_say_step_and_domain(trained: Checkpoint) -> None:
    assert replace(trained, step=500).file_name == "iter_000500.pt"
    assert replace(trained, step=500).title == "shakespeare step 500"


@torch.no_grad()
def test_a_built_model_predicts_as_the_trained_one_did(trained: Checkpoint, path: Path,
                                                       corpora: dict[str, Corpus]) -> None:
    ids_BT = corpora["wikipedia"].test.ids_N[:64].long().view(2, 32)
    first, second = trained.build(), load_checkpoint(path).build()
    assert not first.training and torch.equal(first(ids_BT), second(ids_BT))
    first.head.weight.add_(1)
    assert torch.equal(trained.build()(ids_BT), second(ids_BT))     # a model is a copy


def test_weights_are_a_copy(trained: Checkpoint) -> None:
    model = trained.build()
    weights = weights_of(model)
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(weights["head.weight"], trained.weights["head.weight"])
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_building_moves_no_global_random_stream(trained: Checkpoint) -> None:
    before = torch.get_rng_state()
    trained.build()
    assert torch.equal(torch.get_rng_state(), before)


def test_torch_alone_reads_a_checkpoint(trained: Checkpoint, path: Path) -> None:
    stored = torch.load(path, weights_only=True)
    assert {"model", "config", "vocabulary", "step", "domain"} <= stored.keys()
    assert stored["vocabulary"] == list(trained.vocabulary.characters)
    assert stored["vocabulary_sha256"] == trained.vocabulary.sha256
    assert stored["sha256"] == trained.sha256 and len(stored["sha256"]) == 64


def test_the_digest_changes_with_everything_that_an_evaluation_reads(trained: Checkpoint) -> None:
    head = trained.weights["head.weight"]
    nudged = {**trained.weights, "head.weight": torch.nextafter(head, torch.full_like(head, 9.0))}
    swapped = "".join(sorted(trained.vocabulary.characters[:-1] + "\U0010fffd"))
    different = [replace(trained, weights=nudged), replace(trained, vocabulary=Vocabulary(swapped)),
                 replace(trained, model_config=replace(trained.model_config, n_head=1)),
                 replace(trained, character_counts_V=trained.character_counts_V + 1)]
    assert len({trained.sha256, *(other.sha256 for other in different)}) == 5
    copied = {name: tensor.clone() for name, tensor in reversed(trained.weights.items())}
    same = replace(trained, weights=copied, step=1, notes={})
    assert same.sha256 == trained.sha256


def test_a_transposed_weight_has_another_digest_even_where_its_memory_is_the_same(trained: Checkpoint) -> None:
    head = trained.weights["head.weight"]
    transposed = replace(trained, weights={**trained.weights, "head.weight": head.mT.contiguous().mT})
    assert transposed.sha256 == trained.sha256
    assert replace(trained, weights={**trained.weights, "head.weight": head.mT}).sha256 != trained.sha256


def test_a_checkpoint_is_never_overwritten(trained: Checkpoint, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="a checkpoint is never overwritten"):
        save_checkpoint(replace(trained, step=1), path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_failing_write_leaves_nothing(trained: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(payload: object, where: Path) -> None:
        Path(where).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(trained, tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []


def test_an_atomic_file_appears_whole_and_as_any_other_file(tmp_path: Path) -> None:
    path, plain = tmp_path / "new" / "a.txt", tmp_path / "plain.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists() and temporary.parent == path.parent
    plain.write_text("")
    assert path.read_text() == "all of it" and os.listdir(path.parent) == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def forge(path: Path, **changes: Any) -> None:
    """Change parts of a file and give it the digest of all of it: only what a part means can be wrong."""
    payload = {name: part for name, part in torch.load(path, weights_only=True).items() if name != DIGEST} | changes
    path.unlink()
    save_payload(payload, path, numbers=False)


@pytest.mark.parametrize("change", ["weights", "n_head", "vocabulary", "character_counts", "sha256", "step", "domain",
                                    "notes"])
def test_a_changed_file_is_refused(path: Path, change: str) -> None:
    stored = torch.load(path, weights_only=True)
    changes: dict[str, Any] = {
        "weights": {"model": changed_weights(path)}, "n_head": {"config": stored["config"] | {"n_head": 1}},
        "vocabulary": {"vocabulary": [*stored["vocabulary"][:-1], "\U0010fffd"]},
        "character_counts": {"character_counts": stored["character_counts"] * 0}, "sha256": {"sha256": "0" * 64},
        "step": {"step": 47}, "domain": {"domain": "math"}, "notes": {"notes": stored["notes"] | {"seed": 2}}}[change]
    change_file(path, **changes)
    with pytest.raises(UserError, match=r"must have (its|their) recorded SHA-256 \w{12}…, got \w{12}…") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["weights", "n_head", "vocabulary", "character_counts", "sha256"])
def test_a_file_of_an_earlier_version_is_read_by_the_digest_that_it_has(path: Path, change: str) -> None:
    stored = torch.load(path, weights_only=True)
    del stored[DIGEST]
    torch.save(stored, path)
    assert load_checkpoint(path).step == stored["step"]
    change_file(path, **{
        "weights": {"model": changed_weights(path)}, "n_head": {"config": stored["config"] | {"n_head": 1}},
        "vocabulary": {"vocabulary": [*stored["vocabulary"][:-1], "\U0010fffd"]},
        "character_counts": {"character_counts": stored["character_counts"] * 0}, "sha256": {"sha256": "0" * 64},
    }[change])
    with pytest.raises(UserError, match="SHA-256"):
        load_checkpoint(path)


def laughs(levels: int) -> Any:
    value: Any = "ha"
    for _ in range(levels):
        value = [value] * 10
    return value


HOSTILE: dict[str, Any] = {
    "wide": {"config": {"n_embd": 10**6}}, "deep": {"config": {"n_layer": 10**4}}, 
    "far": {"config": {"block_size": 10**9}}, "long": {"config": {"block_size": 65_536, "n_layer": 1000}},
    "no number": {"config": {"n_layer": 2.0}},
    "true": {"config": {"n_head": True}}, "more": {"config": {"code": "x"}}, "none": {"config": None},
    "path": {"domain": "../../etc/passwd"}, "list": {"domain": ["math"]}, "line": {"domain": "math\nmath"},
    "before": {"step": -1}, "half": {"step": 2.5}, "late": {"step": 2**60}, "seed": {"notes": {"seed": "one"}},
    "split": {"notes": {"split": "all"}}, "nested": {"notes": {"seed": 1, "more": [1]}}, "listed": {"notes": []},
    "laughs": {"notes": {"ha": laughs(9)}}, "twice": {"vocabulary": ["a", "a"]}, "half a character":
    {"vocabulary": ["\ud800"]}, "numbers": {"vocabulary": [1, 2]}, "empty": {"vocabulary": []}, "digest": {"sha256": 3}}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_agrees_with_itself_and_with_no_training_is_refused(path: Path, name: str) -> None:
    stored = torch.load(path, weights_only=True)
    changes = {part: stored[part] | value if part == "config" and value else value
               for part, value in HOSTILE[name].items()}
    change_file(path, **changes)
    if name != "laughs":     # whose digest would take its writer as long
        forge(path)
    began = time.process_time()
    with pytest.raises(UserError, match="checkpoint must be a file written by save_checkpoint, got '") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800 and time.process_time() - began < 2


WRONG_WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": lambda w: w * torch.nan, "inf": lambda w: w.index_fill(0, torch.tensor([1]), torch.inf),
    "half": lambda w: w.half(), "double": lambda w: w.double(), "whole": lambda w: w.long(), "turned": lambda w: w.mT,
    "flat": lambda w: w.flatten(), "short": lambda w: w[:-1].clone(), "one": lambda w: torch.ones(1),
    "huge": lambda w: torch.ones(1, 1).expand(10**6, 10**6), "sparse": lambda w: w.to_sparse()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [*WRONG_WEIGHTS, "missing", "added", "renamed"])
def test_weights_that_are_not_the_models_are_refused(path: Path, name: str) -> None:
    weights = torch.load(path, weights_only=True)["model"]
    head = weights.pop("head.weight")
    if name in WRONG_WEIGHTS:
        weights["head.weight"] = WRONG_WEIGHTS[name](head)
    elif name != "missing":
        weights |= {"added": {"head.weight": head, "tail.weight": head[:0]}, "renamed": {"head": head}}[name]
    if name in ("huge", "sparse"):
        change_file(path, model=weights)
    else:
        forge(path, model=weights)
    with pytest.raises(UserError, match="checkpoint must be a file written by save_checkpoint, got '"):
        load_checkpoint(path)


def test_a_file_that_swells_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="larger than it looks"):
        load_checkpoint(path)


def test_weights_that_are_not_finite_are_never_written(trained: Checkpoint, tmp_path: Path) -> None:
    broken = replace(trained, weights={**trained.weights, "head.weight": trained.weights["head.weight"] * torch.nan})
    with pytest.raises(UserError, match=r"weights of shakespeare step 48 must be finite, got \['head.weight'\]"):
        save_checkpoint(broken, tmp_path / "broken.pt")
    assert os.listdir(tmp_path) == []


def test_the_weights_are_counted_without_a_model(trained: Checkpoint) -> None:
    for shape in (trained.model_config, ModelConfig(n_layer=1, n_head=1, n_embd=6, block_size=3)):
        model = GPT(shape, 11)
        assert count_weights(shape, 11) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100), b"\x80\x04."])
def test_a_foreign_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint must be a file written by save_checkpoint, got '") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


class Code:
    """What unpickling would have to run code for."""


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("stored", [{"model": {}}, [1, 2], torch.zeros(3), Code()])
def test_what_torch_saved_of_something_else_is_refused_in_one_line(tmp_path: Path, stored: object) -> None:
    path = tmp_path / "foreign.pt"
    torch.save(stored, path)
    with pytest.raises(ValueError, match="checkpoint must be a file written by save_checkpoint, got '") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["sha256", "character_counts", "config", "model", "notes"])
def test_a_file_that_lacks_a_part_is_refused_in_one_line(path: Path, missing: str) -> None:
    stored = torch.load(path, weights_only=True)
    del stored[missing]
    torch.save(stored, path)
    with pytest.raises(ValueError, match="checkpoint must be a file written by save_checkpoint, got '"):
        load_checkpoint(path)


def test_a_cut_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="checkpoint must be a file written by save_checkpoint"):
        load_checkpoint(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ValueError, match="checkpoint must be an existing file, got '"):
            load_checkpoint(path)


def test_checkpoints_can_be_kept_in_sets_and_shown(checkpoints: list[Checkpoint]) -> None:
    assert len(set(checkpoints)) == len(checkpoints) and checkpoints[0] != checkpoints[1]
    assert len(repr(checkpoints[0])) < 2000


def test_building_draws_nothing_and_trains_without_the_compiler() -> None:
    """torch._dynamo takes seconds to import; nothing before `compile` needs it."""
    code = """if True:
        import sys, torch
        from nanogpt.model.checkpoint import Checkpoint, weights_of
        from nanogpt.config import make_config
        from nanogpt.text.vocabulary import Vocabulary
        from nanogpt.model.gpt import GPT
        from nanogpt.training.optimizer import make_optimizers
        config, vocabulary = make_config("smoke"), Vocabulary("ab")
        model = GPT(config.model, len(vocabulary))
        optimizers = make_optimizers(model, config.train)
        model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.zero_grad()
        before = torch.get_rng_state()
        built = Checkpoint("x", 0, config.model, vocabulary, weights_of(model), torch.zeros(3)).build()
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(a, b) for a, b in zip(built.parameters(), model.parameters(), strict=True))
        sys.exit('torch._dynamo' in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
