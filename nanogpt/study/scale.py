"""The scaling phase: models of several sizes, what shares of the texts give, transfers, and the laws over all sizes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from nanogpt.config import Config, Shape
from nanogpt.errors import UserError
from nanogpt.report.findings import scaling_findings
from nanogpt.study.cells import run_cell
from nanogpt.study.checks import check_memory
from nanogpt.study.estimate import part
from nanogpt.study.inputs import StudiedModel, text_dataset
from nanogpt.study.phase import Study
from nanogpt.study.tables import Tables, log_figures, log_tables
from nanogpt.study.train import train_corpora
from nanogpt.tracking.run import TrackedRun
from nanogpt.training.loop import trainings_together
from nanogpt.training.sizes import sized
from nanogpt.transfer.finetune import few_shot_windows
from nanogpt.transfer.scaling import fitted_laws, with_worth, worth_rows
from nanogpt.transfer.sizes import checkpoint_rows, choose, scratch_rows, transfer_rows, untrained

log = logging.getLogger("nanogpt")


def scale_models(study: Study) -> None:
    """Train and transfer models of each size, on all texts with all seeds; then fit the laws over the sizes."""
    sizes = study.config.scaling.shapes
    for number, shape in enumerate(sizes):
        log.info("      size %s", shape.name, extra=part(number, len(sizes)))
        models = train_size(shape, study)
        if models:
            measure_size(shape, models, study)
    if study.tables.rows.get("scaling"):
        fit_laws(study)


def check_sizes(study: Study) -> None:
    """Raise UserError for a size that a later phase could not train, or for shots that no text has."""
    config = study.config
    for corpus in study.corpora.values() if config.scaling.shapes else ():
        few_shot_windows(corpus.train, config.model.block_size, config.transfer.shots, config.seed)
    for shape in config.scaling.shapes:
        try:
            check_memory(sized(config, shape), study.corpora.values())
        except UserError as error:
            raise UserError(f"sizes must be shapes that can be trained here, got {shape.name!r} ({error})") from None


def train_size(shape: Shape, study: Study) -> list[StudiedModel]:
    """Train models of a size, each in a run of its own; none is registered. What has diverged is left out."""
    own = Study(sized(study.config, shape), study.corpora, cells=study.cells, size=shape.name,
                engine=study.engine)
    train_corpora(list(study.corpora.values()), own)
    study.left_out += [f"{shape.name}: {reason}" for reason in own.left_out]
    study.tables.links |= own.tables.links
    return own.models


def measure_size(shape: Shape, models: Sequence[StudiedModel], study: Study) -> None:
    """Score the checkpoints of a size, train it on shares of the texts, and adapt the best ones; in a run."""
    config = sized(study.config, shape)

    def measure(run: TrackedRun, tables: Tables) -> None:
        run.datasets(map(text_dataset, study.corpora.values()), "test")
        fill_size(models, config, study, tables)
        log_tables(run, tables)

    digest = study.digest("scale", shape.name, [model.checkpoint.sha256 for model in models])
    study.add(*run_cell(study.cells, f"size {shape.name}", digest, measure, config, phase="scale", size=shape.name))


def fill_size(models: Sequence[StudiedModel], config: Config, study: Study, tables: Tables) -> None:
    first = next(iter(study.corpora.values()))
    together = trainings_together(config, first)
    rows = checkpoint_rows([model.checkpoint for model in models], study.corpora, config, together)
    rows += scratch_rows(study.corpora.values(), config, together)
    choose(rows)
    best = {(row["domain"], row["training_seed"], row["step"]) for row in rows if row["chosen"] and row["one_in"] == 1}
    sources = [model.checkpoint for model in models if (model.domain, model.seed, model.checkpoint.step) in best]
    sources += [untrained(first, replace(config, seed=seed)) for seed in dict.fromkeys(model.seed for model in models)]
    tables.add("scaling", rows)
    tables.add("scaling_transfers", with_worth(transfer_rows(sources, study.corpora, config), pd.DataFrame(rows)))


def fit_laws(study: Study) -> None:
    """Fit the laws over all sizes, in a run that shows them."""
    def fit(run: TrackedRun, tables: Tables) -> None:
        rows, transfers = study.tables.frame("scaling"), study.tables.frame("scaling_transfers")
        tables.add("scaling_worth", worth_rows(transfers) if len(transfers) else ())
        fits, curves = fitted_laws(rows, tables.frame("scaling_worth"))
        tables.add("scaling_fits", fits)
        tables.add("scaling_curves", curves)
        log_tables(run, tables)
        shown = Tables()
        shown.add_all(tables)
        shown.add("scaling", study.tables.rows["scaling"])
        log_figures(run, shown, study.config, "scale")
        run.describe("\n\n".join(scaling_findings(tables.frame("scaling_fits"), tables.frame("scaling_worth"))))

    digest = study.digest("laws", study.tables.rows["scaling"], study.tables.rows["scaling_transfers"])
    study.add(*run_cell(study.cells, "scaling laws", digest, fit, study.config, phase="scale"))
