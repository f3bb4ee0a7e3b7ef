"""A dataclass as click options; a `UserError` as one line and exit code 2."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from nanogpt.commands import interruption
from nanogpt.config import GROUPS, PRESETS, Config, make_config, settings
from nanogpt.errors import UserError, require
from nanogpt.model.allocator import keep_freed_memory

Function = Callable[..., Any]
MODEL_HELP = "models:/nanogpt-math@late, runs:/…/checkpoints/final.pt or the path of a .pt file"
RESUMED = {"study": "the same command goes on from here (--resume off begins anew)",
           "train": "its run goes on with --resume and the id of the run that is now KILLED"}
"""What a command that was stopped says of going on."""
NOT_RESUMED = "nothing of it is kept but its runs, which are KILLED: start it again"
MLFLOW_LEVELS = {"mlflow.pyfunc": logging.WARNING, "mlflow.system_metrics.system_metrics_monitor": logging.WARNING,
                 "mlflow.store.model_registry.abstract_store": logging.WARNING,
                 "mlflow.store.db.utils": logging.CRITICAL}
"""Loggers of MLflow that say in each run what it does, or print an error that is raised as well."""


def command(*groups: str, follows: Callable[..., str] | None = None) -> Callable[[Function], click.Command]:
    """Make a click command that is handed `config: Config`, with an option for each field of the named groups.

    An option that is left out, or empty, takes the preset's value. Underscores and hyphens are the same. What a
    user can cause is raised as `UserError` and ends as one line on stderr with exit code 2; so do the known errors
    of the store.

    `follows` is handed what the command is handed and says which models the command reads: its runs then open in
    the experiment of the first of them.
    """
    owners = (Config, *(GROUPS[group] for group in groups))
    names = [item.name for owner in owners for item in fields(owner) if "help" in item.metadata]

    def decorate(function: Function) -> click.Command:
        @functools.wraps(function)
        def run(**values: Any) -> None:
            changes = {name: values.pop(name) for name in names}
            carry_out(function, values, changes, follows)

        wrapped: Function = run
        for name in reversed(names):
            wrapped = field_option(name)(wrapped)
        preset = click.option("--preset", default="quick", show_default=True, help=f"one of {', '.join(PRESETS)}")
        context = {"token_normalize_func": lambda token: token.replace("_", "-"), "max_content_width": 110}
        return click.command(context_settings=context)(preset(wrapped))

    return decorate


def carry_out(function: Function, values: dict[str, Any], changes: dict[str, Any],
              follows: Callable[..., str] | None) -> None:
    """Hand a command its values and its configuration; a signal ends it in order, with a line on how to go on."""
    with interruption.ended_in_order(RESUMED.get(function.__name__, NOT_RESUMED)):
        carry_out_undisturbed(function, values, changes, follows)


def carry_out_undisturbed(function: Function, values: dict[str, Any], changes: dict[str, Any],
                          follows: Callable[..., str] | None) -> None:
    """Hand a command its values and its configuration: the preset with `changes`, but for those that are None."""
    from nanogpt.tracking import project_run, store_errors

    show_progress()
    keep_freed_memory()
    try:
        store_errors.check_store()
        for name, value in {**values, **changes}.items():
            require(not isinstance(value, str) or is_text(value), f"{name} must be UTF-8 text", value)
        with store_errors.watched(), project_run.tidied():
            config = make_config(values.pop("preset"), **{k: v for k, v in changes.items() if v is not None})
            if follows:
                project_run.follow(follows(config=config, **values))
            function(config=config, **values)
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else store_errors.explain(error)
        if not message:    # a fault of ours: show where
            raise
        raise BadInput(message) from error


def is_text(value: str) -> bool:
    """Tell whether a word of the command line is UTF-8: other bytes stand in it as halves of surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


class BadInput(click.ClickException):
    """One line on stderr, exit code 2."""

    exit_code = 2


def field_option(name: str) -> Callable[[Function], Function]:
    kind, default, text = settings()[name]
    return click.option(f"--{name.replace('_', '-')}", name, type=Typed(kind), metavar=kind.__name__.upper(),
                        help=f"{text}  [quick: {PRESETS['quick'].get(name, default)}]")


class Typed(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A value of a field; an empty string stands for an option that is left out."""

    def __init__(self, kind: type) -> None:
        self.inner, self.name = click.types.convert_type(kind), kind.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "" else self.inner.convert(value, param, ctx)


def show_progress() -> None:
    """What the package logs goes to stderr, line by line."""
    logger = logging.getLogger("nanogpt")
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for name, level in MLFLOW_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")     # two lines of each run, with a server
