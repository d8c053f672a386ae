"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next use, in one heap for all threads; whether there is a glibc.

    By default pictures of tens of megabytes, which come and go with each frame of a burst, return to the system every
    time, and every page of the next one costs a fault. For a process that ends with its work: it stays as large as it
    was at its peak.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (AttributeError, OSError):
        return False
    settings = ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_THRESHOLD, 2**31 - 1))
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)
