"""The commands as users run them, without paying for their imports each time.

A fork server imports torch, Lightning and vfn once; every command is a fresh child of it that runs
the script as `__main__`, with its own arguments, folder, environment and standard streams, and is
judged by its exit code.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 180.0  # s; far more than any command needs, so that a hang fails instead of staying
PRELOAD = [
    "vfn.commands.train", "vfn.commands.predict", "vfn.commands.evaluate", "vfn.doctor.command", "vfn.commands.calibrate", "vfn.panel.command", "vfn.export.command", "vfn.app.server", "uvicorn", "vfn.cli.entry", "hydra", "tensorboard",
    "hydra._internal.hydra", "hydra.core.override_parser.overrides_parser", "torch._dynamo", "torch.onnx", "onnxscript", "onnxruntime", "tests.warm",
]  # fmt: skip

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOAD)
# Starting one process collects others' exit codes: not while another thread does the same.
_lock = threading.Lock()


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def ok(self) -> "Result":
        """Itself, if the command succeeded and had nothing to complain of."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        assert self.err == "", f"on stderr:\n{self.err}"
        return self

    def refused(self, *parts: str) -> str:
        """The one line on stderr, if the command refused its input as promised and names `parts`."""
        assert self.code == 2, f"exit code {self.code}, not 2\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, f"{len(lines)} lines on stderr:\n{self.err}"
        for part in parts:
            assert part in lines[0], f"{part!r} is not in: {lines[0]}"
        return lines[0]


class Running:
    """A command that was started by `spawn`."""

    def __init__(self, process: Any, folder: "tempfile.TemporaryDirectory[str]") -> None:
        self._process, self._folder = process, folder
        self.pid: int = process.pid

    def is_over(self) -> bool:
        """Whether it has ended, and only waits to be waited for."""
        return bool(connection.wait([self._process.sentinel], 0))

    def wait(self, seconds: float = TIMEOUT) -> Result | None:
        """What it left; None where it is still at work after so many seconds."""
        if not connection.wait([self._process.sentinel], seconds):
            return None
        with _lock:
            self._process.join()
            code = self._process.exitcode
            self._process.close()
        assert code is not None
        with self._folder as folder:
            out, err = (Path(folder, name).read_text() for name in ("out", "err"))
        return Result(code, out, err)

    def kill(self) -> Result:
        """End it at once, by the signal that no process can refuse."""
        os.kill(self.pid, signal.SIGKILL)
        result = self.wait()
        assert result is not None
        return result


def spawn(
    script: str,
    *overrides: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> Running:
    """Start a command, see `run`; whoever starts it waits for it."""
    folder = tempfile.TemporaryDirectory()
    out, err = Path(folder.name, "out"), Path(folder.name, "err")
    arguments = [str(override) for override in overrides]
    child = _context.Process(  # type: ignore[attr-defined]  # typeshed knows no preload
        target=_child, args=(script, arguments, cwd, dict(env or {}), out, err, prepare)
    )
    with _lock:
        child.start()
    return Running(child, folder)


def run(
    script: str,
    *overrides: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> Result:
    """Run `script` ("train.py", or a module as "vfn.doctor") in the folder `cwd`.

    Args:
        env: comes on top of the environment.
        prepare: called in the child before the script; a function of a module that can be imported,
            or a partial of one.
    """
    command = spawn(script, *overrides, cwd=cwd, env=env, prepare=prepare)
    return command.wait() or command.kill()


def _child(
    script: str,
    arguments: list[str],
    cwd: Path,
    env: dict[str, str],
    out: Path,
    err: Path,
    prepare: Callable[[], None] | None,
) -> None:
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        stream.flush()
        target = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(target, 1 if stream is sys.stdout else 2)
    import torch

    multiprocessing.set_start_method(None, force=True)  # not the one that this child came by
    torch.set_num_threads(1)  # two commands share two cores
    os.environ |= clean_environment() | env
    os.chdir(cwd)
    sys.argv = [str(ROOT / script), *arguments]
    if prepare is not None:
        prepare()
    if script.endswith(".py"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    else:
        runpy.run_module(script, run_name="__main__", alter_sys=True)


def clean_environment() -> dict[str, str]:
    """Variables that keep a developer's accounts out of the tests."""
    return {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}


def start(
    script: str, *overrides: object, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A genuine process, imports and all; see `run`."""
    what = [str(ROOT / script)] if script.endswith(".py") else ["-m", script]
    return subprocess.Popen(
        [sys.executable, *what, *(str(override) for override in overrides)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **clean_environment(), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Result:
    """Wait for `process`; one that hangs is ended, and tells on standard error where it hung."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        out, err = process.communicate()
    return Result(process.returncode, out, err)


def interrupt_in_step(batch: int, number: int = signal.SIGINT, times: int = 1) -> None:
    """Ctrl-C, or another signal, in the middle of a training step, when D has moved and G has not;
    for `prepare`."""
    from vfn.models.gan import VirtualStain

    step, calls = VirtualStain.generator_step, 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == batch:
            for child in multiprocessing.active_children():  # a queue tells the whole group
                os.kill(child.pid or 0, number)
            for _ in range(times):
                os.kill(os.getpid(), number)
        return step(*args, **kwargs)

    VirtualStain.generator_step = interrupted  # type: ignore[method-assign]


def run_out_of_time(batch: int) -> None:
    """Let `trainer.max_time` end with batch number `batch`; for `prepare`."""
    from vfn.training.callbacks import Budget

    calls = 0

    def elapsed(*_: object) -> float:
        nonlocal calls
        calls += 1
        return 1e9 if calls > batch else 0.0  # the first call is before the first batch

    Budget.time_elapsed = elapsed  # type: ignore[method-assign]


def refuse_network() -> None:
    """Let every connection but those within the machine fail the command; for `prepare`."""
    connect = socket.socket.connect

    def refused(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, f"the network is asked: {address}"
        connect(self, address)

    def unresolved(*names: Any, **_: Any) -> Any:
        raise AssertionError(f"the network is asked: {names}")

    socket.socket.connect = refused  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = unresolved
