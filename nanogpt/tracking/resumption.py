"""What processes that ended too early have left in the store: runs to be closed, a study that can go on, its cells.

A run carries the digest of all that its result depends on (CELL) from its beginning, and WHOLE from the moment when
its result is kept. Whether the process of a run still lives is told on its own host by the process itself, on others
by the load of the machine that the outermost run logs every ten seconds.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking.fluent import _get_experiment_id

from nanogpt.config import RESUME_AUTO, RESUME_OFF
from nanogpt.errors import UserError, require
from nanogpt.model.processes import is_dead, this_process
from nanogpt.tracking.new_store import create_missing_store
from nanogpt.tracking.run import CELL, PROCESS, WHOLE, TrackedRun, run_above

log = logging.getLogger("nanogpt")

SILENT_SECONDS = 120.0
"""A process of another host that has not been heard of for so long is taken for dead."""
CLAIM_SECONDS = 0.3
"""Of two processes that would continue the same study the one that says so last does; the other sees it by then."""


@dataclass(frozen=True)
class StoredCell:
    """The run of a cell, and whether its result is kept in it."""

    run: TrackedRun
    is_whole: bool


def close_dead_runs() -> None:
    """Mark the runs of dead processes KILLED, or FINISHED where their result is whole."""
    create_missing_store()
    running = mlflow.search_runs(search_all_experiments=True, output_format="list",
                                 filter_string="attributes.status = 'RUNNING'")
    by_process: dict[str, list[Run]] = {}
    for run in running:
        by_process.setdefault(run.data.tags.get(PROCESS, ""), []).append(run)
    for process, runs in by_process.items():
        if process and has_ended(process, runs):
            close(runs)


def close(runs: Iterable[Run]) -> None:
    """Mark runs that nobody has open any more KILLED, or FINISHED where their result is whole."""
    for run in runs:
        status = "FINISHED" if WHOLE in run.data.tags else "KILLED"
        mlflow.MlflowClient().set_terminated(run.info.run_id, status)


def close_below(run_id: str) -> None:
    """Close what is open below a run, whose workers have ended."""
    close(mlflow.search_runs(search_all_experiments=True, output_format="list", filter_string=
                             f"tags.mlflow.parentRunId = '{run_id}' AND attributes.status = 'RUNNING'"))


def has_ended(process: str, runs: list[Run]) -> bool:
    """Tell whether the process of these open runs is dead; one of another host that is silent is taken for dead."""
    owner = parsed(process)
    if owner is None or owner["host"] == this_process()["host"]:
        return is_dead(owner)
    signs = [metric.timestamp for run in runs for metric in run.data._metric_objs]
    latest = max([*signs, *(run.info.start_time for run in runs)]) / 1000
    return time.time() - latest > SILENT_SECONDS


def parsed(process: str) -> dict[str, Any] | None:
    """Read the tag PROCESS, which anybody may change in the UI; None where it is none."""
    try:
        value = json.loads(process)
        return {"host": str(value["host"]), "pid": int(value["pid"]), "started": float(value["started"])}
    except (ValueError, KeyError, TypeError):
        return None


def stopped_study(digest: str, resume: str) -> str:
    """Find the study of this digest that goes on, by the id of its run; '' where a new one begins.

    `resume` is RESUME_OFF, RESUME_AUTO (the newest of the experiment that did not finish and whose process is dead) or
    the id of a study's run. UserError where that is none, is of other settings, texts or code, or still runs.
    """
    close_dead_runs()
    if resume == RESUME_OFF:
        return ""
    if resume != RESUME_AUTO:
        return checked_study(digest, resume)
    same = mlflow.search_runs([str(_get_experiment_id())], f"tags.phase = 'study' AND tags.`{CELL}` = '{digest}' AND "
                              "attributes.status != 'FINISHED'", output_format="list",
                              order_by=["attributes.start_time DESC"])
    for run in same:
        if run.info.status == "RUNNING":
            log.info("the same study runs as %s: this one begins anew", run.info.run_id)
        elif is_left(run) and claim(run.info.run_id):
            return str(run.info.run_id)
    return ""


def is_left(run: Run) -> bool:
    """Tell whether no process has just taken over a run that is not open."""
    owner = parsed(run.data.tags.get(PROCESS, ""))
    return owner is None or owner["host"] != this_process()["host"] or owner == this_process() or is_dead(owner)


def checked_study(digest: str, run_id: str) -> str:
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise UserError(f"resume must be {RESUME_AUTO}, {RESUME_OFF} or the id of a study's run, got {run_id!r}"
                        ) from error
    require(run.data.tags.get("phase") == "study", "resume must be the id of a study's run", run_id)
    require(run.data.tags.get(CELL) == digest, "resume must be a study of these settings, texts and code", run_id)
    is_free = run.info.status != "RUNNING" and is_left(run) and claim(run_id)
    require(is_free, "resume must be a study that no process runs", run_id)
    return run_id


def claim(run_id: str) -> bool:
    """Take a run over; False where another process does the same and is later."""
    mine, client = json.dumps(this_process()), mlflow.MlflowClient()
    client.set_tag(run_id, PROCESS, mine)
    time.sleep(CLAIM_SECONDS)
    return bool(client.get_run(run_id).data.tags.get(PROCESS) == mine)


def cells_below(run: TrackedRun) -> Mapping[str, StoredCell]:
    """Find the cells of a study by their digests; of several runs of one cell the whole one, else the newest."""
    return by_digest(runs_below(run.id, run.experiment_id))


def cell_above(digest: str) -> StoredCell | None:
    """Find, in a worker, the cell that an earlier one has begun and died; its run, if it was left open, is closed."""
    above = run_above()
    if above is None:
        return None
    begun = runs_below(above.id, above.experiment_id, f"AND tags.`{CELL}` = '{digest}'")
    close(run for run in begun if run.info.status == "RUNNING")
    return by_digest(begun).get(digest)


def runs_below(run_id: str, experiment_id: str, rule: str = "") -> Sequence[Run]:
    return mlflow.search_runs([experiment_id], f"tags.mlflow.parentRunId = '{run_id}' {rule}", output_format="list",
                              order_by=["attributes.start_time ASC"])


def by_digest(runs: Iterable[Run]) -> Mapping[str, StoredCell]:
    """Give the cells of runs, the oldest first, by their digests."""
    cells: dict[str, StoredCell] = {}
    for stored in runs:
        tags, info = stored.data.tags, stored.info
        digest, is_whole = tags.get(CELL), WHOLE in tags
        if digest and (is_whole or digest not in cells or not cells[digest].is_whole):
            cells[digest] = StoredCell(TrackedRun(info.run_id, info.experiment_id, info.run_name), is_whole)
    return cells
