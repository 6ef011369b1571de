"""Who may ask: the browser of whoever started the program, and no page of anybody else.

Binding to 127.0.0.1 keeps other machines out, but not the pages that the same browser has open (they
may post to it, or let their own name point to 127.0.0.1), nor others who work on this machine.
"""

import secrets
from typing import Any

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = frozenset({"127.0.0.1", "localhost"})  # a name of somebody else's may lead here as well
SAFE_METHODS = frozenset({"GET", "HEAD"})
HEADERS = {
    # Nothing from elsewhere, and shown in nobody's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
STRANGER = (
    "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>vfn</title>"
    "<p>This address lacks its key, or the program was started anew since. Open the whole address that "
    "<code>python -m vfn.app</code> printed."
)


class Guard:
    """Lets requests through to `app` that name this machine, come from the page itself, and have the
    key: as `?key=` once, then as a cookie.

    Args:
        key: of this run of the program.
        port: names the cookie, since those of one machine are shared by all ports.
    """

    def __init__(self, app: ASGIApp, key: str, port: int) -> None:
        self.app, self.key, self.cookie = app, key, f"vfn_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is spoken here")
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], headers) or self._stranger(scope, headers)
        in_address = self._is_key(QueryParams(scope["query_string"]).get("key"))

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(HEADERS)
                if in_address and refusal is None:
                    answer["Set-Cookie"] = (
                        f"{self.cookie}={self.key}; Path=/; HttpOnly; SameSite=Strict"
                    )
            await send(message)

        await (refusal or self.app)(scope, receive, dressed)

    def _refusal(self, method: str, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if host.rpartition(":")[0] not in NAMES and host not in NAMES:
            return _refused(
                f"host {host}: this page answers to {' and '.join(sorted(NAMES))} alone"
            )
        # A browser names where a request comes from whenever it changes something.
        if method not in SAFE_METHODS and headers.get("origin") != f"http://{host}":
            return _refused("this request comes from another page")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (
            headers.get("sec-fetch-mode") != "navigate"
        ):
            return _refused("this request comes from another page")
        return None

    def _stranger(self, scope: Scope, headers: Headers) -> Response | None:
        at_door = scope["path"] == "/"
        if at_door and self._is_key(QueryParams(scope["query_string"]).get("key")):
            return None
        if self._is_key(cookie_parser(headers.get("cookie", "")).get(self.cookie)):
            return None
        if at_door:
            return HTMLResponse(STRANGER, 403)
        return _refused("the program was started anew; open the address that it printed")

    def _is_key(self, given: Any) -> bool:
        return isinstance(given, str) and secrets.compare_digest(given.encode(), self.key.encode())


def _refused(line: str) -> Response:
    return JSONResponse({"error": line}, 403)
