"""A trick: a setting of the C library's allocator, for the whole process.

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
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            trim_threshold, mmap_threshold, gigabyte = -1, -3, 1 << 30
            libc.mallopt(mmap_threshold, gigabyte)
            libc.mallopt(trim_threshold, gigabyte)
