"""The whole study: the phases in their order, and what is published at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nanogpt.config import RESUME_AUTO, Config
from nanogpt.report import figures
from nanogpt.report.cards import cards
from nanogpt.report.findings import findings
from nanogpt.report.headlines import headlines
from nanogpt.report.page import render
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.tables import StudyTables
from nanogpt.study.attribute import attribute_models
from nanogpt.study.cells import Cells
from nanogpt.study.checks import check_memory
from nanogpt.study.engine import open_engine
from nanogpt.study.estimate import time_left
from nanogpt.study.evaluate import evaluate_models
from nanogpt.study.inputs import StudiedModel, read_prompts, text_dataset
from nanogpt.study.phase import Phase, Study, seed_suffix
from nanogpt.study.scale import check_sizes, scale_models
from nanogpt.study.tables import log_figures, log_tables
from nanogpt.study.train import train_models
from nanogpt.study.transfer import check_grid, grid_cells, transfer_models
from nanogpt.study.views import first_page, introduce
from nanogpt.text.corpus import Corpus
from nanogpt.tracking import registry
from nanogpt.tracking.environment import environment
from nanogpt.tracking.resumption import cells_below, stopped_study
from nanogpt.tracking.run import CELL, WHOLE, TrackedRun, in_ui, key, open_run
from nanogpt.transfer.tables import sentences

log = logging.getLogger("nanogpt")

COMPARED_STAGES = ("early", "final")
"""Of which all attribution methods are compared and tested: each costs as much as reading all checkpoints by one."""


@dataclass(frozen=True)
class StudyPhase:
    """A phase of a study and how the progress lines name it."""

    title: str
    run: Phase
    each_seed: bool = True      # whether a study with more seeds takes longer over it
    times: Callable[[Config], int] = lambda config: 1   # how often what PHASE_SECONDS says; 0: it is no part of a study


PHASES = (
    StudyPhase("training", train_models),
    StudyPhase("zero-shot losses and confidence of every checkpoint on every domain", evaluate_models),
    StudyPhase("few-shot transfer with tuned learning rates", transfer_models),
    StudyPhase("attribution", attribute_models, each_seed=False),
    StudyPhase("models of several sizes", scale_models, times=lambda config: len(config.scaling.shapes)),
)
"""To add a phase, write it in a file of this folder, its line here and what it takes below."""
PHASE_SECONDS = {"smoke": (5, 20, 14, 8, 20, 10), "quick": (80, 28, 34, 11, 150, 8),
                 "standard": (743, 300, 1291, 64, 1400, 18), "gpu": (51, 41, 166, 36, 100, 34)}
"""What the phases with one seed, and what comes after them, take on two CPU cores and, of `gpu`, on a GPU.

