"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next use, in one heap for all threads; whether there is a glibc.

    By default pictures and features of tens of megabytes, which come and go with each frame, return to the system every
    time, and every page of the next one costs a fault, the more the more threads there are. For a process that ends
    with its work, as each ``msr`` command does: it stays as large as it was at its peak.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (AttributeError, OSError):
        return False
    if mallopt is None or mallopt(_ARENA_MAX, 1) != 1 or mallopt(_TRIM_THRESHOLD, 2**31 - 1) != 1:
        return False
    # Some versions refuse more than 32 MB, and what they had before, once anything is set, is 128 KB.
    return any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in (2**31 - 1, 32 << 20))
