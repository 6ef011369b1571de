"""A resumed run equals an unbroken one bit for bit, wherever it stopped (CPU, float32)."""

import csv
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli import Result, interrupt_in_step, run, run_out_of_time

# Dropout draws random numbers in every step, so that the random state matters.
RUN = [
    "data=simulated", "model=virfluonet", "data.fields=4", "data.height=70", "data.width=91", "data.patch_size=64",
    "data.batch_size=2", "data.patches_per_epoch=8", "model.generator.width=4",
    "model.generator.max_width=8", "model.discriminator.width=4", "model.generator.dropout=0.5",
    "logger=csv", "trainer=cpu", "trainer.precision=32-true",
]  # fmt: skip
BATCHES = 4  # of an epoch


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    run("train.py", *RUN, "run=whole", "trainer.max_epochs=2", cwd=folder).ok()
    return folder / "outputs" / "whole"


def last(run_folder: Path) -> dict[str, Any]:
    return torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)


def rows(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        del row["images_per_s"]
    return found


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Nested plain data and tensors, to the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_training(run_folder: Path, unbroken: Path) -> None:
    one, other = last(run_folder), last(unbroken)
    for key in ("state_dict", "optimizer_states", "rng", "epoch", "global_step"):
        assert_same(one[key], other[key], key)
    assert len(one["optimizer_states"]) == 2
    assert_same(
        [p["params"] for o in one["optimizer_states"] for p in o["param_groups"]],
        [p["params"] for o in other["optimizer_states"] for p in o["param_groups"]],
    )


def test_two_runs_are_the_same_but_for_the_seed(unbroken: Path, tmp_path: Path) -> None:
    again = ["run=again", "trainer.max_epochs=1"]
    run("train.py", *RUN, *again, cwd=tmp_path).ok()
    run("train.py", *RUN, "run=other", "trainer.max_epochs=1", "seed=1", cwd=tmp_path).ok()
    first, other = rows(tmp_path / "outputs" / "again"), rows(tmp_path / "outputs" / "other")
    assert first == rows(unbroken)[:1]
    assert first != other


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_after_an_epoch(unbroken: Path, tmp_path: Path, workers: int) -> None:
    loading = f"data.num_workers={workers}"
    run("train.py", *RUN, "run=part", "trainer.max_epochs=1", loading, cwd=tmp_path).ok()
    with (tmp_path / "outputs/part/metrics.csv").open("a") as file:
        file.write("1,0.")  # half a row, as a copy leaves it that stopped
    run("train.py", "resume=outputs/part", "trainer.max_epochs=2", cwd=tmp_path).ok()
    part = tmp_path / "outputs" / "part"
    assert_same_training(part, unbroken)
    assert rows(part) == rows(unbroken)
    best = [
        torch.load(p / "checkpoints" / "best.ckpt", weights_only=True) for p in (part, unbroken)
    ]
    assert_same(best[0]["state_dict"], best[1]["state_dict"])


@pytest.mark.parametrize("batch", [1, BATCHES, BATCHES + 2])
def test_resume_after_ctrl_c_in_a_step(unbroken: Path, tmp_path: Path, batch: int) -> None:
    stopped = _train(tmp_path, partial(interrupt_in_step, batch))
    assert stopped.code == 130
    assert stopped.err.splitlines() in ([], ["interrupted"])
    assert "resume=outputs/part" in stopped.out
    _resume_and_compare(tmp_path, unbroken)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGTERM, 1), (signal.SIGUSR1, 0)]
)
def test_resume_after_a_queue_took_the_machine(
    unbroken: Path, tmp_path: Path, number: int, workers: int
) -> None:
    """By the same command, as the queue starts the job again."""
    auto = ["resume=auto", f"data.num_workers={workers}"]
    stopped = _train(tmp_path, partial(interrupt_in_step, 3, number), *auto)
    assert stopped.code == 130
    assert "interrupted and saved" in stopped.out
    part = tmp_path / "outputs" / "part"
    assert last(part)["global_step"] == 6  # of two optimisers: the step was finished
    assert (part / "checkpoints" / "best.ckpt").is_file()
    run("train.py", *RUN, "run=part", "trainer.max_epochs=2", *auto, cwd=tmp_path).ok()
    assert_same_training(part, unbroken)
    assert rows(part) == rows(unbroken)


def test_a_second_signal_stops_at_once(unbroken: Path, tmp_path: Path) -> None:
    """D had moved, G had not: it goes on from the end of the epoch before."""
    stopped = _train(tmp_path, partial(interrupt_in_step, BATCHES + 2, signal.SIGTERM, 2))
    assert stopped.code == 130
    assert "interrupted within a step; go on by" in stopped.out
    assert last(tmp_path / "outputs" / "part")["global_step"] == 2 * BATCHES
    _resume_and_compare(tmp_path, unbroken)


