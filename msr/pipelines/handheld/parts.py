"""Large pictures worked on in parts: what lies between one step and the next stays in the processor's cache."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier

import torch

#: Pixels of a part, about, where a step holds some pictures of that size at once.
_PIXELS = 1 << 18


def rows_at_once(width: int, step: int = 2) -> int:
    """How many rows a part has: a multiple of ``step``.

    Example:
        >>> rows_at_once(4000, 16)
        64
    """
    return max(step, round(_PIXELS / max(width, 1) / step) * step)


def in_parts(height: int, rows: int, device: torch.device, work: Callable[[int, int], None]) -> None:
    """Call ``work(top, bottom)`` for parts of so many rows until all are done, on the CPU one for each of its threads.

    Each thread computes alone, without waiting for others after every step of the work. On a GPU a part has 64 times
    the rows, which keeps it busy and the memory of a step small.

    Args:
        height: rows of all.
        rows: of a part.
        device: where the work is done.
        work: must not depend on what it does for other parts.

    Example:
        >>> found = []
        >>> in_parts(5, 2, torch.device("cpu"), lambda top, bottom: found.append((top, bottom)))
        >>> sorted(found)
        [(0, 2), (2, 4), (4, 5)]
    """
    if device.type != "cpu":
        for top in range(0, height, 64 * rows):
            work(top, min(top + 64 * rows, height))
        return
    threads = torch.get_num_threads()

    def one(top: int) -> None:
        with torch.inference_mode():
            work(top, min(top + rows, height))

    tops = range(0, height, rows)
    if threads == 1 or len(tops) == 1:
        for top in tops:
            one(top)
        return
    parts = [_pool(threads).submit(one, top) for top in tops]
    try:
        for part in parts:
            part.result()
    finally:
        for part in parts:
            part.cancel()
        wait(parts)
        torch.set_num_threads(threads)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work, for to start them takes as long as some work does; each computes alone."""
    pool = ThreadPoolExecutor(threads, initializer=_compute_alone)
    # All start now: what a late one asks for would count for the caller, too.
    all_there = Barrier(threads)
    wait([pool.submit(all_there.wait) for _ in range(threads)])
    return pool


def _compute_alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the number at its first question, by then perhaps the caller's


# A fork has none of the threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
