"""Two processes never write into one folder, and a lock never outlives its holder."""

import errno
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import ROOT, run
from vfn.errors import UserError
from vfn.system.locks import LOCK, claimed, refuse_if_claimed
from vfn.system.shards import Shard


def test_a_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with claimed(folder):
        (folder / "result").touch()
    assert os.listdir(folder) == ["result"]
    with claimed(tmp_path / "c" / "d"):
        pass
    assert os.listdir(tmp_path) == ["a"]  # nothing was written: nothing stays


def test_the_second_is_told_who_and_since_when(tmp_path: Path) -> None:
    refuse_if_claimed(tmp_path)
    with claimed(tmp_path):
        for refused in (lambda: claimed(tmp_path).__enter__(), lambda: refuse_if_claimed(tmp_path)):
            with pytest.raises(
                UserError,
                match=rf"{tmp_path}: process {os.getpid()} \(.*\) on {socket.gethostname()} since "
                r"\d{4}-.* is working there; wait",
            ):
                refused()
        assert (tmp_path / LOCK).exists(), "a refused process took the lock away"
    with claimed(tmp_path):
        pass


def test_jobs_share_a_folder(tmp_path: Path) -> None:
    with claimed(tmp_path, Shard(1, 2)):
        with claimed(tmp_path, Shard(2, 2)):
            pass
        for other in (Shard(1, 2), Shard(), Shard(2, 3)):
            with (
                pytest.raises(UserError, match=f"process {os.getpid()} "),
                claimed(tmp_path, other),
            ):
                pass
    with claimed(tmp_path), pytest.raises(UserError), claimed(tmp_path, Shard(2, 2)):
        pass
    assert not tmp_path.exists() or not os.listdir(tmp_path)


HOLDER = """
import os, sys, time
from pathlib import Path
from vfn.system.locks import claimed
with claimed(Path(sys.argv[1])):
    if os.fork() == 0:  # as a process that cuts patches
        print("held", flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_a_killed_holder_lets_go_though_its_child_lives(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdout is not None
        # The child says so: before it runs it cannot have closed what it inherited.
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} "):
            refuse_if_claimed(tmp_path / "out")
        left = tmp_path / "out" / ".tmp-0123abcd-half.csv"
        left.write_text("field,chan")
        holder.kill()
        holder.wait()
        with claimed(tmp_path / "out"):
            assert not left.exists()
        os.killpg(holder.pid, signal.SIGKILL)  # the child


def test_a_disk_without_locks_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(logging.getLogger("vfn"), "propagate", True)
    with claimed(tmp_path):
        (tmp_path / "result").touch()
    assert "this disk has no locks" in caplog.text
    assert os.listdir(tmp_path) == ["result"]


TINY = [
    "data=simulated", "data.fields=4", "data.height=64", "data.width=64", "data.patch_size=32",
    "data.batch_size=2", "data.patches_per_epoch=4", "model.generator.width=4",
    "model.generator.depth=2", "loss=mae", "logger=csv", "trainer=cpu", "trainer.max_epochs=1",
]  # fmt: skip


def test_every_command_respects_the_lock(tmp_path: Path) -> None:
    who = f"process {os.getpid()} "
    with claimed(tmp_path / "outputs" / "r"):
        run("train.py", *TINY, "run=r", cwd=tmp_path).refused("outputs/r", who)
    run("train.py", *TINY, "run=r", cwd=tmp_path).ok()
    ckpt = "ckpt=outputs/r/checkpoints/best.ckpt"
    with claimed(tmp_path / "outputs" / "r"):
        for more in ([], ["resume=auto"], ["resume=outputs/r"]):
            run("train.py", *TINY, "run=r", *more, cwd=tmp_path).refused("outputs/r", who)
        run("vfn.calibrate", ckpt, cwd=tmp_path).refused("outputs/r", who)
    images = tmp_path / "in"
    command = [sys.executable, "-m", "vfn.data.simulated", "--output", images, "--fields", "2"]
    subprocess.run([*command, "--size", "64", "64"], cwd=ROOT, check=True, capture_output=True)
    with claimed(tmp_path / "out"):
        for script, more in (
            ("predict.py", [ckpt, "input=in"]),
            ("evaluate.py", [ckpt]),
            ("vfn.doctor", ["data=folder", "data.root=in", "task=dapi_from_phase"]),
            ("vfn.export", [ckpt, "format=torch"]),
        ):
            run(script, *more, "output=out", cwd=tmp_path).refused("out: ", who)
    assert not (tmp_path / "out").exists()
