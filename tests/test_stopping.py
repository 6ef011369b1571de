"""Commands that are told to stop, or whose terminal is gone: exit code 130, no traceback, no hang."""

import errno
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli import run
from tests.conftest import write_tokens
from vfn.cli.entry import set_up_logging
from vfn.errors import UserError

DOCTOR = ["data=folder", "data.root=images", "task.inputs=[phase]", "task.targets=[dapi]"]


def signal_while_reading(number: int, times: int, ignored: bool = False) -> None:
    """Signals that come when the doctor begins to read the images; for `prepare`."""
    from vfn.doctor import command

    read = command.read_fields
    # Whatever the tests run under: nohup and background jobs ignore some.
    asked = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, signal.SIG_IGN if ignored else asked)

    def interrupted(*args: Any) -> Any:
        for _ in range(times):
            os.kill(os.getpid(), number)
        return read(*args)

    command.read_fields = interrupted


def assert_interrupted(folder: Path, stop: Callable[[], None]) -> None:
    """The doctor, which `stop` prepares to be stopped, says one word and leaves."""
    write_tokens(folder / "images", ("phase", "dapi"), 4, "uint16")
    result = run("vfn.doctor", *DOCTOR, "output=d", cwd=folder, prepare=stop)
    assert (result.code, result.err) == (130, "interrupted\n")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_stop(tmp_path: Path, number: int, times: int) -> None:
    assert_interrupted(tmp_path, partial(signal_while_reading, number, times))
    assert os.listdir(tmp_path) == ["images"]  # nor is the lock left behind


def signal_in_a_finaliser(times: int) -> None:
    """Ctrl-C while an object dies, where Python can raise nothing; for `prepare`."""
    from vfn.doctor import command

    read = command.read_fields
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Dying:
        def __del__(self) -> None:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    def interrupted(*args: Any) -> Any:
        Dying()
        for _ in range(500):
            time.sleep(0.01)
        return read(*args)

    command.read_fields = interrupted


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_that_python_drops_comes_again(tmp_path: Path, times: int) -> None:
    assert_interrupted(tmp_path, partial(signal_in_a_finaliser, times))


def fail_while_leaving(refused: bool) -> None:
    """Cleaning up after Ctrl-C stumbles over what it left half done; for `prepare`."""
    from vfn.doctor import command

    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(*_: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        finally:
            raise UserError("half.tif: is half") if refused else AttributeError("half")

    command.read_fields = interrupted


@pytest.mark.parametrize("refused", [False, True])
def test_an_error_that_comes_of_the_interrupt_is_no_news(tmp_path: Path, refused: bool) -> None:
    assert_interrupted(tmp_path, partial(fail_while_leaving, refused))


def leave_forever(seconds: float) -> None:
    """Ctrl-C, and again after so many seconds, of a command that does not get away; for `prepare`."""
    from vfn.doctor import command
    from vfn.system import signals

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.hurry(0.5)

    def stuck(*_: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        finally:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(100):
                time.sleep(0.01)
            Path("left_in_peace").touch()

    command.read_fields = stuck


@pytest.mark.parametrize(("seconds", "in_peace"), [(0.0, True), (0.6, False)])
def test_a_command_that_does_not_get_away(tmp_path: Path, seconds: float, in_peace: bool) -> None:
    assert_interrupted(tmp_path, partial(leave_forever, seconds))
    assert (tmp_path / "left_in_peace").exists() == in_peace


def hang_up_and_fail(refused: bool) -> None:
    """The terminal is closed, and what is written to it fails; for `prepare`."""
    from vfn.doctor import command
    from vfn.system.signals import hang_up

    def failing(*_: Any) -> Any:
        hang_up()
        raise UserError("out: cannot write there") if refused else OSError(errno.EIO, "gone")

    command.read_fields = failing


@pytest.mark.parametrize("refused", [False, True])
def test_an_error_that_comes_of_a_closed_terminal(tmp_path: Path, refused: bool) -> None:
    write_tokens(tmp_path / "images", ("phase", "dapi"), 4, "uint16")
    stop = partial(hang_up_and_fail, refused)
    assert run("vfn.doctor", *DOCTOR, "output=d", cwd=tmp_path, prepare=stop).code == 130


def test_nohup_is_respected(tmp_path: Path) -> None:
    write_tokens(tmp_path / "images", ("phase", "dapi"), 4, "uint16")
    stop = partial(signal_while_reading, signal.SIGHUP, 1, ignored=True)
    run("vfn.doctor", *DOCTOR, "output=d", cwd=tmp_path, prepare=stop).ok()


class Gone(io.StringIO):
    """A terminal that was closed, or a pipe that nobody reads."""

    def write(self, _: str) -> int:
        raise BrokenPipeError

    flush = write  # type: ignore[assignment]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Our logger, which is afterwards as it was: later tests of this process read what it passes on."""
    logger = logging.getLogger("vfn")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield logger
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_work_goes_on_when_nobody_listens(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_logging()
    monkeypatch.setattr(sys, "stdout", Gone())
    logger.info("epoch 1")


def test_a_log_that_does_not_fit_ends_no_run(
    tmp_path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    set_up_logging(Path("/dev/full"))
    logger.info("epoch 1")
    set_up_logging()
    assert capsys.readouterr().err == ""
