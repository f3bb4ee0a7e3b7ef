"""A dataclass as click options; a `UserError` as one line and exit code 2."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from nanogpt.commands import interruption
from nanogpt.commands.progress import ProgressHandler
from nanogpt.config import GROUPS, PRESETS, Config, make_config, settings
from nanogpt.errors import UserError, require
from nanogpt.model.allocator import keep_freed_memory
from nanogpt.model.launch import launch

if TYPE_CHECKING:
    from nanogpt.tracking.run import TrackedRun

Function = Callable[..., Any]
MODEL_HELP = "models:/nanogpt-math@late, runs:/…/checkpoints/final.pt or the path of a .pt file"
OWN_SECTION = "Options of this command"
SECTIONS = {"shared": "Preset, seed and device", "data": "Texts", "model": "Model", "train": "Training",
            "transfer": "Transfer", "analysis": "Evaluation and generation", "attribution": "Attribution",
            "scaling": "Sizes", "cells": "Where cells are carried out"}
"""Groups of the configuration as `--help` calls them."""
RESUMED = {"study": "the same command goes on from here (--resume off begins anew)",
           "train": "its run goes on with --resume and the id of the run that is now KILLED"}
"""What a command that was stopped says of going on."""
NOT_RESUMED = "nothing of it is kept but its runs, which are KILLED: start it again"
MLFLOW_LEVELS = {"mlflow.pyfunc": logging.WARNING, "mlflow.system_metrics.system_metrics_monitor": logging.WARNING,
                 "mlflow.store.model_registry.abstract_store": logging.WARNING,
                 "mlflow.store.db.utils": logging.CRITICAL}
"""Loggers of MLflow that say in each run what it does, or print an error that is raised as well."""


def command(*groups: str, follows: Callable[..., str] | None = None, says_where: bool = False,
            data_parallel: bool = False) -> Callable[[Function], click.Command]:
    """Make a click command that is handed `config: Config`, with an option for each field of the named groups.

    An option that is left out, or empty, takes the preset's value. Underscores and hyphens are the same. What a
    user can cause is raised as `UserError` and ends as one line on stderr with exit code 2; so do the known errors
    of the store.

    `follows` is handed what the command is handed and says which models the command reads: its runs then open in
    the experiment of the first of them. A command ends with a line on where its run is, unless it `says_where` itself.

    Of several processes that torchrun has launched the first one carries out a `data_parallel` command, and the others
    follow it; other commands refuse.
    """
    owners = {"shared": Config} | {group: GROUPS[group] for group in groups}
    sections = {item.name: SECTIONS[group] for group, owner in owners.items() for item in fields(owner)
                if "help" in item.metadata}

    def decorate(function: Function) -> click.Command:
        @functools.wraps(function)
        def run(**values: Any) -> None:
            if leads_or_is_alone(data_parallel, function.__name__):
                in_first_process(values)

        def in_first_process(values: dict[str, Any]) -> None:
            changes = {name: values.pop(name) for name in sections}
            before = len(outermost_runs())
            carry_out(function, values, changes, follows)
            if not says_where and (opened := outermost_runs()[before:]):
                say_where_to_look(opened[-1])

        wrapped: Function = run
        for name, section in reversed(sections.items()):
            wrapped = field_option(name, section)(wrapped)
        preset = click.option("--preset", cls=SectionOption, section=SECTIONS["shared"], default="quick",
                              show_default=True, help=f"one of {', '.join(PRESETS)}")
        context = {"token_normalize_func": lambda token: token.replace("_", "-"), "max_content_width": 110}
        return click.command(cls=SectionCommand, context_settings=context)(preset(wrapped))

    return decorate


def leads_or_is_alone(data_parallel: bool, name: str) -> bool:
    """Tell whether this process carries out a command; another one that was launched with it follows, to the end."""
    launched = launch()
    if launched is None or not launched.has_others:
        return True
    if not data_parallel and launched.is_first:
        raise BadInput(f"several processes must carry out the command train, got {name!r}")
    if not data_parallel:
        sys.exit(BadInput.exit_code)
    if not launched.is_first:
        from nanogpt.commands.follow import follow

        follow(launched)
    return launched.is_first


def carry_out(function: Function, values: dict[str, Any], changes: dict[str, Any],
              follows: Callable[..., str] | None) -> None:
    """Hand a command its values and its configuration; a signal ends it in order, with a line on how to go on."""
    launched, last_words = launch(), RESUMED.get(function.__name__, NOT_RESUMED)
    with interruption.ended_in_order(last_words), contextlib.ExitStack() as several:
        if launched and launched.has_others:        # one that waits for others in C cannot answer a signal
            several.enter_context(interruption.heard(lambda number: interruption.end_in_time(number, last_words)))
        carry_out_undisturbed(function, values, changes, follows)


def carry_out_undisturbed(function: Function, values: dict[str, Any], changes: dict[str, Any],
                          follows: Callable[..., str] | None) -> None:
    """Hand a command its values and its configuration: the preset with `changes`, but for those that are None."""
    from nanogpt.tracking import project_run, store_errors

    progress = show_progress()
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
    finally:
        progress.clear()


def outermost_runs() -> list[TrackedRun]:
    """List the runs that this process has opened so far; a command that opens none imports nothing for it."""
    module = sys.modules.get("nanogpt.tracking.run")
    return list(module.outermost_runs) if module else []


def say_where_to_look(run: TrackedRun) -> None:
    """Say how to open the run of a command in the MLflow UI."""
    from nanogpt.tracking.run import in_ui

    logging.getLogger("nanogpt").info("where to look: %s", in_ui(run.link[1]))


def is_text(value: str) -> bool:
    """Tell whether a word of the command line is UTF-8: other bytes stand in it as halves of surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


class BadInput(click.ClickException):
    """One line on stderr, exit code 2."""

    exit_code = 2


class SectionOption(click.Option):
    """An option that `--help` lists in a section of its own."""

    def __init__(self, *names: Any, section: str, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.section = section


class SectionCommand(click.Command):
    """A command whose `--help` lists its own options first, then those of each section."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {OWN_SECTION: []}
        for option in self.get_params(context):
            if record := option.get_help_record(context):
                sections.setdefault(getattr(option, "section", OWN_SECTION), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def field_option(name: str, section: str) -> Callable[[Function], Function]:
    """Make the option of a field of the configuration."""
    kind, default, text = settings()[name]
    return click.option(f"--{name.replace('_', '-')}", name, cls=SectionOption, section=section, type=Typed(kind),
                        metavar=kind.__name__.upper(),
                        help=f"{text}  [quick: {PRESETS['quick'].get(name, default)}]")


VALUES = {"int": "a whole number", "float": "a number", "bool": "true or false"}


class Typed(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A value of a field; an empty string stands for an option that is left out."""

    def __init__(self, kind: type) -> None:
        self.inner, self.name = click.types.convert_type(kind), kind.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return None if value == "" else self.inner.convert(value, param, ctx)
        except click.BadParameter as error:
            name = param.name if param else "value"
            raise BadInput(f"{name} must be {VALUES.get(self.name, self.name)}, got {value!r}") from error


def show_progress() -> ProgressHandler:
    """Let what the package logs go to stderr."""
    logger, handler = logging.getLogger("nanogpt"), ProgressHandler(sys.stderr)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for name, level in MLFLOW_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")     # two lines of each run, with a server
    return handler
