"""Predictions wait for each other: one at a time, in the order in which they were asked for."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vfn.app.workspace import CONFLICT, NOT_FOUND, Refused
from vfn.errors import UserError

LONGEST = 20  # predictions that wait
GRACE = 10.0  # s that a step of the network may last after a stop; what hangs longer is left behind

log = logging.getLogger(__name__)


class State(StrEnum):
    """Of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class Stopped(Exception):  # noqa: N818
    """Nobody wants the job any more."""


@dataclass(eq=False)
class Job:
    """One prediction.

    Attributes:
        work: gets the job; calls `tell` now and then.
        label: of what is being done.
        share: done so far, in [0, 1].
        error: a line, where it failed.
        result: what `work` returned.
    """

    work: Callable[["Job"], Any]
    order: Any = None
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = State.WAITING
    label: str = ""
    share: float = 0.0
    error: str = ""
    result: Any = None
    started: float = 0.0
    ended: float = 0.0
    stopping: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in (State.DONE, State.FAILED, State.STOPPED)

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0

    def tell(self, share: float, label: str | None = None) -> None:
        """Say how far it is.

        Raises:
            Stopped: nobody wants it any more.
        """
        self.share = share
        self.label = self.label if label is None else label
        if self.stopping:
            raise Stopped


class Queue:
    """Jobs, each in a thread of its own, which is left behind if it hangs."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = threading.RLock()
        self._running: Job | None = None
        self._threads: list[threading.Thread] = []  # of the running job, and those left behind
        self._closed = False

    def jobs(self) -> list[Job]:
        """All that are known, in order."""
        with self._lock:
            return list(self._jobs.values())

    def add(self, job: Job) -> None:
        """Let `job` wait for its turn.

        Raises:
            Refused: too many wait already.
        """
        with self._lock:
            waiting = sum(other.state == State.WAITING for other in self._jobs.values())
            if waiting >= LONGEST:
                raise Refused(CONFLICT, f"{waiting} predictions wait already; try again later")
            self._jobs[job.name] = job
            self._advance()

    def find(self, name: str) -> Job:
        """The job that is called so.

        Raises:
            Refused: it is no longer there, or never was.
        """
        with self._lock:
            if name not in self._jobs:
                raise Refused(NOT_FOUND, "this prediction is no longer there; predict again")
            return self._jobs[name]

    def stop(self, job: Job) -> None:
        """End `job` at its next `tell`; without one in `GRACE` seconds it is given up, and the next begins."""
        with self._lock:
            job.stopping = True
            if job.state == State.WAITING:
                job.state = State.STOPPED
            elif job is self._running:
                timer = threading.Timer(GRACE, self._settle, (job, State.STOPPED))
                timer.daemon = True
                timer.start()

    def forget(self, job: Job) -> None:
        """Stop it, and know it no more."""
        with self._lock:
            self.stop(job)
            self._jobs.pop(job.name, None)

    def ahead(self, job: Job) -> int:
        """How many come before it."""
        with self._lock:
            jobs = list(self._jobs.values())
            before = jobs[: jobs.index(job)] if job in jobs else []
            return sum(not other.over for other in before) if job.state == State.WAITING else 0

    def close(self, seconds: float) -> bool:
        """Stop everything.

        Returns:
            Whether all threads have ended within `seconds`; they cannot within a step of the network.
        """
        until = time.monotonic() + seconds
        with self._lock:
            self._closed = True
            for job in self._jobs.values():
                job.stopping = True
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _advance(self) -> None:
        """Begin the next job, if none runs."""
        job = next((j for j in self._jobs.values() if j.state == State.WAITING), None)
        if job is None or self._running is not None or self._closed:
            return
        job.state, job.started, self._running = State.RUNNING, time.monotonic(), job
        thread = threading.Thread(target=self._run, args=(job,), name=job.name, daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()

    def _settle(self, job: Job, state: State, error: str = "", result: Any = None) -> None:
        """Note how `job` ended, unless it was given up before."""
        with self._lock:
            if job is not self._running:
                return
            job.error, job.result, job.ended = error, result, time.monotonic()
            job.state, self._running = state, None
            self._advance()

    def _run(self, job: Job) -> None:
        try:
            job.tell(0.0)
            self._settle(job, State.DONE, result=job.work(job))
        except Stopped:
            self._settle(job, State.STOPPED)
        except UserError as exc:
            self._settle(job, State.FAILED, str(exc))
        except Exception as exc:  # a defect of ours must not end the queue
            if not job.over:
                log.exception("a prediction failed")
            line = f"a defect of vfn, not of your images ({type(exc).__name__}); the terminal says more"
            self._settle(job, State.FAILED, line)
