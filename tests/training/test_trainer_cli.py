"""The trainer group, the seed and the run folder, as users of Lightning and Hydra set them."""

import csv
import re
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.cli import interrupt_in_step, run
from vfn.cli.help import CONF, ELSEWHERE
from vfn.errors import UserError
from vfn.training.callbacks.time_left import _clock
from vfn.training.trainer_args import ARGUMENTS, duration

RUN = [
    "data=simulated", "model=virfluonet", "data.fields=4", "data.height=70", "data.width=91", "data.patch_size=64",
    "data.batch_size=2", "data.patches_per_epoch=8", "data.val_patches=4", "model.generator.width=4",
    "model.generator.max_width=8", "model.discriminator.width=4", "model.generator.dropout=0.5",
    "logger=csv", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2",
]  # fmt: skip


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def batches(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["batches"]) for row in csv.DictReader(file)]


def same_weights(one: Path, other: Path) -> bool:
    weights = [last(folder)["state_dict"] for folder in (one, other)]
    return all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_every_argument_is_a_setting() -> None:
    """Of this version of Lightning."""
    keys = {str(key) for key in OmegaConf.load(CONF / "trainer" / "auto.yaml")}
    elsewhere = {key.removeprefix("trainer.") for key in ELSEWHERE}
    assert (
        keys - {"name", "channels_last", "sample_every_n_epochs", "max_time"}
        == set(ARGUMENTS) - elsewhere
    )
    assert {"gradient_clip_val", "profiler"} < keys


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("3m", 3), ("1h30m", 90), ("1h 30min", 90), ("90s", 1.5), ("2d", 2880), ("1.5H", 90),
        ("00:01:30:00", 90), ("1:2:3:4", 1563 + 1 / 15),
    ],
)  # fmt: skip
def test_times_as_people_write_them(text: str, minutes: float) -> None:
    assert duration(text) == timedelta(minutes=minutes)


def test_the_time_left_and_the_end(tmp_path: Path) -> None:
    words = [word for word in RUN if not word.startswith("model=")]
    often = ["data.patch_size=128", "trainer.max_time=5m", "callbacks.time_left.every=0", "run=r"]
    words = [word for word in words if not word.startswith("data.patch_size")]
    said = run("train.py", *words, *often, "trainer.max_epochs=1", cwd=tmp_path).ok().out
    for text in (said, (tmp_path / "outputs" / "r" / "log.txt").read_text()):
        assert re.search(r"\d:\d\d left of \d:\d\d, in epoch 0\n", text)
    assert "with model=recommended in outputs/r" in said
    assert re.search(r"validation MAE 0\.\d{4}; baselines: mean 0\.\d{4}, ", said)
    assert "trainer.max_epochs=1 is reached; for more epochs give resume=outputs/r" in said
    assert "it learnt from 8 patches: too few to judge by; let it train longer (" in said
    assert "model=" not in said.partition("too few to judge by")[2].partition("next:")[0]
    words = ["model=unet", *words, "data.patch_size=256", "trainer.max_epochs=1", "run=other"]
    said = run("train.py", *words, cwd=tmp_path).ok().out
    assert "make it faster (model=recommended data.patch_size=128)" in said


def test_a_clock() -> None:
    assert [_clock(s) for s in (0, 5, 100, 3599.4, 3599.6, 3700)] == [
        "0:00", "0:05", "1:40", "59:59", "1:00:00", "1:01:40",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "3", "m", "30m1h", "5x", "-3m", "1:30", "00:00:00", "0s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match=f"^trainer.max_time={text}: "):
        duration(text)


def test_a_run_that_stops_between_two_updates_goes_on_to_the_bit(tmp_path: Path) -> None:
    more = ["trainer.accumulate_grad_batches=3", "+trainer.gradient_clip_val=0.5"]
    run("train.py", *RUN, *more, "run=whole", cwd=tmp_path).ok()
    stop = partial(interrupt_in_step, 2)
    assert run("train.py", *RUN, *more, "run=part", cwd=tmp_path, prepare=stop).code == 130
    whole, part = (tmp_path / "outputs" / name for name in ("whole", "part"))
    assert (last(part)["waiting"], last(part)["updates"], last(part)["global_step"]) == (2, 0, 0)
    run("train.py", "resume=outputs/part", cwd=tmp_path).ok()
    assert last(part)["updates"] == 4  # 3 and 1 batch of each epoch
    assert same_weights(part, whole)
    assert batches(part) == batches(whole) == [4, 8]


def test_limits_count_batches(tmp_path: Path) -> None:
    more = [
        "trainer.limit_train_batches=3",
        "trainer.max_steps=5",
        "trainer.num_sanity_val_steps=1",
    ]
    said = run("train.py", *RUN, *more, "hydra.run.dir=mine", cwd=tmp_path).ok().out
    assert "trainer.max_steps=5 is reached" in said
    assert batches(tmp_path / "mine") == [3, 5]
    assert (tmp_path / "mine" / "checkpoints" / "best.ckpt").is_file()
    assert not (tmp_path / "outputs").exists()
    run("train.py", "resume=mine", "trainer.max_steps=6", cwd=tmp_path).ok()
    assert batches(tmp_path / "mine") == [3, 6]


def test_a_try_keeps_nothing(tmp_path: Path) -> None:
    said = run("train.py", *RUN, "trainer.fast_dev_run=2", cwd=tmp_path).ok().out
    assert "nothing is kept" in said
    assert not (tmp_path / "outputs").exists()


def test_without_a_seed_runs_differ_and_resume(tmp_path: Path) -> None:
    for name in ("one", "other"):
        run("train.py", *RUN, "seed=null", f"run={name}", "trainer.max_epochs=1", cwd=tmp_path).ok()
    one, other = (tmp_path / "outputs" / name for name in ("one", "other"))
    assert not same_weights(one, other)
    drawn = last(one)["vfn"]["data"]["seed"]
    assert (last(one)["vfn"]["seed"], OmegaConf.load(one / "config.yaml").seed) == (None, None)
    run("train.py", "resume=outputs/one", "trainer.max_epochs=2", cwd=tmp_path).ok()
    run("train.py", *RUN, f"seed={drawn}", "run=again", cwd=tmp_path).ok()
    assert same_weights(one, tmp_path / "outputs" / "again")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("trainer.precision=16-mixed", "needs a CUDA device"),
        ("trainer.strategy=fsdp", "split one network with one optimiser"),
        ("trainer.sync_batchnorm=true", "for GPUs alone"),
        ("trainer.gradient_clip_algorithm=foo", "unknown; choose norm or value"),
        ("trainer.limit_val_batches=0", "give 1 or more"),
        ("trainer.default_root_dir=x", "run=NAME"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, word: str, says: str) -> None:
    run("train.py", *RUN, word, "run=r", cwd=tmp_path).refused(says)
    assert not (tmp_path / "outputs").exists()
