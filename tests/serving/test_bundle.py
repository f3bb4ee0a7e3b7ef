"""The code that travels with a model: complete, renamed, and the same name for the same content alone."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from nanogpt.serving import bundle


def contents(written: bundle.Bundle) -> list[tuple[str, str]]:
    """File below the package and source of each module in the zip file."""
    with zipfile.ZipFile(written.code) as archive:
        return [(name.partition("/")[2], archive.read(name).decode()) for name in archive.namelist()]


def test_a_bundle_holds_what_the_module_imports_and_nothing_else(tmp_path: Path) -> None:
    assert {name for name, _ in contents(bundle.write_bundle("training.schedule", "rate_factor", tmp_path))} == {
        "__init__.py", "training/__init__.py", "training/schedule.py"}
    names = {name for name, _ in contents(bundle.write_bundle("serving.pyfunc", "_load_pyfunc", tmp_path))}
    wings = {name.partition("/")[0] for name in names}
    assert wings == {"__init__.py", "config.py", "errors.py", "text", "model", "attribution", "serving"}
    assert {name for name in names if name.startswith("text/")} == {"text/__init__.py", "text/vocabulary.py"}


def test_no_module_of_a_bundle_names_the_package_that_it_came_from(tmp_path: Path) -> None:
    for name, source in contents(bundle.write_bundle("serving.pyfunc", "_load_pyfunc", tmp_path)):
        assert list(bundle.own_imports(source)) == []
        compile(source, name, "exec")


def test_the_name_says_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (bundle.write_bundle("model.gpt", "GPT", tmp_path / name) for name in ("a", "b"))
    sources = bundle.sources_behind("model.gpt")
    sources["model/gpt.py"] += "\n"
    monkeypatch.setattr(bundle, "sources_behind", lambda module: sources)
    other = bundle.write_bundle("model.gpt", "GPT", tmp_path / "c")
    for one, same, changed in zip(first, again, other, strict=True):
        assert one.name == same.name != changed.name
