"""A trick: settings of the C library's allocator, for the whole process.

It may go when a training step takes as long without it (`benchmarks/train_speed.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks instead of returning them to the system after each use.

    By default each activation over 128 kB is mapped afresh and its pages are zeroed by the kernel: 18 % of a
    training step on two cores (benchmarks/README.md). Elsewhere than on glibc it does nothing. It holds for the
    whole process, so the programs call it (commands, benchmarks) and no library function does.
    """
    with contextlib.suppress(OSError, AttributeError):
        trim_threshold, mmap_threshold, gigabyte = -1, -3, 1 << 30
        libc = library()
        libc.mallopt(mmap_threshold, gigabyte)
        libc.mallopt(trim_threshold, gigabyte)


def return_freed_memory() -> None:
    """Return to the system what was freed, where work of another kind begins: after texts were read or counted."""
    with contextlib.suppress(OSError, AttributeError):
        library().malloc_trim(0)


def library() -> ctypes.CDLL:
    """Load the C library. OSError where it is not Linux's; functions that it lacks are AttributeErrors."""
    if not sys.platform.startswith("linux"):
        raise OSError("no glibc")
    return ctypes.CDLL(None)
