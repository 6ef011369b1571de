"""Batches side by side: order, cores, errors, and an end that leaves no thread behind."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vfn.inference.workers import in_workers, share_cores


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def batches(count: int) -> Iterator[tuple[int, Tensor]]:
    return ((i, torch.full((1,), float(i))) for i in range(count))


def workers_at_work() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_every_batch_comes_once_and_in_order(lanes: int, count: int) -> None:
    got = [(key, float(y)) for key, y in in_workers(lambda x: 10 * x, batches(count), lanes)]
    assert got == [(i, 10.0 * i) for i in range(count)]
    assert not workers_at_work()


def test_lanes_share_the_cores_and_a_batch_alone_has_all() -> None:
    seen: set[tuple[int, int]] = set()

    def predict(x: Tensor) -> Tensor:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return x

    list(in_workers(predict, batches(1), 2))
    assert seen == {(threading.get_ident(), 4)}
    seen.clear()
    barrier = threading.Barrier(2, timeout=30)  # both lanes are at work at once, or this breaks

    def together(x: Tensor) -> Tensor:
        barrier.wait()
        return predict(x)

    list(in_workers(together, batches(8), 2))
    assert {threads for _, threads in seen} == {2}
    assert len({ident for ident, _ in seen} - {threading.get_ident()}) == 2
    assert torch.get_num_threads() == 4  # of every other thread
    made: list[int] = []
    other = threading.Thread(target=lambda: made.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert made == [4]


def test_no_more_batches_wait_than_promised() -> None:
    taken = []

    def watched() -> Iterator[tuple[int, Tensor]]:
        for key, batch in batches(50):
            taken.append(key)
            yield key, batch

    stream = in_workers(lambda x: x, watched(), 2)
    for done in range(40):
        assert next(stream)[0] == done
        assert len(taken) <= done + 1 + 2 + 2
    stream.close()
    assert not workers_at_work()


def test_an_error_comes_in_its_turn_and_ends_the_lanes() -> None:
    def predict(x: Tensor) -> Tensor:
        if x == 2:
            raise ValueError("not this one")
        return x

    stream = in_workers(predict, batches(30), 2)
    assert [next(stream)[0], next(stream)[0]] == [0, 1]
    with pytest.raises(ValueError, match="not this one"):
        next(stream)
    assert not workers_at_work()


@pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (2, 2), (3, 1), (16, 2)])
def test_no_core_is_left_out(threads: int, lanes: int) -> None:
    torch.set_num_threads(threads)
    assert share_cores() == lanes
