"""The program `nanogpt`: every command under one name."""

from __future__ import annotations

import importlib

import click

import nanogpt

COMMANDS = {
    "study": "Train, evaluate, transfer, analyze and register: the whole study.",
    "train": "Train a GPT on each domain, --seeds of each.",
    "evaluate": "Score models on the test text of domains, and let them write from the same prompts.",
    "transfer": "Adapt a model to a domain with a few windows of its text, at a given or a tuned learning rate.",
    "adapt": "Adapt every registered early, mid and late model, and an untrained one, to every other domain.",
    "tune": "Tune the learning rate of a transfer; the best value is printed and logged.",
    "analyze": "Confidence and attribution of models on prompts: tables, CSV and figures.",
    "generate": "Write text with a registered model after a prompt.",
    "registry": "List, promote, verify or export registered models.",
    "report": "Draw the figures and write report.html of a finished study anew, at its run.",
    "demo": "Serve a page: a prompt, each domain's continuation, and what each character rested on.",
}
"""Each command with the first sentence of its help; its module has the same name and is imported at its first use."""


class Commands(click.Group):
    """The commands of COMMANDS, each imported at its first use: `nanogpt --help` imports none of them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"nanogpt.commands.{name}"), name)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"max_content_width": 110})
@click.version_option(nanogpt.__version__)
def main() -> None:
    """Character-level GPTs on several domains, tracked in MLflow."""
