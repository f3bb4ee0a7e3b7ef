"""Cells: the units of work of a study, each known by a digest of all that its result depends on.

A cell's result is kept in its own run: rows as JSON, whose floats come back as they were, large tables as Parquet,
tensors beside them. A study that was stopped reads the cells that are whole back from the store and does the others.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import nanogpt
from nanogpt.config import GROUPS, Config
from nanogpt.model.device import resolve_device
from nanogpt.study.tables import PER_CHARACTER, Tables
from nanogpt.text.corpus import Corpus
from nanogpt.tracking.resumption import StoredCell, cell_above
from nanogpt.tracking.run import CELL, WHOLE, TrackedRun, open_run
from nanogpt.tracking.scratch import scratch_path

log = logging.getLogger("nanogpt")

SCIENCE = ("text", "model", "training", "evaluation", "attribution", "transfer")
"""The wings on whose code numbers depend."""
WITHOUT_EFFECT = {"data": ("cache",), "train": ("state_seconds",), "transfer": ("storage",)}
"""Settings that change no number."""
MATTERING = {"train": ("data", "model", "train", "analysis")}
"""The groups of settings that a kind of cell depends on, where not on all."""
FOLDER = "cell"
"""The folder of a run's artifacts in which the result of its cell is kept."""
ROWS = "rows.json"


@dataclass
class Cells:
    """The cells that earlier processes of a study have begun, and those that this one has read back or goes on with."""

    stored: Mapping[str, StoredCell] = field(default_factory=dict)
    owner: str = ""         # id of the study's run: its Optuna studies are its own, whoever asks the same
    reused: list[str] = field(default_factory=list)
    continued: list[str] = field(default_factory=list)

    def find(self, digest: str) -> StoredCell | None:
        """Find a cell that was begun; in a worker also by one that has died since the study went on."""
        return cell_above(digest) or self.stored.get(digest)

    def whole(self, digest: str) -> TrackedRun | None:
        """Give the run that holds the whole result of a cell."""
        stored = self.find(digest)
        return stored.run if stored and stored.is_whole else None

    def begun(self, digest: str) -> TrackedRun | None:
        """Give the run of a cell that was stopped on its way."""
        stored = self.find(digest)
        return stored.run if stored and not stored.is_whole else None

    def reuse(self, run: TrackedRun) -> None:
        log.info("      %s: read back from the store", run.name)
        self.reused.append(run.name)

    @property
    def sentence(self) -> str:
        """Say for people what was not done anew; '' for a study that was never stopped."""
        if not self.stored:
            return ""
        went_on = f", {', '.join(self.continued)} went on where it was stopped" if self.continued else ""
        return f"The study had been stopped: {len(self.reused)} finished parts were read back from the store{went_on}."


@functools.cache
def science_version() -> str:
    """Return a digest of the code that numbers depend on, and of torch's version."""
    digest, root = hashlib.sha256(str(torch.__version__).encode()), Path(nanogpt.__file__).parent
    for file in sorted(file for wing in SCIENCE for file in (root / wing).glob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def cell_digest(kind: str, config: Config, corpora: Iterable[Corpus], *inputs: Any) -> str:
    """Return the digest of a cell: its kind, code, settings, texts, device, and further inputs (as their digests)."""
    without = {"preset", "cells", *(GROUPS.keys() - set(MATTERING.get(kind, GROUPS)))}
    settings = {name: value for name, value in asdict(config).items() if name not in without}
    for group in WITHOUT_EFFECT.keys() & settings.keys():
        settings[group] = {name: value for name, value in settings[group].items() if name not in WITHOUT_EFFECT[group]}
    texts = [[corpus.name, corpus.source.sha256, len(corpus.train), corpus.vocabulary.sha256] for corpus in corpora]
    parts = [kind, science_version(), settings | {"device": resolve_device(config.device).type}, texts, inputs]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_cell(cells: Cells, name: str, digest: str, work: Callable[[TrackedRun, Tables], None],
             config: Config, **tags: Any) -> tuple[TrackedRun, Tables]:
    """Do the work of a cell in a run of its own, or read its tables back where that was done; returns both.

    `work` fills the tables and logs what people want to see. The tables that come back are those that are kept, so they
    are the same whether a study was stopped or not.
    """
    if run := cells.whole(digest):
        cells.reuse(run)
        return run, kept_tables(run)
    with open_run(name, config, **{CELL: digest}, **tags) as run:
        tables = Tables()
        work(run, tables)
        return run, keep(run, tables)


def keep(run: TrackedRun, tables: Tables) -> Tables:
    """Keep the tables as the result of a run's cell, which is whole from now on; returns them as they are kept."""
    folder = scratch_path(FOLDER)
    folder.mkdir()
    large = {name: tables.frame(name) for name in {*tables.parts, *PER_CHARACTER} if len(tables.frame(name))}
    rows = json.dumps({name: rows for name, rows in tables.rows.items() if name not in large}, default=plain)
    (folder / ROWS).write_text(rows)
    for name, frame in large.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    run.folder(folder, FOLDER)
    run.tags({WHOLE: "yes"})
    kept = Tables()
    for name, as_kept in json.loads(rows).items():
        kept.add(name, as_kept)
    for name, frame in large.items():
        kept.add_frame(name, frame)
    return kept


def plain(value: Any) -> Any:
    """Turn a number of numpy or torch into one of Python, for JSON."""
    return value.item()


def kept_tables(run: TrackedRun) -> Tables:
    """Read the tables of a whole cell back."""
    tables = Tables()
    with run.download(FOLDER) as folder:
        for name, rows in json.loads((folder / ROWS).read_text()).items():
            tables.add(name, rows)
        for path in sorted(folder.glob("*.parquet")):
            tables.add_frame(path.stem, pd.read_parquet(path))
    return tables
