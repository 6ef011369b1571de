"""Batches side by side on the cores of a CPU."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

K = TypeVar("K")


def share_cores() -> int:
    """Return the number of lanes that the cores of torch are best divided into: two, if they are even."""
    return 2 if torch.get_num_threads() % 2 == 0 else 1


def in_workers(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[K, Tensor]], lanes: int
) -> Iterator[tuple[K, Tensor]]:
    """`predict` of each batch, in the order of the batches, so many at a time.

    All cores at one convolution wait for its slowest part, and for whatever reads and writes files
    beside it; two halves of them with a batch each wait for nothing. A batch that is alone, as one field
    that someone waits for, has all cores.

    Args:
        batches: (whatever it is known by, batch), taken one by one, `lanes` + 2 ahead at most.
        lanes: 1 takes batch after batch in the thread of the caller.
    """
    iterator = iter(batches)
    if lanes == 1:
        for key, batch in iterator:
            yield key, predict(batch)
        return
    held = next(iterator, None)
    if held is None:
        return
    following = next(iterator, None)
    if following is None:
        yield held[0], predict(held[1])
        return
    threads = max(1, torch.get_num_threads() // lanes)
    pending: deque[tuple[K, Future[Tensor]]] = deque()
    pool = ThreadPoolExecutor(lanes, "lane", _limit_threads, (threads,))
    try:
        while held is not None:
            pending.append((held[0], pool.submit(predict, held[1])))
            held, following = following, next(iterator, None) if following else None
            if len(pending) > lanes:
                key, future = pending.popleft()
                yield key, future.result()
        for key, future in pending:
            yield key, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _limit_threads(count: int) -> None:
    """Limit the threads of this thread alone: torch's own setting is one of the process."""
    torch.get_num_threads()  # torch sets a thread's number when first asked, and would do so later
    ThreadpoolController().limit(limits=count, user_api="openmp")  # type: ignore[no-untyped-call]
