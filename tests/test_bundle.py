"""The code that travels with a model: complete, renamed, and the same name for the same content alone."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from nanogpt import bundle


def contents(written: bundle.Bundle) -> list[tuple[str, str]]:
    """Module name and source of each in the zip file."""
    with zipfile.ZipFile(written.code) as archive:
        return [(Path(name).stem, archive.read(name).decode()) for name in archive.namelist()]


def test_a_bundle_holds_what_the_module_imports_and_nothing_else(tmp_path: Path) -> None:
    assert {name for name, _ in contents(bundle.write_bundle("schedule", "rate_factor", tmp_path))} == {
        "__init__", "schedule"}
    names = {name for name, _ in contents(bundle.write_bundle("serving", "_load_pyfunc", tmp_path))}
    assert {"serving", "checkpoint", "model", "generation", "attribution", "config"} <= names
    assert not {"tracking", "registry", "study", "figures", "cli"} & names


def test_no_module_of_a_bundle_names_the_package_that_it_came_from(tmp_path: Path) -> None:
    for name, source in contents(bundle.write_bundle("serving", "_load_pyfunc", tmp_path)):
        assert list(bundle.own_imports(source)) == []
        compile(source, name, "exec")


def test_the_name_says_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (bundle.write_bundle("model", "GPT", tmp_path / name) for name in ("a", "b"))
    sources = bundle.sources_behind("model")
    monkeypatch.setattr(bundle, "sources_behind", lambda module: sources | {"model": sources["model"] + "\n"})
    other = bundle.write_bundle("model", "GPT", tmp_path / "c")
    for one, same, changed in zip(first, again, other, strict=True):
        assert one.name == same.name != changed.name
