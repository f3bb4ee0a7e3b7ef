"""Train GPTs on domains, with one seed or several; checkpoints are logged and registered as nanogpt-<domain>."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from nanogpt.commands import options
from nanogpt.config import ALL, JOINT, Config, listed_domains
from nanogpt.errors import UserError

if TYPE_CHECKING:
    from nanogpt.tracking.run import EarlierTraining


@options.command("data", "model", "train", "analysis", data_parallel=True)
@click.option("--domain", default="shakespeare", show_default=True,
              help=f"domains, comma-separated; also {ALL}: every built-in one, name=path of a UTF-8 file, or {JOINT}: "
                   "all of --domains together")
@click.option("--resume", default="", help="id of the run of a stopped training, or of the run over several that one "
                                           "command began: what is not finished goes on with its own settings")
def train(config: Config, domain: str, resume: str) -> None:
    """Train a GPT on each domain, --seeds of each.

    The vocabulary is that of --domains and these together, so that the models can be compared with theirs.
    `torchrun --nproc-per-node 2 -m nanogpt train` shares each batch between two processes, each on its own GPU where
    there are some; after a restart (--max-restarts) the training goes on from its last state.
    """
    from nanogpt.model.launch import launch
    from nanogpt.study import inputs
    from nanogpt.study.checks import check_memory, check_processes
    from nanogpt.study.phase import Study
    from nanogpt.study.train import run_trainings
    from nanogpt.training.processes import handed_out, joined

    specs, launched = list(listed_domains(domain)), launch()
    with joined(launched):
        earlier = earlier_of(resume)
        if earlier:
            config, specs = earlier.config, inputs.resumed_specs(earlier, specs)
        check_processes(config, launched)
        config, corpora = inputs.training_inputs(config, specs)
        check_memory(config, corpora)
        study = Study(config, {corpus.name: corpus for corpus in corpora}, resume=earlier.runs if earlier else {})
        run_trainings(study, earlier.parent if earlier else "")
        handed_out()
    for name in study.corpora:
        count = sum(model.domain == name for model in study.models)
        click.echo(f"registered {count} checkpoints: models:/nanogpt-{name}@final")


def earlier_of(resume: str) -> EarlierTraining | None:
    """Read what goes on: what this launch began before its restart, else the run `resume`; None: all begins anew."""
    from nanogpt.tracking.launches import runs_of_launch
    from nanogpt.tracking.run import earlier_training

    for run_id in runs_of_launch():
        with contextlib.suppress(UserError):        # it was killed before its configuration was logged
            return earlier_training(run_id)
    return earlier_training(resume) if resume else None
