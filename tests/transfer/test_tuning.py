"""The journal of trials: read as it was written or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nanogpt.config import Config
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus
from nanogpt.transfer.tuning import Trial, open_storage, open_study, study_name, tune


@pytest.fixture
def config(tiny_config: Config) -> Config:
    settings = replace(tiny_config.transfer, trials=3, transfer_steps=2, curve_points=1, curve_characters=64)
    return replace(tiny_config, transfer=settings)


def tuned(trained: Checkpoint, corpus: Corpus, config: Config, journal: Path) -> list[Trial]:
    pair = (trained, corpus)
    (trials,) = tune([open_study(study_name([pair], "tuned", config), str(journal))], [[pair]], config)
    return trials


@pytest.fixture
def journal(trained: Checkpoint, corpora: dict[str, Corpus], config: Config, tmp_path: Path) -> Path:
    tuned(trained, corpora["math"], config, tmp_path / "journal")
    return tmp_path / "journal"


@pytest.mark.parametrize(("name", "change"), [
    ("values", lambda values: [values[0] - 1]), ("intermediate_value", lambda value: value + 0.25),
    ("user_attr", lambda attribute: {name: "0" * 64 for name in attribute})])
def test_a_changed_trial_is_not_used(name: str, change, journal: Path, trained: Checkpoint,
                                     corpora: dict[str, Corpus], config: Config) -> None:
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    at = max(i for i, line in enumerate(lines) if line.get(name))
    lines[at][name] = change(lines[at][name])
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"storage must hold trials as they were written .*, got 'trial 2 of tuned-"):
        tuned(trained, corpora["math"], config, journal)


def test_half_a_line_is_left_out_and_the_study_goes_on(journal: Path, trained: Checkpoint,
                                                       corpora: dict[str, Corpus], config: Config) -> None:
    whole = tuned(trained, corpora["math"], config, journal)
    content = journal.read_bytes()
    journal.write_bytes(content[:-20])
    again = tuned(trained, corpora["math"], config, journal)
    assert [(t.learning_rate, t.validation_bits_per_byte) for t in again] == [
        (t.learning_rate, t.validation_bits_per_byte) for t in whole]


@pytest.mark.parametrize("content", [b"dear diary", b"dear\ndiary", b"{}\n{", b"[1]\n", b"\xff\n", b"\0" * 99])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "diary").write_bytes(content)
    with pytest.raises(UserError, match="storage must be a journal file or the URL of a database that answers, got"):
        open_storage(str(tmp_path / "diary"))
    assert (tmp_path / "diary").read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["diary"]
