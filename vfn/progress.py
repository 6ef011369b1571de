"""Progress of anything slow: a bar on a terminal, a plain line now and then elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

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
