"""The code that travels with a model: complete, renamed, and the same name for the same content alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt import bundle


def test_a_bundle_holds_what_the_module_imports_and_nothing_else(tmp_path: Path) -> None:
    package = bundle.write_bundle("schedule", tmp_path)
    assert {path.name for path in package.iterdir()} == {"__init__.py", "schedule.py"}
    names = {path.stem for path in bundle.write_bundle("serving", tmp_path).iterdir()}
    assert {"serving", "checkpoint", "model", "generation", "attribution", "config"} <= names
    assert not {"tracking", "registry", "study", "figures", "cli"} & names


def test_no_module_of_a_bundle_names_the_package_that_it_came_from(tmp_path: Path) -> None:
    package = bundle.write_bundle("serving", tmp_path)
    for path in package.glob("*.py"):
        assert list(bundle.own_imports(path.read_text("utf-8"))) == []
        compile(path.read_text("utf-8"), str(path), "exec")


def test_the_name_says_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (bundle.write_bundle("model", tmp_path / name) for name in ("a", "b"))
    sources = bundle.sources_behind("model")
    monkeypatch.setattr(bundle, "sources_behind", lambda module: sources | {"model": sources["model"] + "\n"})
    assert first.name == again.name != bundle.write_bundle("model", tmp_path / "c").name
