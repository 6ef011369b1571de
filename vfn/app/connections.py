"""The HTTP server: a bounded number of connections, each with a time limit."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 100  # connections; a browser opens six
PAUSE = 15.0  # s in which the next request, or more of its body, must arrive


class Bounded(H11Protocol):
    """A connection that is closed when a request, or more of its body, does not arrive in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection above the limit."""
        super().connection_made(transport)
        self._seen: Any = None  # the request of the last look
        self._silent = True
        if len(self.connections) > MOST:
            transport.abort()
        else:
            self.loop.call_later(PAUSE, self._look)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        self._silent = False
        super().data_received(data)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_late():
            self.transport.close()  # sends what is still to be sent
            return
        self._seen, self._silent = self.cycle, True
        self.loop.call_later(PAUSE, self._look)

    def _is_late(self) -> bool:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return cycle is self._seen  # no request since: nothing came, or its head drop by drop
        return cycle.more_body and self._silent and not self.flow.read_paused


def make_server(app: Any) -> uvicorn.Server:
    """Return a server of `app`, which drops open requests a second after it was told to end."""
    return uvicorn.Server(
        uvicorn.Config(
            app, http=Bounded, ws="none", lifespan="off", server_header=False,
            timeout_graceful_shutdown=1, log_config=None, access_log=False,
        )
    )  # fmt: skip
