"""A PostgreSQL of the tests' own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import free_port, wait_for_port

OWNER = "ada"


def postgres_binary(name: str) -> str | None:
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return shutil.which(name, path=os.pathsep.join([*places, os.environ["PATH"]]))


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a database of our own; PostgreSQL refuses to run as root, so then as `nobody`."""
    initdb, server = postgres_binary("initdb"), postgres_binary("postgres")
    if not initdb or not server:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    user = "nobody" if os.geteuid() == 0 else None
    folder, port = Path(tempfile.mkdtemp(prefix="nanogpt-postgres-")), free_port()
    try:
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        subprocess.run([initdb, "-D", folder / "data", "-U", OWNER, "-A", "trust", "--no-sync"], user=user, cwd=folder,
                       check=True, capture_output=True)
        command = [server, "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
        with subprocess.Popen(command, user=user, cwd=folder, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for_port(port, process)
                yield f"postgresql://{OWNER}@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGQUIT)     # at once: what it keeps is removed
    finally:
        shutil.rmtree(folder, ignore_errors=True)
