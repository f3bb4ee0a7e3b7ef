"""The program `nanogpt`: one list of commands, which the modules, the scripts and MLproject agree with."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import click
import yaml
from click.testing import CliRunner
from support import ROOT

import nanogpt
from nanogpt import commands
from nanogpt.commands import app

NOT_COMMANDS = {"follow", "app", "options", "interruption", "progress"}
ENTRY_POINTS = {"main": "study"}
"""Names of MLproject that differ from the command's: `mlflow run .` starts `main`."""


def first_sentence(command: click.Command) -> str:
    return (command.help or "").partition("\n\n")[0].replace("\n", " ").partition(". ")[0].removesuffix(".") + "."


def test_the_list_names_every_module_and_every_entry_point() -> None:
    assert set(app.COMMANDS) == {module.name for module in pkgutil.iter_modules(commands.__path__)} - NOT_COMMANDS
    project = yaml.safe_load((ROOT / "MLproject").read_text("utf-8"))
    assert set(app.COMMANDS) == {ENTRY_POINTS.get(name, name) for name in project["entry_points"]}
    for name in project["entry_points"]:
        script = importlib.import_module(f"entrypoints.{name}")
        (command,) = (value for value in vars(script).values() if isinstance(value, click.Command))
        assert command.name == ENTRY_POINTS.get(name, name)


def test_the_list_says_of_each_command_what_its_help_says_first() -> None:
    context = click.Context(app.main)
    for name, sentence in app.COMMANDS.items():
        command = app.main.get_command(context, name)
        assert command is not None and command.name == name
        assert first_sentence(command) == sentence


def test_help_lists_the_commands_and_a_wrong_name_is_a_usage_error() -> None:
    shown = CliRunner().invoke(app.main, ["--help"])
    assert shown.exit_code == 0 and all(name in shown.output for name in app.COMMANDS)
    refused = CliRunner().invoke(app.main, ["trian"])
    assert refused.exit_code == 2 and "trian" in refused.stderr
    assert nanogpt.__version__ in CliRunner().invoke(app.main, ["--version"]).output


def test_the_list_of_commands_is_shown_without_importing_one() -> None:
    program = ("import sys\nfrom nanogpt.commands.app import main\nmain(['--help'], standalone_mode=False)\n"
               "import nanogpt.model.allocator\n"
               "print(sorted({'torch', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_the_help_of_every_command_needs_no_library_but_click() -> None:
    program = (f"import sys, contextlib, io\nfrom nanogpt.commands.app import main\nfor name in {list(app.COMMANDS)}:\n"
               "    with contextlib.redirect_stdout(io.StringIO()):\n"
               "        main([name, '--help'], standalone_mode=False)\n"
               "print(sorted({'torch', 'mlflow', 'pandas', 'numpy', 'optuna', 'matplotlib'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
