"""Access control: only the browser of the user who started the program.

Binding to 127.0.0.1 keeps other machines out, but not the pages that the same browser has open (they
may post to it, or let their own name point to 127.0.0.1), nor others who work on this machine. The key
is a header that the page sends, not a cookie: those go to every port of 127.0.0.1.
"""

import secrets
import time
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY = "X-VFN-Key"
OPEN = frozenset({"/", "/static/app.css", "/static/app.js"})  # nothing of the user's is in these
ONCE = "/once"  # gives links for downloads, which a browser asks for without the header
LASTING = 60.0  # s that such a link waits
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


class Links:
    """Single-use addresses without the key."""

    def __init__(self) -> None:
        self._targets: dict[str, tuple[str, float]] = {}

    def new(self, target: str) -> str:
        """Return a single-use address for the path and query of `target`."""
        link, now = f"{ONCE}/{secrets.token_urlsafe(16)}", time.monotonic()
        self._targets = {k: v for k, v in self._targets.items() if v[1] > now}
        self._targets[link] = target, now + LASTING
        return link

    def take(self, link: str) -> str | None:
        """Return the target of `link`, once."""
        target, until = self._targets.pop(link, ("", 0.0))
        return target if time.monotonic() < until else None


class Guard:
    """Lets requests through to `app` that name this machine, come from the page itself, and have the
    key.

    Args:
        key: of this run of the program.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key, self.links = app, key, Links()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is spoken here")
        headers = Headers(scope=scope)
        refusal = _refusal(scope["method"], headers)
        app, scope = (refusal, scope) if refusal else self._admitted(scope, headers)

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await app(scope, receive, dressed)

    def _admitted(self, scope: Scope, headers: Headers) -> tuple[ASGIApp, Scope]:
        """Return the application that answers, and the request that it gets."""
        method, path = scope["method"], scope["path"]
        if secrets.compare_digest(headers.get(KEY, "").encode(), self.key.encode()):
            if (method, path) == ("POST", ONCE):
                to = QueryParams(scope["query_string"]).get("to", "/")
                return JSONResponse({"link": self.links.new(to)}), scope
            return self.app, scope
        if path in OPEN:
            return self.app, scope
        target = self.links.take(path) if method == "GET" else None
        if target is None:
            return _refused(
                "this page lacks its key, or the program was started anew; open the whole address that "
                "python -m vfn.app printed"
            ), scope
        path, _, query = target.partition("?")
        return self.app, {**scope, "path": unquote(path), "query_string": query.encode()}


def _refusal(method: str, headers: Headers) -> Response | None:
    host = headers.get("host", "")
    if host.rpartition(":")[0] not in NAMES and host not in NAMES:
        return _refused(f"host {host}: this page answers to {' and '.join(sorted(NAMES))} alone")
    # A browser names where a request comes from whenever it changes something.
    changed = method not in SAFE_METHODS and headers.get("origin") != f"http://{host}"
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    if changed or (site in ("cross-site", "same-site") and mode != "navigate"):
        return _refused("this request comes from another page")
    return None


def _refused(line: str) -> Response:
    return JSONResponse({"error": line}, 403)
