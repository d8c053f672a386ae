"""Threads and queues: whatever dies, nobody waits for it."""

import threading
import time
from collections.abc import Iterator

import pytest

from msr.pipelines.relay import read_ahead, write_behind


def numbers(count: int, fail: BaseException | None = None) -> Iterator[int]:
    yield from range(count)
    if fail is not None:
        raise fail


def taken(items: Iterator[int], into: list[int]) -> None:
    into.extend(items)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(thread.name.startswith("msr ") for thread in threading.enumerate()):
        time.sleep(0.01)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("msr ")]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_everything_arrives_in_order(size: int) -> None:
    into: list[int] = []
    with read_ahead(numbers(50), size) as items, write_behind(lambda rest: taken(rest, into), size) as put:
        for item in items:
            put(item)
    assert into == list(range(50))


def test_no_more_is_read_than_may_wait() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for index in range(100):
            read.append(index)
            yield index

    with read_ahead(source(), 3) as items:
        assert next(items) == 0
        time.sleep(0.1)
        # One handed over, three that wait, one in the reader's hands.
        assert len(read) <= 5


def test_an_error_of_the_reader_comes_after_the_items_before_it() -> None:
    into: list[int] = []

    def work() -> None:
        with read_ahead(numbers(7, ValueError("frame 7")), 2) as items:
            for item in items:
                into.append(item)

    with pytest.raises(ValueError, match="frame 7"):
        work()
    assert into == list(range(7))


@pytest.mark.parametrize("error", [ValueError("full"), MemoryError(), SystemExit(3)])
def test_a_writer_that_dies_stops_the_work_even_with_a_full_queue(error: BaseException) -> None:
    def consume(items: Iterator[int]) -> None:
        next(items)
        raise error

    handed = 0

    def work() -> None:
        nonlocal handed
        with write_behind(consume, 1) as put:
            for handed in range(1000):
                put(handed)

    with pytest.raises(type(error)):
        work()
    assert handed < 10


def test_a_writer_that_dies_at_the_very_end_is_heard() -> None:
    def consume(items: Iterator[int]) -> None:
        list(items)
        raise OSError("no space for the last words")

    with pytest.raises(OSError, match="last words"), write_behind(consume, 1) as put:
        put(1)


def test_work_that_fails_stops_both_threads_and_lets_the_writer_clean_up() -> None:
    cleaned = threading.Event()

    def consume(items: Iterator[int]) -> None:
        try:
            list(items)
        finally:
            cleaned.set()

    def forever() -> Iterator[int]:
        while True:
            yield 0

    def work() -> None:
        with read_ahead(forever(), 2) as items, write_behind(consume, 2) as put:
            for count, item in enumerate(items):
                put(item)
                if count == 20:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert cleaned.is_set()


def test_a_consumer_that_leaves_early_stops_the_reader() -> None:
    with read_ahead(numbers(10**9), 2) as items:
        assert [next(items), next(items)] == [0, 1]
