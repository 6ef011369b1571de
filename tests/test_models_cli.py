"""Generators, starts, averages, objectives and schedules through the real command line."""

import csv
import json
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from omegaconf import OmegaConf

from tests.cli import interrupt_in_step, run, run_out_of_time
from tests.test_cli import SIMULATED, TINY
from tests.test_resume import RUN, assert_same, last
from vfn.models.checkpoint import load_checkpoint

BASE = [*SIMULATED, *TINY, "logger=csv", "data.augment=false", "trainer.precision=32-true"]
RESUMED = [key for key in RUN if "dropout" not in key and "model=" not in key]
PAIR = ["task.inputs=[phase,dapi]", "task.targets=[actin]"]


@pytest.mark.parametrize("model", ["convnext", "best"])
def test_the_untrained_network_is_the_linear_baseline(tmp_path: Path, model: str) -> None:
    keys = [f"model={model}", "model.generator.start=linear", "model.adam.lr_generator=0"]
    # Ranges of their own, in which nothing is clipped: the map is exact.
    fixed = "data.fixed={phase: [0, 66000], dapi: [-3000, 70000], actin: [-500, 90000]}"
    run("train.py", *BASE, *PAIR, *keys, fixed, "run=m", cwd=tmp_path).ok()
    ckpt = "ckpt=outputs/m/checkpoints/best.ckpt"
    run("evaluate.py", ckpt, "output=e", "precision=float32", cwd=tmp_path).ok()
    figures = json.loads((tmp_path / "e" / "summary.json").read_text())["actin"]
    linear = figures["baselines"]["linear"]
    for name in ("mae", "pearson", "psnr_signal"):
        assert figures[name]["mean"] == pytest.approx(linear[name]["mean"], rel=1e-3), name


def test_a_linear_start_that_cannot_be_says_so(tmp_path: Path) -> None:
    keys = ["model=convnext", "model.generator.start=linear", "data.equalise=true"]
    keys += ["model.adam.lr_generator=0", "run=m"]
    assert "start=linear" in run("train.py", *BASE, *PAIR, *keys, cwd=tmp_path).ok().out
    net = load_checkpoint(tmp_path / "outputs" / "m" / "checkpoints" / "best.ckpt").generator
    out = net(torch.zeros(1, 2, 64, 64))
    assert out.std() < 1e-6
    assert out.mean() != 0


@pytest.mark.parametrize(("noise", "start"), [(60, "linear"), (6000, "level"), (None, "level")])
def test_the_data_choose_the_start(tmp_path: Path, noise: int | None, start: str) -> None:
    """Actin is twice the phase image, and more or less noise; or equalised, without a linear map."""
    rng = np.random.default_rng(0)
    for field in range(4):
        phase = rng.integers(200, 2000, (96, 96))
        actin = 2 * phase + rng.normal(0, noise or 0, phase.shape)
        for channel, image in (("phase", phase), ("actin", actin.clip(0))):
            tifffile.imwrite(tmp_path / f"f{field}_{channel}.tif", image.astype(np.uint16))
    keys = ["data=folder", f"data.root={tmp_path}", "task.inputs=[phase]", "task.targets=[actin]"]
    own = ["model=best", *TINY, "logger=csv", f"data.equalise={noise is None}", "run=m"]
    told = run("train.py", *keys, *own, cwd=tmp_path).ok().out
    # Variance of twice a uniform integer over 1800 values: (2 * 1800)^2 / 12 = 1.08e6.
    share = 1.08e6 / (1.08e6 + (noise or 0) ** 2)
    (percent,) = re.findall(r"explains (\d+) % of the targets' variance", told)
    assert int(percent) == pytest.approx(100 * share, abs=3 if noise != 6000 else 20)
    folder = tmp_path / "outputs" / "m"
    assert OmegaConf.load(folder / "config.yaml").model.generator.start == start
    net = load_checkpoint(folder / "checkpoints" / "best.ckpt").generator
    assert (net.linear is not None) == (start == "linear")
    # What goes on from it, or starts from its weights, takes its start over.
    run("train.py", "resume=outputs/m", "trainer.max_epochs=2", cwd=tmp_path).ok()
    init = ["init=outputs/m/checkpoints/best.ckpt", "run=two"]
    own = [key for key in own if key != "run=m"]
    assert "explains" not in run("train.py", *keys, *own, *init, cwd=tmp_path).ok().out
    assert OmegaConf.load(tmp_path / "outputs/two/config.yaml").model.generator.start == start


