"""What a worker of a cluster does with a piece of work: it takes over the store, works, and says what it has to say."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nanogpt.errors import UserError, require
from nanogpt.model.allocator import keep_freed_memory
from nanogpt.model.device import resolve_device
from nanogpt.study.cells import science_version
from nanogpt.study.sharing import KeptThings, read, written
from nanogpt.tracking.handover import Handover, taken_over
from nanogpt.tracking.store_errors import STORE_ERRORS, explain

kept = KeptThings()
"""What this process has got of things that many pieces of work share."""


@dataclass(frozen=True)
class Conditions:
    """Under which a piece of work gives what the process above would have got itself."""

    handed: Handover
    threads: int
    device: str             # its type
    science: str            # the version of the code that numbers depend on

    def meet(self) -> None:
        """Set this process up. UserError where it cannot be as the one above."""
        require(science_version() == self.science, "all nodes of the cluster must have the nanogpt and the torch of "
                "the machine that the study was started on", science_version()[:12])
        if self.device != "cuda":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        require(resolve_device("auto").type == self.device or self.device == "cpu",
                f"all nodes of the cluster must have a device of the type {self.device}", resolve_device("auto").type)
        torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Said:
    """A line of the log, and whether it told how far the work was."""

    level: int
    text: str
    is_progress: bool


class Listener(logging.Handler):
    """Keeps what the package says; of lines that tell how far the work is, one after the other, the last."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Said] = []

    def emit(self, record: logging.LogRecord) -> None:
        said = Said(record.levelno, record.getMessage(), hasattr(record, "share_of_phase"))
        if said.is_progress and self.lines and self.lines[-1].is_progress:
            self.lines.pop()
        self.lines.append(said)


def carry_out(work: bytes, its_input: bytes, conditions: Conditions, bytes_of: Callable[[str], bytes]
              ) -> tuple[bytes, list[Said]]:
    """Call a function with its input, both written, and write the result; an iterator's as the list of its items.

    `bytes_of` gives the bytes of a shared thing by its key. UserError where the store fails in a way that is known.
    """
    listener, logger = Listener(), logging.getLogger("nanogpt")
    logger.handlers, logger.propagate = [listener], False
    logger.setLevel(logging.INFO)
    keep_freed_memory()
    conditions.meet()
    with taken_over(conditions.handed), known_errors_told():
        function, value = (read(content, lambda key: kept.get(key, bytes_of)) for content in (work, its_input))
        result = function(value)
        if isinstance(result, Iterator):
            result = list(result)
    keys: Mapping[int, str] = kept.keys()
    answer, _ = written(result, lambda value: keys.get(id(value)))
    return answer, listener.lines


@contextlib.contextmanager
def known_errors_told() -> Iterator[None]:
    """Raise what is known of the store's errors as UserError: an error of a library may not reach another process."""
    try:
        yield
    except STORE_ERRORS as error:
        if advice := explain(error):
            raise UserError(advice) from error
        raise


def result_of(answer: bytes, things: Mapping[str, Any]) -> Any:
    """Read a result, in which the shared things are those that the reader has."""
    return read(answer, things.__getitem__)
