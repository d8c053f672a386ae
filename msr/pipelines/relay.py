"""Work that overlaps: a thread that reads ahead, a thread that writes behind, and queues that cannot hang."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds to wait for a thread whose work nobody wants any more; one that is stuck in a read (a silent pipe) is left
#: behind, and being a daemon it does not keep the process alive.
_PATIENCE = 5.0


class Abandoned(Exception):
    """The other side of a channel is gone; raised in a thread that then has nothing left to do but to clean up."""


class Channel(Generic[T]):
    """A bounded queue between two threads in which the end of either side wakes the other.

    A plain queue hangs when its consumer dies while it is full, or its producer while it is empty. Here the producer
    ends with ``close``, and the consumer with ``abandon``; whoever waits then wakes at once.

    Args:
        size: how many items may wait; at least 1.

    Example:
        >>> channel = Channel(2)
        >>> channel.put("a")
        >>> channel.close()
        >>> list(channel)
        ['a']
    """

    def __init__(self, size: int) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._changed = threading.Condition()
        self._closed = False
        self._abandoned = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Add an item, waiting while the channel is full.

        Raises:
            Abandoned: nobody will take it.
        """
        with self._changed:
            while len(self._items) >= self._size and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                raise Abandoned
            self._items.append(item)
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """Say that no more items come, because the work is done or because of ``error``, which the consumer gets."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Say that no more items are taken; what waits is dropped."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Take the items in order; after the last one the producer's error is raised, if there was one."""
        while True:
            with self._changed:
                while not self._items and not self._closed and not self._abandoned:
                    self._changed.wait()
                if self._abandoned:
                    raise Abandoned
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


@contextlib.contextmanager
def read_ahead(source: Iterable[T], size: int, patience: float | None = _PATIENCE) -> Iterator[Iterator[T]]:
    """Run an iterable in a thread of its own, up to ``size`` items ahead.

    Args:
        source: what to iterate, once; its errors appear in the iteration, after the items before them.
        size: how many items may wait.
        patience: seconds to wait at the end for the item that is being made; None for as long as it takes.

    Yields:
        An iterator over the items. When the block ends the thread is told to stop.

    Example:
        >>> with read_ahead(range(3), 2) as items:
        ...     list(items)
        [0, 1, 2]
    """
    channel: Channel[T] = Channel(size)

    def run() -> None:
        try:
            for item in source:
                channel.put(item)
            channel.close()
        except Abandoned:
            pass
        except BaseException as error:
            channel.close(error)

    thread = threading.Thread(target=run, name="msr reader", daemon=True)
    thread.start()
    try:
        yield iter(channel)
    finally:
        channel.abandon()
        thread.join(patience)


@contextlib.contextmanager
def write_behind(consume: Callable[[Iterator[T]], None], size: int) -> Iterator[Callable[[T], None]]:
    """Run a consumer in a thread of its own, up to ``size`` items behind.

    Args:
        consume: takes an iterator over the items; when the block fails, the iterator raises ``Abandoned`` in it, so
            that it can clean up.
        size: how many items may wait.

    Yields:
        A function that hands over one item; it raises the consumer's error if that has failed. When the block ends
        well it waits until the consumer has ended, and raises its error.

    Example:
        >>> taken = []
        >>> with write_behind(taken.extend, 2) as put:
        ...     put(1)
        ...     put(2)
        >>> taken
        [1, 2]
    """
    channel: Channel[T] = Channel(size)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            consume(iter(channel))
        except Abandoned:
            pass
        except BaseException as error:
            failure.append(error)
        finally:
            channel.abandon()

    def put(item: T) -> None:
        try:
            channel.put(item)
        except Abandoned:
            if failure:
                raise failure[0] from None
            raise

    thread = threading.Thread(target=run, name="msr writer", daemon=True)
    thread.start()
    try:
        yield put
        channel.close()
        thread.join()
    except BaseException:
        channel.abandon()
        thread.join(_PATIENCE)
        raise
    if failure:
        raise failure[0]
