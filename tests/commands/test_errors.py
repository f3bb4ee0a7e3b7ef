"""How a command ends: a user's error is one line and exit 2, a fault of the program is a traceback and exit 1."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow.exceptions import MlflowException
from support import ROOT, elsewhere_environment

from nanogpt.commands import options
from nanogpt.config import Config
from nanogpt.errors import UserError

PROGRAM = """
import numpy
from nanogpt.commands import options
from nanogpt.errors import UserError

@options.command()
def fail(config):
    {body}

fail()
"""


@pytest.mark.parametrize(("body", "code", "first", "last"), [
    ("[1, 2].index(3)", 1, "Traceback", "ValueError: 3 is not in list"),
    ("numpy.zeros(2) + numpy.zeros(3)", 1, "Traceback", "ValueError: operands could not be broadcast together"),
    ("raise UserError('steps must be > 0, got -1')", 2, "Error: steps", "Error: steps must be > 0, got -1")])
def test_a_process_ends_with_a_traceback_or_with_one_line(body: str, code: int, first: str, last: str,
                                                          tmp_path: Path) -> None:
    environment = elsewhere_environment(f"sqlite:///{tmp_path}/mlflow.db") | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(body=body)], cwd=tmp_path, env=environment,
                          text=True, capture_output=True)
    lines = done.stderr.splitlines()
    assert done.returncode == code and lines[0].startswith(first) and lines[-1].startswith(last)


def run(body: Callable[[], object]) -> Result:
    @options.command()
    def fail(config: Config) -> None:
        body()

    return CliRunner().invoke(fail)


def fail_while_the_store_fails() -> None:
    try:
        raise MlflowException("database is locked")
    except MlflowException:
        {}["run"]


@pytest.mark.parametrize(("body", "kind"), [
    (lambda: list(zip([1], [1, 2], strict=True)), ValueError),
    (lambda: {}["loss"], KeyError),
    (lambda: pd.DataFrame({"a": [1]}).merge(pd.DataFrame({"b": [1]})), ValueError),
    (lambda: np.concatenate([]), ValueError),
    (lambda: Path("nothing").read_text(), FileNotFoundError),
    (fail_while_the_store_fails, KeyError)])
def test_a_fault_of_the_program_is_shown_as_one(body: Callable[[], object], kind: type[Exception]) -> None:
    result = run(body)
    assert result.exit_code == 1 and isinstance(result.exception, kind) and result.output == ""


def refuse() -> None:
    raise UserError("steps must be > 0, got -1")


def find_the_store_locked() -> None:
    raise MlflowException("database is locked") from OSError("in between")


@pytest.mark.parametrize(("body", "line"), [
    (refuse, "Error: steps must be > 0, got -1"),
    (find_the_store_locked, "Error: another program keeps the tracking store locked")])
def test_what_a_user_can_mend_is_one_line(body: Callable[[], object], line: str) -> None:
    result = run(body)
    assert result.exit_code == 2
    (shown,) = result.stderr.splitlines()
    assert shown.startswith(line)
