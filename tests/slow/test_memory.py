"""A user's text of 200 MB is trained on, scored and attributed in less than 2 GB each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, elsewhere_environment

from nanogpt.text.sources import load_domain

pytestmark = pytest.mark.slow
TEXT_BYTES, MOST_BYTES = 200_000_000, 2_000_000_000
BIG = ("--domains", "big=big.txt", "--preset", "smoke", "--device", "cpu")
MODEL = ("--models", "models:/nanogpt-big@late")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded texts, again and again, as one file."""
    folder = tmp_path_factory.mktemp("big")
    once = "".join(load_domain(name, "embedded").text for name in ("shakespeare", "wikipedia", "math"))
    with (folder / "big.txt").open("w", encoding="utf-8") as file:
        for _ in range(TEXT_BYTES // len(once.encode()) + 1):
            file.write(once)
    assert (folder / "big.txt").stat().st_size > TEXT_BYTES
    return folder


@pytest.mark.parametrize("command", [("train", "--domain", "big=big.txt", "--max-steps", "60", *BIG),
                                     ("evaluate", *MODEL, *BIG), ("analyze", *MODEL, *BIG)], ids=lambda words: words[0])
def test_a_text_of_200_mb_takes_less_than_2_gb(folder: Path, command: tuple[str, ...]) -> None:
    environment = elsewhere_environment(f"sqlite:///{folder}/mlflow.db") | {"PYTHONPATH": str(ROOT)}
    program = "from nanogpt.commands.app import main; main()"
    with (folder / "log").open("w") as log, subprocess.Popen([sys.executable, "-c", program, *command], cwd=folder,
                                                             env=environment, stdout=log, stderr=log) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (folder / "log").read_text()[-3000:]
    print(f"{command[0]}: {usage.ru_maxrss * 1024 / 1e9:.2f} GB at most", flush=True)
    assert usage.ru_maxrss * 1024 < MOST_BYTES
