"""Early ends of a command: Ctrl-C, a queue that takes the machine away, a terminal that closes.

The first signal raises a KeyboardInterrupt, so that what is open is closed and what is half is removed. While
that lasts further ones do nothing: they would break it, and end in a traceback.
"""

import os
import signal
import stat
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn


def available(*names: str) -> tuple[signal.Signals, ...]:
    """Return those of the named signals that this system has: Windows lacks SIGHUP and SIGUSR1."""
    return tuple(number for number in signal.Signals if number.name in names)


TERMINATING = available("SIGTERM", "SIGHUP")  # end a command as Ctrl-C does
INTERRUPTED = 130  # exit code
PATIENCE = 5.0  # s that a command has to leave; a signal after them ends it as it is
# What asks a training to stop: Ctrl-C, what a queue sends before it takes a machine away (SLURM:
# --signal=USR1@120), and a terminal that is closed.
STOPPING = available("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SOON = 0.02  # s, far longer than a finaliser takes

_leaving: float | None = None  # since when
_patience = PATIENCE
_hung_up = False


def end_by_signals() -> None:
    """Let Ctrl-C and the signals of `TERMINATING` end this command, but for those that nohup ignores."""
    for number in (signal.SIGINT, *TERMINATING):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)
    _lose_no_interrupt()


def leave_soon() -> None:
    """Begin to leave, of several processes that do so together: one that left alone would leave the
    others waiting."""
    global _leaving
    _leaving = time.monotonic()


def interrupt() -> NoReturn:
    """Begin to leave.

    Raises:
        KeyboardInterrupt: always.
    """
    leave_soon()
    raise KeyboardInterrupt


def insist() -> None:
    """Leave, for a further signal: at once where nothing has begun to, else in peace, and where that
    takes too long without any.

    Raises:
        KeyboardInterrupt: nothing had begun to leave.
    """
    if _leaving is None:
        interrupt()
    if time.monotonic() - _leaving > _patience:
        leave_at_once()


def hurry(seconds: float) -> None:
    """Let a further signal end the process as it is once it has been leaving for `seconds`."""
    global _patience
    _patience = seconds


def leave_at_once() -> NoReturn:
    """End the process as it is: some thread hangs, or the user insists."""
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def ignore_signals() -> None:
    """From here on nothing interrupts: all that is left is the end of the process."""
    for number in (signal.SIGINT, *TERMINATING):
        signal.signal(number, signal.SIG_IGN)


def hang_up() -> None:
    """Let what would still be written to a terminal that was closed go nowhere: writing to it fails."""
    global _hung_up
    _hung_up = True
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        # A terminal that hung up is a device that no longer answers as a terminal.
        if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def comes_of_stopping(error: BaseException) -> bool:
    """Return True if `error` tells of the stop alone: one that rose while an interrupt unwound what was half
    done, or, once the terminal is closed, any, as of a line that could not be printed."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    return _hung_up or cause is not None


def is_hang_up(number: int) -> bool:
    """Return True if the signal tells that the terminal was closed."""
    return number in available("SIGHUP")


class StopRequest:
    """A signal that waits for a good moment to stop; a second one does not wait.

    Attributes:
        made: whether a signal came.
    """

    def __init__(self) -> None:
        self.made = False
        self._together = False
        self._handlers: dict[int, Any] = {}

    def listen(self, together: bool) -> None:
        """Catch the signals of `STOPPING`, but for the hang-up that nohup ignores.

        Args:
            together: whether several processes stop with this one.
        """
        self._together = together
        if threading.current_thread() is threading.main_thread():
            asked = [
                number
                for number in STOPPING
                if not (is_hang_up(number) and signal.getsignal(number) == signal.SIG_IGN)
            ]
            self._handlers = {number: signal.signal(number, self._receive) for number in asked}

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if is_hang_up(number):
            hang_up()
        if self.made:
            insist()
        elif self._together:
            leave_soon()
        self.made = True  # nothing is printed from a handler


def _end(number: int, _frame: FrameType | None) -> None:
    if is_hang_up(number):
        hang_up()
    insist()


def _lose_no_interrupt() -> None:
    """Interrupt again where Python had to drop it: nothing may be raised from a finaliser, such as those
    of torch's weak dictionaries, in which a training spends a part of its time."""
    told = sys.unraisablehook

    def tell(unraisable: "sys.UnraisableHookArgs") -> None:
        global _leaving
        if unraisable.exc_type is not KeyboardInterrupt:
            told(unraisable)
            return
        _leaving = None
        again = threading.Timer(SOON, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = tell
