"""Threads that work ahead: order, errors, and an end that leaves nothing behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from vfn.system.progress import ahead


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_items_come_in_order_and_from_another_thread() -> None:
    makers: set[int] = set()

    def items() -> Iterator[int]:
        for i in range(50):
            makers.add(threading.get_ident())
            yield i

    assert list(ahead(items(), 3)) == list(range(50))
    assert makers != {threading.get_ident()}
    assert not workers()


def test_no_more_items_wait_than_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield i

    stream = ahead(items(), 2)
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert made == [0, 1, 2, 3]  # one was taken, two wait, one is in the hand
    stream.close()
    assert not workers()


def test_an_error_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second one")

    stream = ahead(items(), 5)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="no second one"):
        next(stream)
    assert not workers()


def test_who_stops_asking_ends_the_thread_and_its_source() -> None:
    ended: list[bool] = []

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append(True)

    for item in (stream := ahead(items(), 1)):
        assert item == 1
        break
    stream.close()
    assert ended == [True]
    assert not workers()
