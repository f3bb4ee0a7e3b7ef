"""Only the Optuna study of a transfer's learning rate."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config


@options.command("data", "transfer", "analysis", follows=lambda source, **_: source)
@click.option("--source", required=True, help=options.MODEL_HELP)
@click.option("--target", required=True, help="a domain, or name=path of a UTF-8 file")
def tune(config: Config, source: str, target: str) -> None:
    """Tune the learning rate of a transfer; the best value is printed and logged. Test text is not read."""
    from nanogpt.study import inputs
    from nanogpt.study.transfer import tune_cells
    from nanogpt.study.transfer_runs import TransferCell, log_trials
    from nanogpt.tracking.run import open_run
    from nanogpt.transfer.tuning import best_rate

    model, corpus, _, config = inputs.transfer_inputs(config, source, target)
    cell = TransferCell(model, corpus, None, config.transfer.shots)
    with open_run(f"tune {model.checkpoint.title} → {corpus.name}", config, phase="tune") as run:
        ((trials, study),) = tune_cells([cell], config)
        log_trials(run, trials, study, config)
        result = f"best learning rate of {len(trials)} trials: {best_rate(trials):.6g}"
        run.describe(result)
    click.echo(result)
