"""What every phase of a study takes and fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanogpt.config import Config
from nanogpt.report.plots.vector import Drawing
from nanogpt.study.cells import Cells, cell_digest
from nanogpt.study.engine import Engine, LocalEngine
from nanogpt.study.inputs import StudiedModel, read_prompts
from nanogpt.study.tables import Tables
from nanogpt.text.corpus import Corpus
from nanogpt.tracking.run import TrackedRun

DEFAULT_SEED = Config().seed


@dataclass
class Study:
    """A study under way. Each phase reads `models` and `corpora` and adds its rows to `tables`."""

    config: Config
    corpora: Mapping[str, Corpus]
    models: list[StudiedModel] = field(default_factory=list)    # the training phase adds those that it trains
    tables: Tables = field(default_factory=Tables)
    drawn: dict[str, Drawing] = field(default_factory=dict)       # figures of whole tables that a phase has drawn, PNG
    resume: Mapping[tuple[str, int], str] = field(default_factory=dict)     # domain and seed to the run of a training
    left_out: list[str] = field(default_factory=list)       # trainings that diverged, in words
    cells: Cells = field(default_factory=Cells)
    compared_stages: tuple[str, ...] = ()           # whose models every attribution method reads; none: all
    size: str = ""          # of the models where they are one of several sizes: then none is registered
    engine: Engine = field(default_factory=LocalEngine)
    known_prompts: Sequence[tuple[str, str]] = ()   # those of the process that handed the study to this one

    def __getstate__(self) -> dict[str, Any]:
        """Give what a worker needs for a cell: not the results, and the prompts, whose file it may not have."""
        kept = ("config", "corpora", "resume", "compared_stages", "size")
        return vars(Study(known_prompts=self.prompts, cells=Cells(owner=self.cells.owner),
                          **{name: getattr(self, name) for name in kept}))

    @property
    def prompts(self) -> list[tuple[str, str]]:
        """Read (domain, prompt), the same for all models."""
        return list(self.known_prompts) or read_prompts(self.config, self.corpora)

    def digest(self, kind: str, *inputs: object) -> str:
        """Return the digest of a cell that depends on all settings, texts and prompts, and on `inputs`."""
        return cell_digest(kind, self.config, self.corpora.values(), self.prompts, *inputs)

    def add(self, run: TrackedRun, tables: Tables) -> None:
        """Take the result of a cell, and the link to its run."""
        self.tables.links[run.name] = run.link
        self.tables.add_all(tables)

    def leave_out_untrained(self) -> None:
        """Go on without the domains of which no training ended well."""
        trained = {model.domain for model in self.models}
        self.corpora = {name: corpus for name, corpus in self.corpora.items() if name in trained}

    def is_read_wholly(self, model: StudiedModel) -> bool:
        """Tell whether a model writes and is attributed: of a study those of the first seed, else all."""
        return not self.compared_stages or model.seed == self.models[0].seed


def seed_suffix(seed: int) -> str:
    """Name the seed of a training at the end of a run's name, unless it is the default or not known."""
    return "" if seed in (DEFAULT_SEED, -1) else f" · seed {seed}"


Phase = Callable[[Study], None]
"""The one signature of all phases."""
