"""What ends a command early, beside Ctrl-C: a queue that takes the machine away, a terminal that closes."""

import os
import signal
import stat

TERMINATING = (signal.SIGTERM, signal.SIGHUP)  # end a command as Ctrl-C does


def end_by_signals() -> None:
    """Let the signals of `TERMINATING` be a KeyboardInterrupt, but for those that nohup ignores."""
    for number in TERMINATING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """From here on nothing interrupts: a second Ctrl-C would end the leaving in a traceback."""
    for number in (signal.SIGINT, *TERMINATING):
        signal.signal(number, signal.SIG_IGN)


def leave_terminal() -> None:
    """Let what would still be written to a terminal that was closed go nowhere: writing to it fails."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        # A terminal that hung up is a device that no longer answers as a terminal.
        if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def _interrupt(number: int, _frame: object) -> None:
    if number == signal.SIGHUP:
        leave_terminal()
    raise KeyboardInterrupt
