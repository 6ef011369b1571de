"""Commands that are told to stop, or whose terminal is gone: exit code 130, no traceback, no hang."""

import io
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli import run
from tests.conftest import write_tokens
from vfn.cli import set_up_logging

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


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_stop(tmp_path: Path, number: int, times: int) -> None:
    write_tokens(tmp_path / "images", ("phase", "dapi"), 4, "uint16")
    stop = partial(signal_while_reading, number, times)
    result = run("vfn.doctor", *DOCTOR, "output=d", cwd=tmp_path, prepare=stop)
    assert (result.code, result.err) == (130, "interrupted\n")
    assert os.listdir(tmp_path) == ["images"]  # nor is the lock left behind


def test_nohup_is_respected(tmp_path: Path) -> None:
    write_tokens(tmp_path / "images", ("phase", "dapi"), 4, "uint16")
    stop = partial(signal_while_reading, signal.SIGHUP, 1, ignored=True)
    run("vfn.doctor", *DOCTOR, "output=d", cwd=tmp_path, prepare=stop).ok()


class Gone(io.StringIO):
    """A terminal that was closed, or a pipe that nobody reads."""

    def write(self, _: str) -> int:
        raise BrokenPipeError

    flush = write  # type: ignore[assignment]


def test_work_goes_on_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_logging()
    monkeypatch.setattr(sys, "stdout", Gone())
    logging.getLogger("vfn").info("epoch 1")


def test_a_log_that_does_not_fit_ends_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    set_up_logging(Path("/dev/full"))
    logging.getLogger("vfn").info("epoch 1")
    set_up_logging()
    assert capsys.readouterr().err == ""
