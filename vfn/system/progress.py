"""Progress as a bar on a terminal, else as a plain line now and then."""

import logging
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Full, Queue
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
    track,
)  # fmt: skip

T = TypeVar("T")
LINE_SECONDS = 10.0  # between plain lines where the output is no terminal

log = logging.getLogger(__name__)


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield `items` and show how many of `total` are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, label, total, console=console, transient=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last > LINE_SECONDS:
            log.info("%s: %d of %d", label, done, total)
            last = now
        yield item


def ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """Yield `items`, which a thread makes up to `count` items ahead.

    An error of the thread is raised here; closing the generator stops the thread.
    """
    ready: Queue[T | _End] = Queue(count)
    stopped = threading.Event()

    def offer(item: T | _End) -> None:
        while not stopped.is_set():
            with suppress(Full):
                ready.put(item, timeout=0.1)
                return

    def make() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                offer(item)
                if stopped.is_set():
                    break
            offer(_End(None))
        except BaseException as exc:  # noqa: BLE001 - it is raised where the items are asked for
            offer(_End(exc))
        finally:
            if isinstance(iterator, Generator):  # in its own thread
                iterator.close()

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()


@dataclass(frozen=True)
class _End:
    """The end of the items, or the error that ended them."""

    error: BaseException | None


def progress_bytes(chunks: Iterable[bytes], done: int, total: int, label: str) -> Iterator[bytes]:
    """Yield `chunks` and show how many of `total` bytes have arrived; 0 if unknown.

    Args:
        done: bytes that were there before.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total or None, completed=done)
            for chunk in chunks:
                yield chunk
                bar.advance(task, len(chunk))
        return
    last = time.monotonic()
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        now = time.monotonic()
        if now - last > LINE_SECONDS:
            log.info("%s: %s of %s", label, decimal(done), decimal(total) if total else "?")
            last = now