For the rest of a study only their ratios count. Those of `gpu`, and the sizes of `standard`, are reckoned from studies
of other settings.
"""


def run_study(corpora: Mapping[str, Corpus], config: Config, resume: str = RESUME_AUTO) -> str:
    """Run all phases over all domains, in one run with nested runs; returns a short summary for people.

    A study of the same settings, texts and code that was stopped goes on in its own run, unless `resume` is RESUME_OFF
    or the id of another one (`tracking/resumption.py`). One that has finished is left as it is.
    """
    study, began = Study(config, corpora, compared_stages=COMPARED_STAGES), time.monotonic()
    check_study(study)
    digest = study.digest("study")
    with open_engine(config) as study.engine, open_run(
            f"study {config.preset}{seed_suffix(config.seed)}", config, stopped := stopped_study(digest, resume),
            phase="study", **{CELL: digest}) as run:
        study.cells = Cells(cells_below(run) if stopped else {}, owner=run.id)
        introduce(run, corpora)
        run.datasets(map(text_dataset, corpora.values()), "study")
        study.tables.add("corpora", (corpus.row() for corpus in corpora.values()))
        study.tables.add("excerpts", ({"domain": name, "text": corpus.excerpt()} for name, corpus in corpora.items()))
        phases = phases_of(config)
        for number, phase in enumerate(phases, start=1):
            say_phase(number, phase.title, study, began)
            phase.run(study)
        say_phase(len(phases) + 1, "tables, figures and report", study, began)
        claims, seconds = publish(run, study), time.monotonic() - began
        run.tags({WHOLE: "yes"})
        log.info("      done after %.0f s", seconds, extra={"share_done": 1.0})
        return summary_text(run, claims, study, seconds)


def check_study(study: Study) -> None:
    """Raise UserError for what a later phase could not do, before the first one begins."""
    check_memory(study.config, study.corpora.values())
    check_sizes(study)
    read_prompts(study.config, study.corpora)
    check_grid(study.config, study.corpora)
    if study.config.analysis.joint and len(study.corpora) == 1:
        log.warning("no model of all domains together is trained: there is one domain")


def phases_of(config: Config) -> list[StudyPhase]:
    """List the phases that a study of this configuration has."""
    return [phase for phase in PHASES if phase.times(config)]


def say_phase(number: int, title: str, study: Study, began: float) -> None:
    """Say which phase begins, and how long the rest takes unless phases were read back from the store."""
    seeds, seconds = study.config.train.seeds, time.monotonic() - began
    *of_phases, after = PHASE_SECONDS.get(study.config.preset, PHASE_SECONDS["quick"])
    weights = [*(own * times * (seeds if phase.each_seed else 1) for phase, own in zip(PHASES, of_phases, strict=True)
                 if (times := phase.times(study.config))), after]
    done, share = (sum(part) / sum(weights) for part in (weights[:number - 1], weights[number - 1:number]))
    left = "" if study.cells.sentence else time_left(done, seconds)
    log.info("[%d/%d] %s · %.0f s so far%s", number, len(weights), title, seconds, f" · {left}" if left else "",
             extra={"share_done": done, "phase_share": share})


def adapt_registered(models: Sequence[StudiedModel], corpora: Mapping[str, Corpus], config: Config) -> str:
    """Run the grid of transfers alone, in one run with nested runs; returns what it says of the stages, for people."""
    check_grid(config, corpora)
    study, settings = Study(config, corpora, list(models)), config.transfer
    with open_engine(config) as study.engine, open_run(f"adapt · {settings.grid_shots} shots", config,
                                                       phase="adapt") as run:
        log.info("%d transfers, each with %d trials and %d fresh seeds at two learning rates",
                 len(grid_cells(models, corpora, config)), settings.trials, settings.transfer_seeds)
        transfer_models(study)
        log_tables(run, study.tables)
        log_figures(run, study.tables, config, "adapt")
        claims = list(sentences(study.tables.frame("stage_comparisons")))
        run.describe("\n".join(f"- {sentence}" for sentence in claims))
        return "\n".join(claims)


def publish(run: TrackedRun, study: Study) -> list[str]:
    """Log tables, figures and the report of the whole study at its own run; returns its claims, a line each."""
    tables = study.tables
    log_tables(run, tables)
    links = tables.links | {run.name: run.link}
    page = StudyTables(run.name, study.config.flat(), environment(study.config), tables.frames(), links)
    return publish_page(run, page, study.drawn)


def publish_page(run: TrackedRun, page: StudyTables, drawn: Mapping[str, Drawing] | None = None) -> list[str]:
    """Log figures and report of a study at its run, from its tables; returns its claims, a line each.

    `drawn` are figures of the same tables, name to drawing.
    """
    images = figures.draw(page, drawn=drawn)
    for name, image in images.items():
        run.bytes(image.png, f"figures/{name}.png")
    run.text(render(page, images), "report.html")
    run.metrics({key("study", name): value for name, value in headlines(page).items()})
    run.describe("\n".join(["### Findings", *(f"- {sentence}" for sentence in findings(page)),
                            "\nThe whole story is in the artifact `report.html`."]))
    return claim_lines(page)


def claim_lines(page: StudyTables) -> list[str]:
    """Say what the report's cards say, a line each."""
    return [f"  · {card.claim}: {card.number}" + (f" (95 % interval {card.interval})" if card.interval else "")
            for card in cards(page)]


def summary_text(run: TrackedRun, claims: Sequence[str], study: Study, seconds: float) -> str:
    """Write what a person reads at the end: what was found and left out; then five lines of where to look."""
    domains = list(dict.fromkeys(model.domain for model in study.models))
    example = f"models:/{registry.model_name(domains[0])}@late"
    before = [*claims, *filter(None, [study.cells.sentence]), *(f"Left out: {reason}." for reason in study.left_out)]
    return "\n".join([
        *before, *([""] if before else []),
        f"Study of {', '.join(domains)}: {len(study.models)} checkpoints in {seconds:.0f} s.",
        f"  the report        {run.artifact('report.html')}",
        f"  runs and curves   {in_ui(first_page(run, study.corpora))}",
        f"  a model by name   mlflow.pyfunc.load_model({example!r}).predict([\"The \"])",
        "  all models        nanogpt registry"])
