"""A queue of predictions, which run one at a time."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vfn.app.workspace import Refused
from vfn.errors import UserError

LONGEST = 20  # predictions that wait
GRACE = 10.0  # s that a step of the network may last after a stop; what hangs longer is left behind

log = logging.getLogger(__name__)


class State(StrEnum):
    """State of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class Stopped(Exception):  # noqa: N818
    """The job was cancelled."""


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
        """True once the job has ended."""
        return self.state in (State.DONE, State.FAILED, State.STOPPED)

    @property
    def seconds(self) -> float:
        """Run time so far, or in total."""
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0

    def tell(self, share: float, label: str | None = None) -> None:
        """Report progress.

        Raises:
            Stopped: the job was cancelled.
        """
        self.share = share
        self.label = self.label if label is None else label
        if self.stopping:
            raise Stopped


class Queue:
    """A queue of jobs. Each runs in its own thread, which is abandoned if it hangs."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = threading.RLock()
        self._running: Job | None = None
        self._threads: list[threading.Thread] = []  # of the running job, and those left behind
        self._closed = False

    def jobs(self) -> list[Job]:
        """Return all jobs, in order."""
        with self._lock:
            return list(self._jobs.values())

    def add(self, job: Job) -> None:
        """Add `job` to the queue.

        Raises:
            Refused: the queue is full.
        """
        with self._lock:
            waiting = sum(other.state == State.WAITING for other in self._jobs.values())
            if waiting >= LONGEST:
                raise Refused(409, f"{waiting} predictions wait already; try again later")
            self._jobs[job.name] = job
            self._advance()

    def find(self, name: str) -> Job:
        """Return the job of that name.

        Raises:
            Refused: there is none.
        """
        with self._lock:
            if name not in self._jobs:
                raise Refused(404, "this prediction is no longer there; predict again")
            return self._jobs[name]

    def stop(self, job: Job) -> None:
        """Cancel `job` at its next `tell`, or abandon it after `GRACE` seconds."""
        with self._lock:
            job.stopping = True
            if job.state == State.WAITING:
                job.state = State.STOPPED
            elif job is self._running:
                timer = threading.Timer(GRACE, self._settle, (job, State.STOPPED))
                timer.daemon = True
                timer.start()

    def forget(self, job: Job) -> None:
        """Cancel `job` and remove it."""
        with self._lock:
            self.stop(job)
            self._jobs.pop(job.name, None)

    def ahead(self, job: Job) -> int:
        """Return the number of jobs before it."""
        with self._lock:
            jobs = list(self._jobs.values())
            before = jobs[: jobs.index(job)] if job in jobs else []
            return sum(not other.over for other in before) if job.state == State.WAITING else 0

    def close(self, seconds: float) -> bool:
        """Cancel all jobs.

        Returns:
            True if all threads ended within `seconds`; a step of the network cannot be interrupted.
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
        """Start the next job if none runs."""
        job = next((j for j in self._jobs.values() if j.state == State.WAITING), None)
        if job is None or self._running is not None or self._closed:
            return
        job.state, job.started, self._running = State.RUNNING, time.monotonic(), job
        thread = threading.Thread(target=self._run, args=(job,), name=job.name, daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()

    def _settle(self, job: Job, state: State, error: str = "", result: Any = None) -> None:
        """Record how `job` ended, unless it was abandoned before."""
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
            self._settle(job, State.FAILED, defect(exc))


def defect(exc: Exception) -> str:
    """Return the line that tells an error of ours."""
    return f"a defect of vfn, not of your images ({type(exc).__name__}); the terminal says more"
