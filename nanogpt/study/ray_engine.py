"""Cells as tasks of a Ray cluster: placed by what they need, done again where a worker died, their results in order."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray

import nanogpt
from nanogpt.config import Config
from nanogpt.errors import UserError, one_line, require
from nanogpt.model.device import resolve_device
from nanogpt.study.cells import science_version
from nanogpt.study.estimate import part
from nanogpt.study.quiet_ray import quieten
from nanogpt.study.sharing import written
from nanogpt.study.worker import Conditions, Said, carry_out, result_of
from nanogpt.tracking.handover import check_shared_store, handover
from nanogpt.tracking.resumption import close_below
from nanogpt.tracking.run import open_run_id
from nanogpt.tracking.store_errors import STORE_ERRORS
from nanogpt.training.loop import models_that_fill_gpu

A = TypeVar("A")
R = TypeVar("R")
log = logging.getLogger("nanogpt")

MOST_RETRIES = 5
"""Of a task whose worker died: a node may be taken away more than once, and what kills each worker ends some time."""
MOST_ON_GPU = 8
"""Processes that share a GPU: each of them takes half a gigabyte of it before it does anything."""
SECONDS_BETWEEN_LINES, SECONDS_TO_ANSWER = 30.0, 5.0
ADDRESS = "RAY_ADDRESS"


class RayEngine:
    """Submits a task for each input; what several tasks share is put into Ray's store once."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, resolve_device(config.device).type
        self.things: dict[str, Any] = {}
        self.keys: dict[int, str] = {}              # by identity: `things` keeps them alive
        self.references: dict[str, dict[str, ray.ObjectRef[bytes]]] = {}    # of a thing and of those in it
        self.runs: set[str] = set()                 # below which workers have opened theirs

    def each(self, work: Callable[[A], R], inputs: Sequence[A], shared: Iterable[Any] = (), *, models: int = 1,
             config: Config | None = None) -> Iterator[R]:
        """Submit all inputs at once; a worker's lines are said when its result is due."""
        for thing in shared:
            self.share(thing)
        conditions = Conditions(handover(), self.config.cells.cell_cpus, self.device, science_version())
        self.runs.add(open_run_id())
        content, references = self.written(work)
        job = ray.put((content, conditions))
        # named here and not by `options`: only so has Ray a new process for each task, as torch keeps to its first GPU
        share = self.share_of_gpu(models, config or self.config)
        task = ray.remote(num_cpus=self.config.cells.cell_cpus, num_gpus=share, max_retries=MOST_RETRIES,
                          retry_exceptions=False)(run_task)
        return self.results(deque(task.remote(job, its_content, references | of_input) for its_content, of_input in
                                  map(self.written, inputs)))

    def share_of_gpu(self, models: int, config: Config) -> float:
        """Say how much of a GPU a task takes that trains so many models as one: a small one leaves room for others."""
        if self.device != "cuda":
            return 0.0
        return min(1.0, models / min(MOST_ON_GPU, models_that_fill_gpu(config, vocab_size=0)))

    def results(self, tasks: deque[Any]) -> Iterator[Any]:
        """Give the results of tasks in their order; what was given is kept no longer."""
        total = len(tasks)
        while tasks:
            future = tasks[0].future()      # Python waits for it: a signal that came while Ray waits would be lost
            while not concurrent.futures.wait([future], SECONDS_BETWEEN_LINES).done:
                ended, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
                log.info("      %d of %d are done", total - len(tasks) + len(ended), total)
            tasks.popleft()
            answer, lines = answer_of(future)
            say(lines, part(total - len(tasks), total))
            yield result_of(answer, self.things)

    def share(self, thing: Any) -> None:
        """Put a thing into Ray's store unless it is there."""
        if id(thing) not in self.keys:
            content, references = self.written(thing)
            key = f"thing {len(self.things)}"
            self.references[key] = references | {key: ray.put(content)}
            self.things[key], self.keys[id(thing)] = thing, key

    def written(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        """Give a value as bytes, and where the shared things are that it refers to."""
        content, used = written(value, lambda part: self.keys.get(id(part)))
        return content, {key: reference for thing in used for key, reference in self.references[thing].items()}


def run_task(job: tuple[bytes, Conditions], its_input: bytes, references: dict[str, Any]) -> tuple[bytes, list[Said]]:
    """Carry a piece of work out in a worker."""
    work, conditions = job
    return carry_out(work, its_input, conditions, lambda key: ray.get(references[key]))


def answer_of(task: concurrent.futures.Future[tuple[bytes, list[Said]]]) -> tuple[bytes, list[Said]]:
    """Give what a task has given; what it has raised is raised. UserError where the cluster could not carry it out."""
    try:
        return task.result()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise UserError(f"engine must have workers that live and a cluster that answers ({one_line(str(error))})"
                        ) from error


def say(lines: Sequence[Said], extra: dict[str, float]) -> None:
    """Log what a worker has said; where it told how far it was, all is told to be that far."""
    for said in lines:
        log.log(said.level, "%s", said.text, extra=extra if said.is_progress else None)


@contextlib.contextmanager
def ray_cluster(config: Config) -> Iterator[RayEngine]:
    """Join the cluster of RAY_ADDRESS or begin one on this machine, and leave it, with no run of its workers open."""
    address = os.environ.get(ADDRESS, "")
    check_address(address)
    connect(address)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        hosts = {node["NodeManagerHostname"] for node in nodes}
        check_shared_store(len(hosts))
        check_nodes([node["Resources"] for node in nodes], config)
        cpus, gpus = (ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU"))
        log.info("cells are carried out by Ray on %d machine%s with %d cores and %d GPUs", len(hosts),
                 "s" * (len(hosts) > 1), cpus, gpus)
        engine = RayEngine(config)
        try:
            yield engine
        finally:
            ray.shutdown()
            for run_id in engine.runs:
                with contextlib.suppress(*STORE_ERRORS):    # what is left open then is closed by the next process
                    close_below(run_id)
    finally:
        ray.shutdown()


def check_nodes(resources: Sequence[Mapping[str, float]], config: Config) -> None:
    """UserError where no node of a cluster could carry a cell out: it would be waited for without end."""
    most = int(max(of_node.get("CPU", 0) for of_node in resources))
    require(config.cells.cell_cpus <= most, f"cell_cpus must be at most the {most} cores of a machine of the cluster",
            config.cells.cell_cpus)
    device, gpus = resolve_device(config.device).type, sum(of_node.get("GPU", 0) for of_node in resources)
    require(device != "cuda" or gpus > 0, "device must be cpu on a cluster that was begun without GPUs", device)
    if device == "cpu" and config.device == "auto" and gpus:
        log.warning("cells are carried out on CPUs, as this machine has no GPU; the cluster has %d", gpus)


def check_address(address: str) -> None:
    """UserError where nothing listens at an address: Ray itself tries for minutes, and says so in many lines."""
    host, _, port = address.rpartition(":")
    if address in ("", "auto"):
        return
    is_place = bool(host) and port.isdecimal() and "/" not in host
    require(is_place, f"{ADDRESS} must be host:port of the head of a cluster that this machine is part of (from "
            "elsewhere: ray job submit)", address)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"{ADDRESS} must be the address of a cluster that answers, got {address!r} ({error})"
                        ) from error


def connect(address: str) -> None:
    """Connect this process, without a word of Ray's own and with the signals as they were."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quieten()
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if is_main else None
    code = str(Path(nanogpt.__file__).parents[1])
    try:
        ray.init(address or "local", include_dashboard=None if address else False, log_to_driver=False,
                 logging_level=logging.ERROR, configure_logging=True,
                 job_config=ray.job_config.JobConfig(_py_driver_sys_path=[code]))
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise UserError(f"{ADDRESS} must be the address of a cluster that this machine is part of, got "
                        f"{address or 'none, and none could be begun here'!r} ({one_line(str(error))})") from error
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
