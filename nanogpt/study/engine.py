"""What carries the cells of a study out: this process in order, or workers of a Ray cluster, many at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from nanogpt.config import RAY, Config
from nanogpt.errors import require

A = TypeVar("A")
R = TypeVar("R")


class Engine(Protocol):
    """Does the same work for many inputs, and gives the results in the order of the inputs."""

    def each(self, work: Callable[[A], R], inputs: Sequence[A], shared: Iterable[Any] = (), *, models: int = 1,
             config: Config | None = None) -> Iterator[R]:
        """Do the work for each input; where that gives an iterator, what comes back may be all its items.

        `shared` are large things that several inputs or `work` refer to: a worker gets each of them once. So many
        `models` train as one, of the shape in `config` where it is not the study's. A worker that dies is replaced:
        the work must find in the store what it had done.
        """


class LocalEngine:
    """Does all in this process, each when it is asked for."""

    def each(self, work: Callable[[A], R], inputs: Sequence[A], shared: Iterable[Any] = (), *, models: int = 1,
             config: Config | None = None) -> Iterator[R]:
        return map(work, inputs)


@contextlib.contextmanager
def open_engine(config: Config) -> Iterator[Engine]:
    """Give the engine that a configuration names. UserError where Ray is not installed or its cluster is unfit."""
    if config.cells.engine != RAY:
        yield LocalEngine()
        return
    has_ray = find_spec("ray") is not None
    require(has_ray, "engine must be local where Ray is not installed (pip install 'nanogpt[ray]')", RAY)
    from nanogpt.study.ray_engine import ray_cluster  # here: Ray is an extra, and its import takes a second

    with ray_cluster(config) as engine:
        yield engine
