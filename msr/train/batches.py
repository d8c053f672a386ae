"""Batches made by a thread while the network works: the batch of a step is the same whenever training began."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator

import numpy as np
from torch import Tensor

from msr.train.tasks import Task


def batches(task: Task, seed: int, first: int = 0, rank: int = 0) -> Generator[dict[str, Tensor]]:
    """Endless batches from step ``first`` on, those of a run that began at step 0.

    Args:
        task: makes them.
        seed: of the run; with the rank and the number of the step it seeds a batch.
        first: the step whose batch comes first.
        rank: of this process; each has its own batches.

    Raises:
        Exception: what the task raises, in the thread of the caller.

    Example:
        >>> next(batches(task, seed=0))["lr"].shape    # doctest: +SKIP
        torch.Size([16, 3, 32, 32])
    """
    ready: queue.Queue[dict[str, Tensor] | BaseException] = queue.Queue(maxsize=4)
    stop = threading.Event()

    def put(item: dict[str, Tensor] | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            # A task may simulate several batches at once: they are made again from the first of them.
            step = first - first % task.period
            while not stop.is_set():
                batch = task.sample(np.random.default_rng((seed, rank, step)))
                if step >= first:
                    put(batch)
                step += 1
        except BaseException as error:  # carried over to the training thread
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
