"""Progress of anything slow: a bar on a terminal, a plain line now and then elsewhere."""

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
    """Pass `items` through and show how many of `total` are done."""
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
    """Pass `items` through, made by a thread of its own that is up to `count` items ahead.

    An error of the thread is raised here, in its turn; whoever stops asking stops the thread.
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
    """Nothing more comes, because of `error` if there is one."""

    error: BaseException | None


def progress_bytes(chunks: Iterable[bytes], done: int, total: int, label: str) -> Iterator[bytes]:
    """Pass `chunks` through and show how many of `total` bytes are there; 0 if nobody knows.

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