def test_a_second_signal_in_the_first_epoch_leaves_weights_alone(
    unbroken: Path, tmp_path: Path
) -> None:
    stopped = _train(tmp_path, partial(interrupt_in_step, 3, signal.SIGTERM, 2))
    assert stopped.code == 130
    assert "start again with resume=auto" in stopped.out
    part = tmp_path / "outputs" / "part"
    assert [path.name for path in (part / "checkpoints").iterdir()] == ["best.ckpt"]
    run("train.py", *RUN, "run=part", "trainer.max_epochs=2", "resume=auto", cwd=tmp_path).ok()
    assert_same_training(part, unbroken)


@pytest.mark.parametrize("batch", [BATCHES - 1, BATCHES])
def test_resume_after_the_time_was_up(unbroken: Path, tmp_path: Path, batch: int) -> None:
    _train(tmp_path, partial(run_out_of_time, batch), "trainer.max_time=00:00:01:00").ok()
    assert (tmp_path / "outputs" / "part" / "checkpoints" / "best.ckpt").is_file()
    _resume_and_compare(tmp_path, unbroken)


def _train(folder: Path, prepare: Callable[[], None], *more: str) -> Result:
    return run(
        "train.py", *RUN, "run=part", "trainer.max_epochs=2", *more, cwd=folder, prepare=prepare
    )


def _resume_and_compare(folder: Path, unbroken: Path) -> None:
    part = folder / "outputs" / "part"
    steps = last(part)["global_step"]
    assert steps < last(unbroken)["global_step"], "it was not stopped"
    run("train.py", "resume=outputs/part", cwd=folder).ok()
    assert_same_training(part, unbroken)
    assert rows(part) == rows(unbroken)  # an epoch in two pieces, too


def test_resume_from_the_checkpoint_before_a_damaged_one(unbroken: Path, tmp_path: Path) -> None:
    part = tmp_path / "outputs" / "part"
    run("train.py", *RUN, "run=part", "trainer.max_epochs=2", cwd=tmp_path).ok()
    damage(part / "checkpoints" / "last.ckpt")
    said = run("train.py", "resume=outputs/part", cwd=tmp_path).ok().out
    assert "last.ckpt is damaged; going on from outputs/part/checkpoints/previous.ckpt" in said
    assert "previous.ckpt" in (part / "log.txt").read_text()
    assert_same_training(part, unbroken)
    assert rows(part) == rows(unbroken)
    for name in ("last", "previous"):
        damage(part / "checkpoints" / f"{name}.ckpt")
    run("train.py", "resume=outputs/part", cwd=tmp_path).refused("last.ckpt is damaged", "init=")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_killed_between_its_first_two_checkpoints_is_started_anew(
    unbroken: Path, tmp_path: Path
) -> None:
    command = [*RUN, "run=part", "trainer.max_epochs=1"]
    run("train.py", *command, cwd=tmp_path).ok()
    part = tmp_path / "outputs" / "part"
    (part / "checkpoints" / "last.ckpt").unlink()
    run("train.py", *command, cwd=tmp_path).refused("holds a run already", "resume=auto")
    again = [*RUN, "run=part", "trainer.max_epochs=2", "resume=auto"]
    run("train.py", *again, cwd=tmp_path).ok()
    assert_same_training(part, unbroken)
    # More epochs than one are worth keeping, though nothing can go on from them.
    for name in ("last", "previous"):
        (part / "checkpoints" / f"{name}.ckpt").unlink()
    run("train.py", *again, cwd=tmp_path).refused("holds a run already")


def test_fewer_epochs_than_there_are_is_refused(tmp_path: Path) -> None:
    run("train.py", *RUN, "run=part", "trainer.max_epochs=3", cwd=tmp_path).ok()
    fewer = ["resume=outputs/part", "trainer.max_epochs=1"]
    run("train.py", *fewer, cwd=tmp_path).refused("trainer.max_epochs=1", "3 or more")


def limit_files(size: int) -> None:
    """No file may grow beyond `size` bytes; for `prepare`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_that_is_full_loses_nothing(unbroken: Path, tmp_path: Path) -> None:
    run("train.py", *RUN, "run=part", "trainer.max_epochs=1", cwd=tmp_path).ok()
    part = tmp_path / "outputs" / "part"
    before = (part / "checkpoints" / "last.ckpt").read_bytes()
    no_room = partial(limit_files, len(before) // 2)
    again = ("train.py", "resume=outputs/part", "trainer.max_epochs=2")
    line = run(*again, cwd=tmp_path, prepare=no_room).refused("last.ckpt", "no space", "make room")
    assert "Traceback" not in line
    assert (part / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list(part.rglob(".*"))
    run(*again, cwd=tmp_path).ok()
    assert_same_training(part, unbroken)
    assert rows(part) == rows(unbroken)
