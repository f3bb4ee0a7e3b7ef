"""Folders of killed processes are removed at the next start, those of living ones are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import ROOT

from nanogpt.tracking import scratch

PROGRAM = """
import os, signal, sys
from nanogpt.tracking.scratch import scratch_path
path = scratch_path("file.txt")
path.write_text("content")
print(path, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def start(how: str, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, how], env=environment, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    living, used = start("waits", tmp_path)
    killed, left = start("killed", tmp_path)
    assert killed.wait() == -signal.SIGKILL and left.exists()
    (tmp_path / "nanogpt-other").mkdir()      # without a lock: nobody knows whose it is
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch.remove_abandoned()
    assert used.exists() and not left.exists() and (tmp_path / "nanogpt-other").is_dir()
    living.communicate()
    assert list(tmp_path.iterdir()) == [tmp_path / "nanogpt-other"]      # a process that ends takes its folder along