def test_other_targets_take_the_modern_generator_but_for_its_ends(tmp_path: Path) -> None:
    keys = ["model=convnext", "model.generator.start=linear", "task.inputs=[phase]"]
    run("train.py", *BASE, *keys, "task.targets=[dapi]", "run=one", cwd=tmp_path).ok()
    init = ["init=outputs/one/checkpoints/best.ckpt", "freeze=encoder", "run=two"]
    result = run("train.py", *BASE, *keys, *init, "task.targets=[actin,dapi]", cwd=tmp_path).ok()
    assert "other targets" in result.out
    one, two = (
        load_checkpoint(
            tmp_path / "outputs" / name / "checkpoints" / "best.ckpt"
        ).generator.state_dict()
        for name in ("one", "two")
    )
    assert all(torch.equal(one[key], two[key]) for key in one if key.startswith("first."))
    assert two["linear.weight"].shape == (2, 1, 1, 1)


def test_an_average_resumes_exactly_and_predicts(tmp_path: Path) -> None:
    keys = [*RESUMED, "model=best", "model.ema=0.5", "trainer.max_epochs=2"]
    run("train.py", *keys, "run=whole", cwd=tmp_path).ok()
    stopped = run(
        "train.py", *keys, "run=part", cwd=tmp_path, prepare=partial(interrupt_in_step, 3)
    )
    assert stopped.code == 130
    run("train.py", "resume=outputs/part", cwd=tmp_path).ok()
    part, whole = (tmp_path / "outputs" / name for name in ("part", "whole"))
    ours, theirs = last(part), last(whole)
    for checkpoint in (ours, theirs):
        del checkpoint["callbacks"]["ModelCard"]  # its clock
    for key in ("state_dict", "optimizer_states", "callbacks"):
        assert_same(ours[key], theirs[key], key)
    state = theirs["state_dict"]
    assert state["averaged._extra_state"] == 8
    assert not torch.equal(state["averaged.net.last.weight"], state["generator.last.weight"])
    net = load_checkpoint(whole / "checkpoints" / "last.ckpt").generator
    assert torch.equal(net.last.weight, state["averaged.net.last.weight"])
    best = torch.load(whole / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in best if key.startswith("averaged")]


def test_keys_that_cannot_be(tmp_path: Path) -> None:
    for key in (
        "model.ema=1",
        "model.generator.start=zero",
        "loss.adversarial_kind=wgan",
        "loss.r1=-1",
    ):
        line = run("train.py", *BASE, "run=m", key, cwd=tmp_path).refused(key.split("=")[0])
        assert not (tmp_path / "outputs").exists(), line


@pytest.mark.parametrize(
    "keys",
    [
        ["loss=virfluonet", "loss.adversarial_kind=hinge", "loss.feature_matching=1"],
        ["model=pix2pix", "model.generator.depth=5", "loss.adversarial_kind=lsgan", "loss.r1=1"],
        ["model=convnext", "loss=virfluonet", "loss.ms_ssim=0.2", "loss.r1=1", "loss.r1_every=1"],
    ],
    ids=["hinge", "lsgan", "convnext"],
)
def test_every_term_of_the_objective_trains(tmp_path: Path, keys: list[str]) -> None:
    run("train.py", *BASE, *keys, "run=m", cwd=tmp_path).ok()
    with (tmp_path / "outputs" / "m" / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    for key in keys:
        name, _, value = key.removeprefix("loss.").partition("=")
        if key.startswith("loss.") and value in ("1", "0.2") and name != "r1_every":
            assert math.isfinite(float(row[f"train/{name}"])), name


def test_rates_fall_over_epochs_and_over_time(tmp_path: Path) -> None:
    keys = ["model=unet", "model.schedule=cosine", "model.warmup=0.1", "trainer.max_epochs=3"]
    run("train.py", *BASE, *keys, "run=epochs", cwd=tmp_path).ok()
    with (tmp_path / "outputs" / "epochs" / "metrics.csv").open(newline="") as file:
        rates = [float(row["lr/g"]) for row in csv.DictReader(file)]
    assert 2e-4 > rates[0] > rates[1] > rates[2] > 0
    timed = [
        "model=virfluonet",
        "model.schedule=onecycle",
        "model.warmup=0.3",
        "trainer.max_epochs=1000",
    ]
    # The eighth step is after the time: its epoch is the last.
    prepare = partial(run_out_of_time, 7)
    limit = "trainer.max_time=00:00:01:00"
    run("train.py", *BASE, *timed, limit, "run=time", cwd=tmp_path, prepare=prepare).ok()
    assert last(tmp_path / "outputs" / "time")["global_step"] < 2 * 12
