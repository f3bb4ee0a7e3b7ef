"""The order of the wings, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "nanogpt"


def test_a_wing_imports_only_what_its_contracts_allow() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("module", "line"), [
    ("model/gpt.py", "import mlflow"), ("model/gpt.py", "from nanogpt.training import loop"),
    ("report/tables.py", "import torch"), ("study/pipeline.py", "import mlflow"),
    ("transfer/measures.py", "import optuna"), ("evaluation/rows.py", "from nanogpt import attribution")])
def test_the_contracts_catch_what_breaks_them(module: str, line: str, tmp_path: Path) -> None:
    copy = tmp_path / "nanogpt"
    subprocess.run(["cp", "-r", PACKAGE, copy], check=True)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text("utf-8"), "utf-8")
    (copy / module).write_text((copy / module).read_text("utf-8") + f"\n{line}\n", "utf-8")
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; "
    done = subprocess.run([sys.executable, "-c", program + "lint_imports_command(['--no-cache'])"], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr


def test_the_package_is_one_screen_of_subjects() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if not path.name.startswith("__")]
    assert len(entries) <= 14, sorted(entries)


def test_importing_the_package_imports_nothing_of_others() -> None:
    program = "import sys; before = {*sys.modules}; import nanogpt; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {"nanogpt", *sys.stdlib_module_names}
    assert "nanogpt." not in done.stdout
