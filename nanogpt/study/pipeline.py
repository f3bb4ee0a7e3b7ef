"""The whole study: which phases follow one another, and what is published at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from nanogpt.config import Config
from nanogpt.report.findings import findings
from nanogpt.report.page import draw, render
from nanogpt.report.plots import transfer as figures_transfer
from nanogpt.report.plots.common import png
from nanogpt.report.tables import StudyTables
from nanogpt.study.attribute import analyze
from nanogpt.study.evaluate import evaluate_sources
from nanogpt.study.inputs import Source, read_prompts
from nanogpt.study.tables import Tables, log_tables
from nanogpt.study.train import train_domain
from nanogpt.study.transfer import Grid, grid_cells, measure
from nanogpt.text.corpus import Corpus, joint_corpus
from nanogpt.tracking import registry
from nanogpt.tracking.environment import environment
from nanogpt.tracking.run import Run, open_run
from nanogpt.transfer import tables as transfer_tables

log = logging.getLogger("nanogpt")

COMPARED_STAGES = ("early", "final")
"""Of which all attribution methods are compared and tested: each costs as much as reading all checkpoints by one."""

INTRODUCTION = ("Character-level GPTs of several domains: **[all runs]({page})** · **[curves of the trainings]"
                "({page}&compareRunsMode=CHART&searchFilter=tags.phase%3D%22train%22)** (the + before a study's name "
                "opens them) · the study's own run holds its findings and `report.html`")


def study_domains(corpora: Mapping[str, Corpus], config: Config) -> str:
    """All phases over all domains in one run with nested runs; returns a short summary for people."""
    trained = [*corpora.values(), *([joint_corpus(corpora)] if config.analysis.joint and len(corpora) > 1 else [])]
    tables, phases = Tables(), Phases(len(trained) + 4)
    name = f"study {', '.join(corpora)} · {config.preset} · seed {config.seed}"
    with open_run(name, config, phase="study") as run:
        run.introduce(INTRODUCTION.format(page=run.page[1:]))
        run.datasets(corpora, "study")
        tables.add("corpora", (corpus.row() for corpus in corpora.values()))
        sources: list[Source] = []
        for corpus in trained:
            phases.next(f"train {corpus.name}")
            sources += train_domain(corpus, config, tables)
        phases.next("zero-shot losses and confidence of every checkpoint on every domain")
        evaluate_sources(sources, corpora, config, tables)
        phases.next("few-shot transfer with tuned learning rates")
        Grid(config, tables).run(grid_cells(sources, corpora, config))
        measure(tables)
        phases.next("attribution")
        prompts = read_prompts(config, corpora)
        analyze(sources, prompts, config, tables, drawn=dict(prompts).values(), compared=COMPARED_STAGES)
        phases.next("tables, figures and report")
        found = publish(run, tables, config)
        return summary_text(run, found, sources, phases.seconds)


class Phases:
    """Says which phase of how many begins, and how long the study has run."""

    def __init__(self, count: int) -> None:
        self.count, self.number, self.began = count, 0, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def next(self, title: str) -> None:
        self.number += 1
        log.info("[%d/%d] %s · %.0f s so far", self.number, self.count, title, self.seconds)


def adapt_registered(sources: Sequence[Source], corpora: Mapping[str, Corpus], config: Config) -> str:
    """The grid of transfers alone, in one run with nested runs; returns what it says of the stages, for people."""
    tables, cells = Tables(), grid_cells(sources, corpora, config)
    name = f"adapt {', '.join(corpora)} · {config.transfer.grid_shots} shots · {config.transfer.transfer_seeds} seeds"
    with open_run(name, config, phase="adapt") as run:
        log.info("%d transfers, each with %d trials and %d fresh seeds at two learning rates", len(cells),
                 config.transfer.trials, config.transfer.transfer_seeds)
        Grid(config, tables).run(cells)
        measure(tables)
        log_tables(run, tables)
        for title, figure in figures_transfer.grid_figures(tables.frames()).items():
            run.bytes(png(figure), f"figures/{title}.png")
        found = list(transfer_tables.sentences(tables.frame("stage_comparisons")))
        run.describe("\n".join(f"- {sentence}" for sentence in found))
        return "\n".join([*found, "", f"Tables and figures: mlflow ui   (then http://127.0.0.1:5000{run.page})"])


def publish(run: Run, tables: Tables, config: Config) -> list[str]:
    """Tables, figures and the report of the whole study, at its own run; returns what was found, in sentences."""
    log_tables(run, tables)
    links = tables.links | {run.name: run.link}
    return publish_page(run, StudyTables(run.name, config.flat(), environment(config), tables.frames(), links))


def publish_page(run: Run, page: StudyTables) -> list[str]:
    """Figures and report of a study from its tables, at its run; returns what was found, in sentences."""
    drawn = draw(page)
    for name, image in drawn.items():
        run.bytes(image, f"figures/{name}.png")
    run.text(render(page, drawn), "report.html")
    found = findings(page)
    run.describe("\n".join(["### Findings", *(f"- {sentence}" for sentence in found),
                            "\nThe whole story is in the artifact `report.html`."]))
    return found


def summary_text(run: Run, found: Sequence[str], sources: Sequence[Source], seconds: float) -> str:
    """What a person reads at the end: what was found, and where to look."""
    domains = list(dict.fromkeys(source.checkpoint.domain for source in sources))
    example = f"models:/{registry.model_name(domains[0])}@late"
    lines = [f"Study of {', '.join(domains)}: {len(sources)} checkpoints in {seconds:.0f} s.", ""]
    lines += [f"  · {sentence}" for sentence in found]
    lines += ["", "Where to look:", f"  runs, models, figures   mlflow ui   (then http://127.0.0.1:5000{run.page})",
              f"  the report              {run.artifact('report.html')}",
              f"  a model by name         mlflow.pyfunc.load_model({example!r}).predict([\"The \"])"]
    return "\n".join(lines)
