"""Commands that torch's launcher starts in several processes, on a CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import ROOT, elsewhere_environment


def torchrun(folder: Path, processes: int, *command: str, restarts: int = 0) -> subprocess.Popen[str]:
    """`torchrun` with a program in a folder, with the store `mlflow.db` there; what it says goes to the file `log`."""
    environment = elsewhere_environment(f"sqlite:///{folder}/mlflow.db") | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = ["--nproc-per-node", str(processes), "--max-restarts", str(restarts), "--standalone"]
    with (folder / "log").open("a") as log:
        return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *options, *command], cwd=folder,
                                env=environment, text=True, stdout=log, stderr=log)


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()
