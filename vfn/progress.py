"""Progress of anything slow: a bar on a terminal, a plain line now and then elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
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
