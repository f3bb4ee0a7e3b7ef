"""Train GPTs on domains, with one seed or several; checkpoints are logged and registered as nanogpt-<domain>."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import ALL, JOINT, Config, listed_domains


@options.command("data", "model", "train", "analysis")
@click.option("--domain", default="shakespeare", show_default=True,
              help=f"domains, comma-separated; also {ALL}: every built-in one, name=path of a UTF-8 file, or {JOINT}: "
                   "all of --domains together")
@click.option("--resume", default="", help="id of the run of a stopped training, or of the run over several that one "
                                           "command began: what is not finished goes on with its own settings")
def train(config: Config, domain: str, resume: str) -> None:
    """Train a GPT on each domain, --seeds of each.

    The vocabulary is that of --domains and these together, so that the models can be compared with theirs.
    """
    from nanogpt.study import inputs
    from nanogpt.study.checks import check_memory
    from nanogpt.study.phase import Study
    from nanogpt.study.train import run_trainings
    from nanogpt.tracking.run import earlier_training

    specs = list(listed_domains(domain))
    earlier = earlier_training(resume) if resume else None
    if earlier:
        config, specs = earlier.config, inputs.resumed_specs(earlier, specs)
    config, corpora = inputs.training_inputs(config, specs)
    check_memory(config, corpora)
    study = Study(config, {corpus.name: corpus for corpus in corpora}, resume=earlier.runs if earlier else {})
    run_trainings(study, earlier.parent if earlier else "")
    for name in study.corpora:
        count = sum(model.domain == name for model in study.models)
        click.echo(f"registered {count} checkpoints: models:/nanogpt-{name}@final")
