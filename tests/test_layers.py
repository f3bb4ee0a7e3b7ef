"""The order of the rooms: a module imports only modules of lower rank, and each heavy package has its owner."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nanogpt

PACKAGE = Path(nanogpt.__file__).parent
LAYERS = (     # a module imports only from the lines above its own
    "config cleaning distance bundle",
    "cleaning_math schedule metrics calibration model optimizer",
    "domains",
    "corpus",
    "checkpoint engine ngram breakdown backward",
    "training evaluation generation saliency baselines",
    "batched",
    "transfer transfer_measures perturbation statistics writing domain_classifier",
    "attribution",
    "faithfulness",
    "tuning study looks exchange traps transfer_tables",
    "figures comparison authorship findings_evaluation attribution_study attribution_map",
    "figures_confidence figures_attribution figures_transfer reading findings",
    "report tracking serving cli",
    "registry",
    "inputs archive demo",
    "verification",
    "training_phase evaluation_phase transfer_phase analysis_phase",
    "program",
)
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer.split()}
SCIENCE = RANK["faithfulness"]     # up to this rank, torch is the only package that a module may count on
OWNERS = {
    "mlflow": {"tracking", "registry", "serving", "archive", "traps"}, "optuna": {"tuning"},
    "click": {"cli"}, "safetensors": {"exchange"}, "flask": {"demo"},
    "matplotlib": {"figures", "figures_confidence", "figures_attribution", "figures_transfer"},
    "gensim": {"domains", "cleaning"}, "pooch": {"domains", "cleaning"},
}  # fmt: skip
ALWAYS = {"nanogpt", "torch", *sys.stdlib_module_names}
ALSO = {"domains": {"gensim", "pooch"}, "cleaning": {"gensim", "pooch"}, "statistics": {"numpy", "scipy", "sklearn"},
        "domain_classifier": {"sklearn"}, "transfer_measures": {"numpy", "scipy"}}


def imports(source: str) -> Iterator[str]:
    """The dotted name of everything imported anywhere in `source`, in functions too.

    Under `if TYPE_CHECKING:` nothing is loaded, so there the package's own modules alone are counted.
    """
    tree = ast.parse(source)
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    unloaded = {inner for block in for_types for statement in block.body for inner in ast.walk(statement)}
    yield from (name for node in ast.walk(tree) for name in names_in(node)
                if node not in unloaded or name.startswith("nanogpt"))


def names_in(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = f"nanogpt.{node.module or ''}".rstrip(".") if node.level else node.module
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def violations(module: str, source: str) -> list[str]:
    """One line for each import that `module` may not have."""
    found = []
    for name in imports(source):
        top, _, rest = name.partition(".")
        inner = rest.partition(".")[0]
        if top == "entrypoints":
            found.append(f"{module} imports {name}: nothing imports entrypoints")
        elif top == "nanogpt" and inner and RANK.get(inner, 99) >= RANK[module]:
            found.append(f"{module} ({RANK[module]}) imports {inner} ({RANK.get(inner)}): only lower ranks are allowed")
        elif module not in OWNERS.get(top, {module}):
            found.append(f"{module} imports {name}: {top} belongs to {', '.join(sorted(OWNERS[top]))}")
        elif RANK[module] <= SCIENCE and top not in ALWAYS | ALSO.get(module, set()):
            found.append(f"{module} imports {name}: the science needs torch alone")
    return found


MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"}


def test_every_module_has_a_rank() -> None:
    assert MODULES.keys() <= RANK.keys()
    assert not [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_rank_allows(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_importing_the_package_imports_nothing_of_others() -> None:
    program = "import sys; before = {*sys.modules}; import nanogpt; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {"nanogpt", *sys.stdlib_module_names}
    assert "nanogpt." not in done.stdout


@pytest.mark.parametrize(("module", "line"), [
    ("model", "import mlflow"), ("study", "import optuna.samplers"), ("program", "from click import echo"),
    ("evaluation", "from nanogpt.training import train"), ("config", "from nanogpt import corpus"),
    ("corpus", "from .checkpoint import Checkpoint"), ("corpus", "from . import evaluation"),
    ("metrics", "import numpy as np"), ("report", "def f():\n    import matplotlib.pyplot"),
    ("cli", "import entrypoints.main"), ("cli", "from entrypoints import main"),
    ("checkpoint", "import nanogpt.engine"),
    ("model", "from nanogpt.unheard import of"), ("training", "if True:\n    import pandas"),
    ("model", "if TYPE_CHECKING:\n    from nanogpt.study import Row"),
    ("model", "if TYPE_CHECKING:\n    pass\nelse:\n    import mlflow")])
def test_the_rules_catch_what_breaks_them(module: str, line: str) -> None:
    assert len(violations(module, line)) == 1


@pytest.mark.parametrize(("module", "line"), [
    ("tracking", "import mlflow"), ("tuning", "from optuna import Trial"), ("statistics", "from scipy import stats"),
    ("checkpoint", "from nanogpt.corpus import Vocabulary"), ("program", "from nanogpt import cli, tracking"),
    ("domains", "import pooch"), ("metrics", "import math, torch"), ("report", "import jinja2"),
    ("cli", "import click"),
    ("domains", "from . import cleaning"), ("study", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure")])
def test_the_rules_let_pass_what_keeps_them(module: str, line: str) -> None:
    assert violations(module, line) == []
