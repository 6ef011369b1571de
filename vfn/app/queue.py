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
    _stop: threading.Event = field(default_factory=threading.Event)

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
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """End it at the next `tell`."""
        self._stop.set()
        if self.state == State.WAITING:
            self.state = State.STOPPED


class Queue:
    """Jobs, and the thread that does them."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    def jobs(self) -> list[Job]:
        """All that are known, in order."""
        with self._changed:
            return list(self._jobs.values())

    def add(self, job: Job) -> None:
        """Let `job` wait for its turn.

        Raises:
            Refused: too many wait already.
        """
        with self._changed:
            waiting = sum(other.state == State.WAITING for other in self._jobs.values())
            if waiting >= LONGEST:
                raise Refused(CONFLICT, f"{waiting} predictions wait already; try again later")
            self._jobs[job.name] = job
            self._changed.notify()

    def find(self, name: str) -> Job:
        """The job that is called so.

        Raises:
            Refused: it is no longer there, or never was.
        """
        with self._changed:
            if name not in self._jobs:
                raise Refused(NOT_FOUND, "this prediction is no longer there; predict again")
            return self._jobs[name]

    def forget(self, job: Job) -> None:
        """Stop it, and know it no more."""
        job.stop()
        with self._changed:
            self._jobs.pop(job.name, None)

    def ahead(self, job: Job) -> int:
        """How many come before it."""
        with self._changed:
            jobs = list(self._jobs.values())
            before = jobs[: jobs.index(job)] if job in jobs else []
            return sum(not other.over for other in before) if job.state == State.WAITING else 0

    def close(self, seconds: float) -> bool:
        """Stop everything.

        Returns:
            Whether the thread has ended within `seconds`; it cannot within a step of the network.
        """
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.stop()
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _next(self) -> Job | None:
        return next((j for j in self._jobs.values() if j.state == State.WAITING), None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                job = self._next()
                if self._closed or job is None:
                    return
                job.state, job.started = State.RUNNING, time.monotonic()
            try:
                job.tell(0.0)
                job.result = job.work(job)
                job.state = State.DONE
            except Stopped:
                job.state = State.STOPPED
            except UserError as exc:
                job.error, job.state = str(exc), State.FAILED
            except Exception as exc:  # a defect of ours must not end the queue
                log.exception("a prediction failed")
                job.error = f"a defect of vfn, not of your images ({type(exc).__name__}); the terminal says more"
                job.state = State.FAILED
            job.ended = time.monotonic()
