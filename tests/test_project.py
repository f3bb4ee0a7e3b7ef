"""The project as a whole: MLproject, conda.yaml, pyproject.toml and the entry points say the same."""

from __future__ import annotations

import importlib
import tomllib

import click
import pytest
import yaml
from click.testing import CliRunner
from mlflow.projects import _project_spec
from packaging.requirements import Requirement
from support import ROOT

import nanogpt
from nanogpt.config import Config, make_config
from nanogpt.text.sources import BUILT_IN

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text("utf-8"))
ENTRY_POINTS = sorted(path.stem for path in (ROOT / "entrypoints").glob("*.py") if path.stem != "__init__")


def command(name: str):
    """What the script of an entry point starts."""
    (script_command,) = (value for value in vars(importlib.import_module(f"entrypoints.{name}")).values()
                if isinstance(value, click.Command))
    return script_command


def test_every_script_is_an_entry_point_that_mlflow_can_read() -> None:
    project = _project_spec.load_project(str(ROOT))
    assert sorted(project._entry_points) == ENTRY_POINTS


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_mlproject_parameters_are_options_with_the_same_defaults(name: str) -> None:
    options = {option.name: option for option in command(name).params}
    defaults = make_config().flat()
    for parameter, declared in PROJECT["entry_points"][name]["parameters"].items():
        option = options[parameter]
        assert f"--{parameter} {{{parameter}}}" in PROJECT["entry_points"][name]["command"]
        default = defaults.get(parameter, option.default)
        assert option.required or str(default) == declared["default"], parameter


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_shows_every_option_with_its_meaning(name: str) -> None:
    result = CliRunner().invoke(command(name), ["--help"])
    assert result.exit_code == 0
    for option in command(name).params:
        assert option.opts[0] in result.output and option.help


def test_main_can_set_every_field_of_the_configuration() -> None:
    assert {option.name for option in command("main").params} == {*Config().flat(), "resume"}


def test_conda_yaml_installs_what_pyproject_asks_for() -> None:
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text("utf-8"))
    *outside, inside = conda["dependencies"]
    assert [entry.split(">")[0] for entry in outside] == ["python", "pip"]
    pinned = {Requirement(line).name: Requirement(line).specifier for line in inside["pip"]}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    required = {Requirement(line).name: Requirement(line).specifier for line in wanted}
    assert pinned.keys() == required.keys()
    for name, specifier in pinned.items():
        exact = [part.version for part in specifier if part.operator == "=="]
        assert all(version in required[name] for version in exact) if exact else specifier == required[name], name
    assert str(pinned["torch"]) == "==2.13.0"


def test_the_citation_names_this_version_licence_and_authors() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (nanogpt.__version__, project["license"])
    assert citation["authors"] == project["authors"]
    assert all(author["name"] in (ROOT / "LICENSE").read_text("utf-8") for author in project["authors"])


def test_the_documentation_says_the_licence_of_every_text() -> None:
    lines = (ROOT / "docs" / "domains.md").read_text("utf-8").splitlines()
    for name, domain in BUILT_IN.items():
        full = domain.full.licence if domain.full else "the embedded text"
        assert f"| `{name}` | {domain.embedded.licence} | {full} |" in lines
