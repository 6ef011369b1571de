"""Requests and answers of the page: JSON, and errors as one line."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from vfn.app.queue import defect
from vfn.app.workspace import Refused
from vfn.errors import DiskFull, UserError
from vfn.system.files import FULL

ASKED = 2**20  # bytes of JSON that the page may send

log = logging.getLogger(__name__)
T = TypeVar("T")


class Told(JSONResponse):
    """A JSON response in ASCII, which keeps file names that are not UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False).encode()


def to_number(value: Any, key: str, kind: Callable[[Any], T] = float) -> T:  # type: ignore[assignment]
    """Convert `value`, of the setting `key`.

    Raises:
        UserError: it is no number.
    """
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise UserError(f"{key}={value}: is no number") from exc


async def asked_by(request: Request) -> dict[str, Any]:
    """Parse the JSON object in the body of a request."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > ASKED:
            raise Refused(413, "the page asks for too much at once")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise UserError("the request is no JSON") from exc
    if not isinstance(asked, dict):
        raise UserError("the request is no JSON object")
    return asked


def _told(request: Request, exc: Exception) -> Response:
    """Return an error as one line."""
    match exc:
        case HTTPException():
            line, status = exc.detail, exc.status_code
        case UserError():
            line = str(exc)
            status = getattr(exc, "status", 507 if isinstance(exc, DiskFull) else 400)
        case ClientDisconnect():
            line, status = "the request did not arrive whole", 408
        case OSError():
            line = f"{exc.filename or 'a file'}: {exc.strerror or exc}; look whether it is still there, and its rights"
            status = 507 if exc.errno in FULL else 404
        case _:
            log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
            line, status = defect(exc), 500
    return Told({"error": line}, status)


# What Starlette answers instead.
ERRORS: Mapping[Any, Any] = dict.fromkeys(
    (HTTPException, UserError, ClientDisconnect, OSError, Exception), _told
)
