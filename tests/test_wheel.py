"""A wheel: what is in it, and that it runs from an empty folder where the repository is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support import ROOT, elsewhere_environment

LIGHT = ("--preset", "smoke", "--domains", "shakespeare,readme=readme.txt", "--max-steps", "20", "--checkpoints",
         "1", "--trials", "1", "--transfer-steps", "1", "--eval-characters", "512", "--generate-characters", "5",
         "--methods", "gradient_norm", "--compared-prompts", "0", "--device", "cpu")
"""A whole study of little work: a text out of a package, cut to the length of a short one of the user's."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources: setuptools writes beside what it builds from."""
    pytest.importorskip("setuptools", minversion="77", reason="a wheel is built without a network")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("nanogpt", "entrypoints", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", "built"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "built").glob("nanogpt-*.whl")
    return built


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = [path for path in (ROOT / "nanogpt").rglob("*") if path.suffix in (".py", ".html")]
    assert inside == {str(path.relative_to(ROOT)) for path in package}


def test_it_carries_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        assert "License-Expression: MIT" in archive.read(metadata).decode().splitlines()


@pytest.mark.slow
def test_installed_elsewhere_it_runs_a_study_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """The dependencies are those of this environment: a .pth names its folder, whose own .pth files are not read."""
    venv.create(tmp_path / "venv", symlinks=True)
    (own,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "shared.pth").write_text("\n".join(shared))
    python, work = tmp_path / "venv" / "bin" / "python", tmp_path / "work"
    work.mkdir()
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--ignore-installed",
               "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    environment = {name: value for name, value in elsewhere_environment("").items() if name != "MLFLOW_TRACKING_URI"}

    def nanogpt(*arguments: str) -> str:
        done = subprocess.run([python.with_name("nanogpt"), *arguments], cwd=work, env=environment, text=True,
                              capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = subprocess.run([python, "-c", "import nanogpt; print(nanogpt.__file__)"], cwd=work, env=environment,
                           capture_output=True, text=True, check=True).stdout
    assert Path(place.strip()).is_relative_to(tmp_path / "venv")
    shutil.copy(ROOT / "README.md", work / "readme.txt")
    summary = nanogpt("study", *LIGHT)
    assert "Study of shakespeare, readme" in summary and (work / "mlflow.db").is_file()
    (report,) = work.glob("mlruns/**/report.html")
    assert all(name in report.read_text("utf-8") for name in ("shakespeare", "readme"))
