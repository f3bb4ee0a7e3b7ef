"""Text from a model and a prompt."""

from __future__ import annotations

import textwrap

import click

from nanogpt.commands import options
from nanogpt.config import Config


@options.command("data", "analysis", follows=lambda model, **_: model)
@click.option("--model", required=True, help=options.MODEL_HELP)
@click.option("--prompt", default="The ", show_default=True, help="what the text begins with")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0 is greedy")
@click.option("--top-k", type=int, default=0, help="choose among so many characters; 0: among all")
@click.option("--top-p", type=float, default=1.0, help="choose among the likeliest of this total probability")
def generate(config: Config, model: str, prompt: str, temperature: float, top_k: int, top_p: float) -> None:
    """Write text with a registered model after a prompt."""
    import pandas as pd

    from nanogpt.model.generate import Sampling
    from nanogpt.model.generate import generate as write
    from nanogpt.study import inputs
    from nanogpt.tracking.run import open_run

    sampling = Sampling(temperature, top_k, top_p)
    studied = inputs.load_model(model)
    inputs.warn_of_unknown(studied.checkpoint.vocabulary, [prompt])
    (text,) = write(studied.build(config), studied.checkpoint.vocabulary, [prompt],
                    config.analysis.generate_characters, sampling=sampling, seeds=config.seed)
    with open_run(f"generate {studied.checkpoint.title}", inputs.shaped(config, studied), phase="generate") as run:
        run.table(pd.DataFrame([{"model": model, "prompt": prompt, "temperature": temperature, "text": text}]), "text")
        run.describe(f"{model} at temperature {temperature:g}:\n\n" + textwrap.indent(prompt + text, "    "))
    click.echo(prompt + text)
