"""Files that were damaged: each is refused in one line, or proved to say what it said before.

Half of the damage is done where a file says what it holds (pickle, directory, header, JSON), where it is noticed least.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from nanogpt.config import Config
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nanogpt.model.safetensors_io import load_safetensors, save_safetensors
from nanogpt.text.cache import CleanedText, cached_text
from nanogpt.text.corpus import Corpus
from nanogpt.text.vocabulary import Vocabulary
from nanogpt.training.loop import train
from nanogpt.training.state import TrainingState, load_state, save_state
from nanogpt.transfer.tuning import open_study, study_name, tune

KINDS = ("checkpoint", "safetensors", "state", "cleaned text", "journal")
SEED = 20_261


def plain(value: Any) -> Any:
    """All of a value in plain types, tensors as type, shape and bytes: equal ones are the same to the last bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def said_by(checkpoint: Checkpoint) -> Any:
    return plain([checkpoint.domain, checkpoint.step, str(checkpoint.model_config), checkpoint.vocabulary.characters,
                  dict(checkpoint.weights), checkpoint.character_counts_V, dict(checkpoint.notes)])


def said_by_state(state: TrainingState) -> Any:
    return plain([state.step, state.seconds, state.weights, state.identity, [o["state"] for o in state.optimizers]])


class Files:
    """One file of each kind, and how it is read."""

    def __init__(self, trained: Checkpoint, corpus: Corpus, config: Config, folder: Path) -> None:
        self.folder, self.trained, self.corpus = folder, trained, corpus
        settings = replace(config.transfer, trials=3, transfer_steps=2, curve_points=1, curve_characters=64)
        self.config = replace(config, transfer=settings)
        self.readers: dict[str, Callable[[Path], Any]] = {
            "checkpoint": lambda path: said_by(load_checkpoint(path)),
            "safetensors": lambda path: said_by(load_safetensors(path)),
            "state": lambda path: said_by_state(load_state(path)),
            "cleaned text": lambda path: self.cleaned(), "journal": self.trials}
        records = train(corpus, config)
        save_state(next(record for record in records if record.step == 10).state(), folder / "state")
        save_checkpoint(trained, folder / "checkpoint")
        save_safetensors(trained, folder / "safetensors")
        self.cleaned()
        dead = {"host": socket.gethostname(), "pid": 2**30, "started": 0.0}     # of a process that is no more
        with mock.patch("nanogpt.transfer.tuning.this_process", return_value=dead):
            self.trials(folder / "journal")
        self.content = {kind: self.path(kind).read_bytes() for kind in KINDS}
        self.said = {kind: self.readers[kind](self.path(kind)) for kind in KINDS}

    def path(self, kind: str) -> Path:
        return next(self.folder.glob("cleaned-*")) if kind == "cleaned text" else self.folder / kind

    def cleaned(self) -> CleanedText:
        text = "To be, or not to be, that is the question:\n" * 60
        return cached_text(self.folder, "play", "origin", lambda: CleanedText(text, (0, 430), "0" * 64, 2580))

    def trials(self, path: Path) -> Any:
        pair = (self.trained, self.corpus)
        (trials,) = tune([open_study(study_name([pair], "tuned", self.config), str(path))], [[pair]], self.config)
        rates = sorted((t.learning_rate, t.validation_bits_per_byte, t.last_bits_per_byte, t.state) for t in trials)
        return rates

    def outcome(self, kind: str, content: bytes) -> str:
        """Read a damaged file of a kind; AssertionError where it says anything else, or in more than a line."""
        path = self.path(kind)
        path.write_bytes(content)
        try:
            found = self.readers[kind](path)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 900
            return "refused"
        finally:
            path.write_bytes(self.content[kind])
        assert found == self.said[kind], f"a damaged {kind} was used"
        return "harmless"


def damaged(content: bytes, count: int, choice: random.Random) -> Iterator[bytes]:
    """Damage a file `count` times: one bit in four of five, a cut in the fifth."""
    edges = [*range(min(3000, len(content))), *range(max(0, len(content) - 3000), len(content))]
    for number in range(count):
        at = choice.choice(edges) if number % 2 else choice.randrange(len(content))
        if number % 5 == 4:
            yield content[:at]
        else:
            changed = bytearray(content)
            changed[at] ^= 1 << choice.randrange(8)
            yield bytes(changed)


@pytest.fixture(scope="module")
def files(trained: Checkpoint, corpora: dict[str, Corpus], tiny_config: Config,
          tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(trained, corpora["math"], tiny_config, tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("count", [6, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_harmless(kind: str, count: int, files: Files) -> None:
    outcomes = [files.outcome(kind, content)
                for content in damaged(files.content[kind], count, random.Random(f"{SEED} {kind}"))]
    print(f"{kind}: {outcomes.count('refused')} refused, {outcomes.count('harmless')} harmless")


@pytest.mark.slow
def test_every_bit_of_a_checkpoints_pickle(files: Files, trained: Checkpoint, tmp_path: Path) -> None:
    """A small model, so that there are few bits: of a vocabulary of two characters."""
    rows = {name: trained.weights[name][:3].clone() for name in ("embedding.weight", "head.weight")}
    small = replace(trained, vocabulary=Vocabulary("ab"), weights={**trained.weights, **rows},
                    character_counts_V=torch.tensor([1, 2, 3]))
    path = save_checkpoint(small, tmp_path / "small.pt")
    content, said = path.read_bytes(), said_by(load_checkpoint(path))
    begin = content.index(b"\x80\x02}q\x00")
    end = content.index(b".PK", begin) + 1
    outcomes = []
    for at in range(begin, end):
        for bit in range(8):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert said_by(load_checkpoint(path)) == said, f"bit {bit} of byte {at}"
                outcomes.append("harmless")
            except UserError as error:
                assert "\n" not in str(error)
                outcomes.append("refused")
    print(f"{end - begin} bytes: {outcomes.count('refused')} refused, {outcomes.count('harmless')} harmless")
