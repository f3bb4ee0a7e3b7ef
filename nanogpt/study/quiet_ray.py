"""A trick: what Ray's nodes report to the process that uses them is a line of the log, not pages on standard output.

Ray prints it there whatever `log_to_driver` says (2.60: `listen_error_messages`). It may go when that keeps it quiet:
the log of tests/slow/test_ray.py then says nothing of raylets without it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray._private import worker

from nanogpt.errors import one_line

log = logging.getLogger("nanogpt")


def quieten() -> None:
    """Have the first sentence of each report logged, for the whole process."""
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = tell


def tell(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    for text in data["lines"]:
        log.warning("      Ray: %s", one_line(text).partition(". ")[0])
