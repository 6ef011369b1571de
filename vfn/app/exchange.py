"""Requests and answers of the page: JSON, and errors as one line."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from vfn.app.workspace import FULL, NOT_FOUND, TOO_LARGE, Refused
from vfn.errors import DiskFull, UserError
from vfn.system.files import FULL as FULL_DISK

BAD_REQUEST, TOO_LATE, DEFECT = 400, 408, 500
ASKED = 2**20  # bytes of JSON that the page may send

log = logging.getLogger(__name__)
T = TypeVar("T")


class Told(JSONResponse):
    """A JSON response in ASCII, which keeps file names that are not UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False).encode()


def whole(query: Mapping[str, str], key: str) -> int:
    """Return the whole number `key` of a query."""
    return to_number(query.get(key), key, int)


def to_number(value: Any, key: str, kind: Callable[[Any], T] = float) -> T:  # type: ignore[assignment]
    """Convert `value`, of the setting `key`.

    Raises:
        UserError: it is no number.
    """
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise UserError(f"{key}={value}: is no number") from exc


def length_of(request: Request) -> int:
    """Return the stated length of the body, 0 if there is none."""
    stated = request.headers.get("content-length", "0")
    return int(stated) if stated.isdecimal() else 0


async def asked_by(request: Request) -> dict[str, Any]:
    """Parse the JSON object in the body of a request."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > ASKED:
            raise Refused(TOO_LARGE, "the page asks for too much at once")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise UserError("the request is no JSON") from exc
    if not isinstance(asked, dict):
        raise UserError("the request is no JSON object")
    return asked


def _line(request: Request, exc: Exception) -> Response:
    status = FULL if isinstance(exc, DiskFull) else BAD_REQUEST
    return Told({"error": str(exc)}, getattr(exc, "status", status))


def _http_line(request: Request, exc: HTTPException) -> Response:
    return Told({"error": exc.detail}, exc.status_code)


def _half(request: Request, exc: Exception) -> Response:
    return Told({"error": "the request did not arrive whole"}, TOO_LATE)


def _unreadable(request: Request, exc: OSError) -> Response:
    line = f"{exc.filename or 'a file'}: {exc.strerror or exc}; look whether it is still there, and its rights"
    return Told({"error": line}, FULL if exc.errno in FULL_DISK else NOT_FOUND)


def _defect(request: Request, exc: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    line = f"a defect of vfn, not of your images ({type(exc).__name__}); the terminal says more"
    return Told({"error": line}, DEFECT)


ERRORS: Mapping[Any, Any] = {
    HTTPException: _http_line,
    UserError: _line,
    ClientDisconnect: _half,
    OSError: _unreadable,
    Exception: _defect,
}  # what Starlette answers instead
