"""The tables that the phases of a study fill, and how a run gets them and their figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from nanogpt.config import Config, Row
from nanogpt.report import figures
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.tables import StudyTables
from nanogpt.tracking.run import TrackedRun

PER_CHARACTER = ("attribution", "top_characters")
"""Tables with a row for each character of a prompt."""
SHOWN_ROWS = 2000
"""Most rows of a table that the MLflow UI shows; a larger one is logged as CSV alone."""


@dataclass
class Tables:
    """Rows by table, as they come; frames when they are asked for. `links` leads to the runs that they came from."""

    links: dict[str, tuple[str, str]] = field(default_factory=dict)
    rows: defaultdict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    parts: defaultdict[str, list[pd.DataFrame]] = field(default_factory=lambda: defaultdict(list))   # of large tables

    def add(self, name: str, rows: Iterable[Row]) -> None:
        self.rows[name].extend(rows)

    def add_frame(self, name: str, frame: pd.DataFrame) -> None:
        self.parts[name].append(frame)

    def add_all(self, other: Tables) -> None:
        for name, rows in other.rows.items():
            self.add(name, rows)
        for name, parts in other.parts.items():
            self.parts[name] += parts

    def frame(self, name: str) -> pd.DataFrame:
        """Give a table, from rows or from frames; one that got neither is empty."""
        if name not in self.parts:
            return pd.DataFrame(self.rows[name])
        if len(self.parts[name]) > 1:       # joined once
            self.parts[name] = [pd.concat(self.parts[name], ignore_index=True)]
        return self.parts[name][0]

    def frames(self) -> dict[str, pd.DataFrame]:
        return {name: self.frame(name) for name in [*self.rows, *self.parts]}


def log_tables(run: TrackedRun, tables: Tables, *, show: bool = True) -> None:
    """Log all tables in a run; the large ones, and all unless `show`, as CSV alone.

    A row says in which run it was first logged: `run_id`.
    """
    for name in tables.rows.keys() - set(PER_CHARACTER):
        for row in tables.rows[name]:
            row.setdefault("run_id", run.id)
    frames = tables.frames()
    run.tables(frames, [name for name, frame in frames.items() if show and len(frame) <= SHOWN_ROWS])


def log_figures(run: TrackedRun, tables: Tables, config: Config, phase: str) -> dict[str, Drawing]:
    """Log the figures of a phase, those whose tables are there; returns name to drawing."""
    images = figures.draw(StudyTables(run.name, config.flat(), {}, tables.frames()), phase)
    for name, image in images.items():
        run.bytes(image.png, f"figures/{name}.png")
    return images
