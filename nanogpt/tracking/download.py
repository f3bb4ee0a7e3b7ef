"""Artifacts of the store as files on this machine, for as long as they are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow

from nanogpt.tracking.new_store import create_missing_store
from nanogpt.tracking.scratch import scratch_folder


@contextmanager
def downloaded(uri: str) -> Iterator[Path]:
    """Give a copy of the artifact behind a URI; it is removed when the block ends.

    Left to itself MLflow downloads into a temporary folder that nobody removes. MlflowException or OSError where
    there is no such artifact.
    """
    create_missing_store()
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        yield Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
