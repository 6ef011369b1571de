"""The command `app`: serve a page until Ctrl-C."""

import faulthandler
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vfn.app.folders import Folders
from vfn.app.models import Models
from vfn.app.workspace import Workspace
from vfn.cli.entry import set_up_logging
from vfn.commands.predict import required
from vfn.data.formats import need
from vfn.errors import UserError
from vfn.system.signals import hurry, leave_at_once

if TYPE_CHECKING:
    from vfn.app.server import Site

HOST = "127.0.0.1"  # never another: the page has no users, and reads this machine's images
LAST_PORT = 65535
TRIED = 50  # ports, to name one that is free
PATIENCE = 3.0  # s that requests and a step of the network may go on after Ctrl-C
SOON = 0.3  # s after which another Ctrl-C ends the page at once; some programs send a signal twice

log = logging.getLogger(__name__)


def serve(config: DictConfig) -> None:
    """Serve the page until Ctrl-C, which ends the process, with exit code 130.

    Raises:
        UserError: no such folders, a port that is taken, bounds that are none, packages missing.
    """
    set_up_logging()
    for package in ("starlette", "uvicorn"):
        need(package, "python -m vfn.app", '"vfn[app]", or starlette uvicorn')
    # Only now: they import these packages.
    from vfn.app.connections import make_server
    from vfn.app.guard import Guard
    from vfn.app.server import Site

    models = Models(required(config, "runs", "outputs"))
    folders = Folders([Path(str(folder)) for folder in config.folders or ()])
    for key in ("upload_mb", "files"):
        if not config[key] > 0:
            raise UserError(f"{key}={config[key]}: give a number above 0")
    listening = listen(config.port)
    port = listening.getsockname()[1]
    workspace = Workspace(int(config.upload_mb * 2**20), int(config.files))
    site = Site(config, models, folders, workspace)
    key = secrets.token_urlsafe(16)
    # What the page shows need not be printed as well; defects are.
    logging.getLogger("vfn.inference").setLevel(logging.ERROR)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    server, ended = make_server(Guard(site.app, key)), threading.Event()

    def answer() -> None:
        try:
            server.run([listening])
        finally:
            ended.set()

    try:
        # In a thread, since signals reach the main one: that one does nothing that could hang.
        threading.Thread(target=answer, name="page", daemon=True).start()
        # Behind the # lies what a browser sends to nobody.
        print(f"open http://{HOST}:{port}/#key={key} in the browser; Ctrl-C ends", flush=True)
        while not ended.wait(1.0):
            pass
        raise RuntimeError("the page has ended by itself")
    except BaseException as exc:
        hurry(SOON)
        # Ends the process whatever hangs, and tells where: its thread needs nothing of Python.
        faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
        server.should_exit = True
        _clean_up(site, ended)
        if isinstance(exc, KeyboardInterrupt):
            leave_at_once()  # Python would wait for what hangs, and takes seconds to unload the rest
        raise


def _clean_up(site: "Site", ended: threading.Event) -> None:
    """Delete uploads and predictions once all work has ended or hangs."""
    until = time.monotonic() + PATIENCE
    site.queue.close(PATIENCE)
    ended.wait(max(0.0, until - time.monotonic()))
    site.workspace.close()


def listen(port: int) -> socket.socket:
    """Return a listening socket on the loopback interface.

    Args:
        port: 0 for any that is free.

    Raises:
        UserError: it is taken, or no port.
    """
    if not 0 <= port <= LAST_PORT:
        raise UserError(f"port={port}: give a number up to {LAST_PORT}, or 0 for any that is free")
    try:
        return socket.create_server((HOST, port), backlog=128)
    except OSError as exc:
        free = next(filter(_is_free, range(port + 1, min(port + TRIED, LAST_PORT) + 1)), 0)
        raise UserError(
            f"port={port}: cannot be used ({os.strerror(exc.errno or 0)}); say port={free}"
            + (", which is free" if free else " for any that is free")
        ) from exc


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
