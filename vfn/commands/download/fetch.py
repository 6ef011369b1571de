"""Downloads that go on where they broke off (RFC 9110, sec. 13.1.5 and 14.2)."""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import requests

from vfn.errors import UserError
from vfn.system.progress import progress_bytes

WAITS = (1.0, 3.0, 10.0, 30.0)  # s, before another attempt where the last one brought no new byte
TIMEOUT = 60.0  # s without a byte
CHUNK = 2**16  # bytes; so many at most are lost where a connection breaks off

T = TypeVar("T")
log = logging.getLogger(__name__)


class FailedError(Exception):
    """A failure of the network or the server; another attempt may succeed."""


def patiently(url: str, attempt: Callable[[], T], arrived: Callable[[], int] = lambda: 0) -> T:
    """Retry `attempt` after growing pauses while the network or the server fails.

    Args:
        arrived: bytes so far; where an attempt brought more than any before, the pauses start anew.

    Raises:
        UserError: no attempt succeeded, or `url` is no address.
    """
    waits, most = iter(WAITS), arrived()
    while True:
        try:
            return attempt()
        except (requests.RequestException, FailedError) as exc:
            if isinstance(exc, ValueError):  # so requests marks addresses that cannot be one
                raise UserError(f"{url}: {exc}; correct --url") from exc
            reason = _words(exc)
            if arrived() > most:
                waits, most = iter(WAITS), arrived()
            pause = next(waits, None)
            if pause is None:
                raise UserError(
                    f"{url}: {reason}, {len(WAITS) + 1} times in a row; try later (the same command goes on "
                    "where it stopped), or another server by --url"
                ) from exc
        log.warning("%s: %s; trying again in %g s", url, reason, pause)
        time.sleep(pause)


def _words(exc: Exception) -> str:
    """Return the cause of a failure, without the layers of requests and urllib3."""
    if isinstance(exc, FailedError):
        return str(exc)
    if isinstance(exc, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(exc, requests.Timeout):
        return f"no answer for {TIMEOUT:g} s"
    inner = getattr(exc.args[0], "reason", exc) if exc.args else exc
    return f"no connection ({str(inner).rpartition(': ')[2]})"


def _ask(
    method: str, url: str, headers: Mapping[str, str], allowed: Sequence[int] = ()
) -> requests.Response:
    """Return a response with its body still unread.

    Raises:
        UserError: the server refuses.
        FailedError: it fails, or is busy.
    """
    # Packed on the way, lengths and ranges would not be those of the file.
    headers = {"Accept-Encoding": "identity", **headers}
    reply = requests.request(
        method, url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=True
    )
    status = reply.status_code
    if reply.ok or status in allowed:
        return reply
    reply.close()
    says = f"the server answers {status} {reply.reason}"
    if status >= 500 or status in (408, 429):
        raise FailedError(says)
    raise UserError(f"{url}: {says}; check the address, or give another by --url")


def size_of(url: str) -> int:
    """Return the size of the file at `url` in bytes, 0 if the server does not say."""
    with _ask("HEAD", url, {}) as reply:
        return _length(reply)


def _length(reply: requests.Response) -> int:
    length = reply.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else 0


def _version(reply: requests.Response) -> str:
    """Return the value for `If-Range`: a strong ETag, else the date, else an empty string."""
    etag = reply.headers.get("ETag", "")
    return etag if etag.startswith('"') else reply.headers.get("Last-Modified", "")


def part_of(path: Path) -> Path:
    """Return the name of the partial download of `path`."""
    return path.with_name(f"{path.name}.part")


def held_bytes(path: Path) -> int:
    """Return the size of `path` in bytes, 0 if it is missing."""
    return path.stat().st_size if path.exists() else 0


def fetch(url: str, path: Path, label: str) -> None:
    """Download `url` to `path`, continuing an earlier partial download.

    NAME.part holds the bytes so far, NAME.part.version the version of the file that they belong to.

    Raises:
        UserError: the server refuses, or fails again and again.
    """
    part = part_of(path)
    version = part.with_name(part.name + ".version")
    patiently(url, partial(_fetch_rest, url, part, version, label), partial(held_bytes, part))
    os.replace(part, path)
    version.unlink(missing_ok=True)


def _fetch_rest(url: str, part: Path, version: Path, label: str) -> None:
    """Request the missing bytes, or all of them if the file has changed.

    Raises:
        UserError, FailedError: see `_ask`; the file changed; fewer bytes came than were promised.
    """
    known = version.read_text(encoding="utf-8") if version.exists() else ""
    held = held_bytes(part) if known else 0
    headers = {"Range": f"bytes={held}-", "If-Range": known} if held else {}
    with _ask("GET", url, headers, allowed=(416,)) as reply:
        span = reply.headers.get("Content-Range", "")
        if held and reply.status_code == 416 and span == f"bytes */{held}":
            return  # whole already: the last call was stopped just before it could say so
        if reply.status_code == 200:
            held, total = 0, _length(reply)
            part.unlink(missing_ok=True)  # before its version is forgotten
            version.write_text(_version(reply), encoding="utf-8")
        else:
            continued = re.fullmatch(rf"bytes {held}-\d+/(\d+)", span)
            if not (held and continued and _version(reply) in ("", known)):
                part.unlink(missing_ok=True)
                raise FailedError("the file changed after its first part came")
            total = int(continued[1])
        with part.open("ab") as file:
            for chunk in progress_bytes(reply.iter_content(CHUNK), held, total, label):
                file.write(chunk)
    if total and held_bytes(part) != total:
        raise FailedError(f"{held_bytes(part)} of {total} bytes came")
