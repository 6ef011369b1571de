"""Progress as a bar on a terminal, else as a plain line now and then."""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import rich.progress as bars
from rich.console import Console
from rich.filesize import decimal

T = TypeVar("T")
LINE_SECONDS = 10.0  # between plain lines where the output is no terminal
END = object()

log = logging.getLogger(__name__)


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield `items` and show how many of `total` are done."""
    return _shown(items, 0, total, label, bars.Progress.get_default_columns(), lambda _: 1, str)


def progress_bytes(chunks: Iterable[bytes], done: int, total: int, label: str) -> Iterator[bytes]:
    """Yield `chunks` and show how many of `total` bytes have arrived; 0 if unknown.

    Args:
        done: bytes that were there before.
    """
    columns = (
        bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn(),
        bars.TransferSpeedColumn(), bars.TimeRemainingColumn(),
    )  # fmt: skip
    return _shown(chunks, done, total, label, columns, len, decimal)


def _shown(
    items: Iterable[T],
    done: int,
    total: int,
    label: str,
    columns: Sequence[str | bars.ProgressColumn],
    size: Callable[[T], int],
    text: Callable[[int], str],
) -> Iterator[T]:
    console = Console(stderr=True)
    if console.is_terminal:
        with bars.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total or None, completed=done)
            for item in items:
                yield item
                bar.advance(task, size(item))
        return
    last = time.monotonic()
    for item in items:
        yield item
        done += size(item)
        if time.monotonic() - last > LINE_SECONDS:
            log.info("%s: %s of %s", label, text(done), text(total) if total else "?")
            last = time.monotonic()


def ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """Yield `items`, which a thread makes up to `count` items ahead.

    An error of the thread is raised here; closing the generator stops the thread.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "ahead") as pool:
        pending: deque[Future[Any]] = deque()
        try:
            pending += (pool.submit(next, iterator, END) for _ in range(count + 1))
            while (item := pending.popleft().result()) is not END:
                pending.append(pool.submit(next, iterator, END))
                yield item
        finally:
            for future in pending:
                future.cancel()
            if isinstance(iterator, Generator):
                pool.submit(iterator.close).result()  # in the thread that it runs in
