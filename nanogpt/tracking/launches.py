"""The run that a launch of several processes has begun: after a restart the launcher's processes find it again.

torch's launcher (torchrun) starts all processes anew, with the command line as it was, when one has ended before its
time. The run bears the launcher's own process, which outlives them, and the name that the user gave to the launch
(--rdzv-id): of several hosts the first process may move to another one. A name may be used again, so it counts in a
restart alone, and together with the command line.
"""

from __future__ import annotations

import hashlib
import json
import sys

import mlflow

from nanogpt.model.launch import UNNAMED, launch
from nanogpt.model.processes import parent_process
from nanogpt.tracking.new_store import create_missing_store

LAUNCHER, LAUNCH = "nanogpt.launcher", "nanogpt.launch"
"""Tags of an outermost run: the process of its launcher; a digest of the launch's name and command line."""


def launch_tags() -> dict[str, str]:
    """Name the launch that this process belongs to; none where no launcher has started it."""
    launched = launch()
    if launched is None:
        return {}
    tags = {LAUNCHER: json.dumps(parent_process())}
    if launched.name != UNNAMED:
        tags[LAUNCH] = hashlib.sha256(json.dumps([launched.name, sys.argv[1:]]).encode()).hexdigest()
    return tags


def runs_of_launch() -> list[str]:
    """List the ids of the runs that this process's launch has begun before it was restarted, the newest first."""
    launched, tags = launch(), launch_tags()
    if launched is None:
        return []
    create_missing_store()
    counted = [LAUNCHER] if launched.restarts == 0 else [name for name in (LAUNCHER, LAUNCH) if name in tags]
    found = [run for name in counted for run in mlflow.search_runs(
        search_all_experiments=True, output_format="list", filter_string=f"tags.`{name}` = '{tags[name]}'")]
    by_id = {run.info.run_id: run.info.start_time for run in found}
    return sorted(by_id, key=by_id.__getitem__, reverse=True)
