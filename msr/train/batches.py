"""Batches made by a thread while the network works: the batch of a step is the same whenever training began."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator

import numpy as np
from torch import Tensor

from msr.pipelines.relay import read_ahead
from msr.train.tasks import Task


def batches(task: Task, seed: int, first: int = 0, rank: int = 0) -> Generator[dict[str, Tensor]]:
    """Endless batches from step ``first`` on, those of a run that began at step 0; closed, it has no thread left.

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

    def made() -> Iterator[dict[str, Tensor]]:
        # A task may simulate several batches at once: they are made again from the first of them.
        for step in itertools.count(first - first % task.period):
            batch = task.sample(np.random.default_rng((seed, rank, step)))
            if step >= first:
                yield batch

    # Without patience: Python ends a thread that it finds at work when it exits itself, and in compiled code, which
    # does not expect that, this aborts the process.
    with read_ahead(made(), 4, patience=None) as ready:
        yield from ready
