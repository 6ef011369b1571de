"""What `conf/data` can be told, through the real commands: each key changes what it says it changes."""

import csv
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from tests.cli import run
from tests.conftest import HEIGHT, WIDTH, make_image, write, write_tokens
from tests.test_cli import TINY
from vfn.commands.evaluate import fitted_on_test
from vfn.data.config import DataConfig
from vfn.data.images import read_image
from vfn.inference.ome import SHIFT
from vfn.models.checkpoint import load_checkpoint

TRAIN = ["data=folder", "data.root=images", *TINY, "logger=csv", "run=r"]
STAIN = ["task.inputs=[phase]", "task.targets=[dapi]"]
CKPT = "ckpt=outputs/r/checkpoints/best.ckpt"


def recipe(folder: Path, name: str = "r") -> dict[str, Any]:
    path = folder / "outputs" / name / "checkpoints" / "best.ckpt"
    return torch.load(path, weights_only=True)["vfn"]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    path = folder / "outputs" / name / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names(recipe: dict[str, Any]) -> set[str]:
    return {name for part in ("train", "val", "test") for name, _ in recipe["split"][part]}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_tokens(tmp_path / "images", ("phase", "dapi", "tubulin"), 5, "uint16")
    return tmp_path / "images"


def test_the_store_changes_no_pixel(images: Path, tmp_path: Path) -> None:
    """Trained through it and around it, the weights are the same bit for bit."""
    options = [*TRAIN[:-1], *STAIN, "trainer.precision=32-true"]
    cache = tmp_path / "cache"
    run("train.py", *options, "run=disk", f"data.cache_dir={cache}", cwd=tmp_path).ok()
    shards = {p: p.stat().st_mtime_ns for p in cache.rglob("*.planes")}
    assert len(shards) == 1
    run("train.py", *options, "run=again", f"data.cache_dir={cache}", cwd=tmp_path).ok()
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.planes")} == shards
    run("train.py", *options, "run=off", "data.cache=off", cwd=tmp_path).ok()
    reference = weights(tmp_path, "off")
    for name in ("disk", "again"):
        for key, value in weights(tmp_path, name).items():
            assert torch.equal(value, reference[key]), key


def test_excluded_fields_take_no_part(images: Path, tmp_path: Path) -> None:
    (images / "f03_dapi.tif").write_bytes(b"damaged")  # what is excluded is not even read
    (tmp_path / "exclude.csv").write_text("field,channel,reason\nf03,,truncated\n")
    line = run("train.py", *TRAIN, *STAIN, cwd=tmp_path).refused("f03_dapi.tif")
    assert "exclude" in line or "leave it out" in line
    run("train.py", *TRAIN, *STAIN, "data.exclude=exclude.csv", cwd=tmp_path).ok()
    assert names(recipe(tmp_path)) == {"f01", "f02", "f04", "f05"}
    run("evaluate.py", CKPT, "output=scored", cwd=tmp_path).ok()
    (tmp_path / "exclude.csv").write_text("field\nf99\n")
    options = [*TRAIN[:-1], "run=other", *STAIN]
    run("train.py", *options, "data.exclude=exclude.csv", cwd=tmp_path).refused("f99", "not there")


def test_partial_labels(images: Path, tmp_path: Path) -> None:
    """Fields train the targets that they have; what is missing counts nowhere."""
    targets = ["task.inputs=[phase]", "task.targets=[dapi,tubulin]"]
    run("train.py", *TRAIN[:-1], "run=whole", *targets, cwd=tmp_path).ok()
    (test,) = (name for name, _ in recipe(tmp_path, "whole")["split"]["test"])
    (first, *_) = (name for name, _ in recipe(tmp_path, "whole")["split"]["train"])
    for field in (test, first):
        (images / f"{field}_tubulin.tif").unlink()
    run("train.py", *TRAIN, *targets, cwd=tmp_path).ok()
    log = (tmp_path / "outputs" / "r" / "log.txt").read_text()
    assert "training samples with dapi: 3, tubulin: 2" in log
    (epoch,) = rows(tmp_path / "outputs" / "r" / "metrics.csv")
    assert all(math.isfinite(float(value)) for value in epoch.values())
    run("evaluate.py", CKPT, "output=scored", cwd=tmp_path).ok()
    scored = [(r["field"], r["channel"]) for r in rows(tmp_path / "scored" / "metrics.csv")]
    assert scored == [(test, "dapi")]
    (prediction,) = (tmp_path / "scored" / "predictions").glob("*.tif")
    assert read_image(prediction).channels == ("dapi", "tubulin")


def test_a_target_that_no_training_field_has(images: Path, tmp_path: Path) -> None:
    for path in sorted(images.glob("*_tubulin.tif"))[1:]:
        path.unlink()
    run(
        "train.py", *TRAIN, "task.inputs=[phase]", "task.targets=[dapi,tubulin]",
        "data.test_fields=[f01]", cwd=tmp_path,
    ).refused("target tubulin: no training field has it")  # fmt: skip


@pytest.mark.parametrize("layout", ["u2os_af", "stack"])
def test_planes_of_a_stack_as_channels(layout: str, roots: dict[str, Path], tmp_path: Path) -> None:
    if layout == "u2os_af":
        data = ["data=u2os_af", f"data.root={roots['u2os_af']}"]
        task, source = ["task.inputs=[dna@-10,dna,dna@6]", "task.targets=[actin]"], roots["u2os_af"]
    else:  # a file holds a whole stack, its planes told by position
        for field in range(4):
            stack = np.stack([make_image(10 * field + i, "uint16") for i in range(3)])
            path = tmp_path / "images" / f"f{field}.tif"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, stack, photometric="minisblack")
            write(tmp_path / "images" / f"f{field}_dapi.tif", make_image(field, "uint16"))
        data = [
            "data=folder",
            "data.root=images",
            "data.channels={phase@-4: 0, phase: 1, phase@4: 2}",
        ]
        task, source = (
            ["task.inputs=[phase@-4,phase,phase@4]", "task.targets=[dapi]"],
            tmp_path / "images",
        )
    run("train.py", *data, *task, *TINY, "logger=csv", "run=r", cwd=tmp_path).ok()
    assert len(recipe(tmp_path)["inputs"]) == 3
    run("predict.py", CKPT, f"input={source}", "output=predicted", cwd=tmp_path).ok()
    predicted = sorted((tmp_path / "predicted").glob("*.tif"))
    assert len(predicted) == (3 if layout == "u2os_af" else 4)
    assert read_image(predicted[0]).array.shape == (1, HEIGHT, WIDTH)
    run("evaluate.py", CKPT, "output=scored", cwd=tmp_path).ok()
    assert (tmp_path / "scored" / "report.html").stat().st_size > 10_000


def textured(seed: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.random(shape), 2) + 0.3 * gaussian_filter(rng.random(shape), 6)
    return ((image - image.min()) / np.ptp(image) * 30000 + 1000).astype(np.uint16)


def test_registered_targets(tmp_path: Path) -> None:
    """The target is the input, 3 rows down and 2 columns left: corrected, a straight line predicts it."""
    for field in range(4):
        large = textured(field, (220, 260))
        write(tmp_path / "images" / f"f{field}_phase.tif", large[10:210, 10:250])
        write(tmp_path / "images" / f"f{field}_dapi.tif", large[7:207, 12:252])
    errors = {}
    for register in ("false", "true"):
        name = f"register_{register}"
        options = [*TRAIN[:-1], f"run={name}", *STAIN, f"data.register={register}"]
        run("train.py", *options, cwd=tmp_path).ok()
        ckpt = f"ckpt=outputs/{name}/checkpoints/best.ckpt"
        run("evaluate.py", ckpt, f"output={name}", cwd=tmp_path).ok()
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        errors[register] = summary["dapi"]["baselines"]["linear"]["mae"]["mean"]
        page = (tmp_path / name / "report.html").read_text()
        assert "fitted on test pixels" in page
        assert ("measured on each test field, its truth included" in page) == (register == "true")
    assert errors["false"] > 0.01
    assert errors["true"] < 1e-4
    stored = recipe(tmp_path, "register_true")["shifts"]
    np.testing.assert_allclose(stored["usual"], [[3, -2]], atol=0.2)
    log = (tmp_path / "outputs" / "register_true" / "log.txt").read_text()
    assert "shifts corrected: dapi by (3.0, -2.0) px" in log
    (predicted,) = (tmp_path / "register_true" / "predictions").glob("*.tif")
    assert read_image(predicted).array.shape == (1, 197, 238)  # what both have


def test_illumination_corrected(tmp_path: Path) -> None:
    falloff = 1 - 0.6 * np.hypot(*np.mgrid[-1:1:70j, -1:1:91j]) / math.sqrt(2)
    for field in range(6):
        for channel in ("phase", "dapi"):
            grey = textured(field, (HEIGHT, WIDTH)) / 8 + 8000
            write(
                tmp_path / "images" / f"f{field}_{channel}.tif", (grey * falloff).astype("uint16")
            )
    options = [*TRAIN, *STAIN, "data.illumination=true"]
    run("train.py", *options, cwd=tmp_path).ok()
    log = (tmp_path / "outputs" / "r" / "log.txt").read_text()
    (falloff_of_phase,) = re.findall(r"falloff of light corrected: phase (\d+)%", log)
    assert int(falloff_of_phase) > 30
    flats = recipe(tmp_path)["flats"]
    surface = np.array(flats[0]["grid"])
    assert surface[0, 0] / surface.max() < 0.7
    plain = [*TRAIN[:-1], "run=plain", *STAIN]
    run("train.py", *plain, cwd=tmp_path).ok()
    # The darkest corners no longer stretch the range of grey values that is trained on.
    width = {
        n: np.ptp([recipe(tmp_path, n)["inputs"][0][k] for k in ("low", "high")])
        for n in ("r", "plain")
    }
    assert width["r"] < 0.8 * width["plain"]
    run("predict.py", CKPT, "input=images", "output=predicted", cwd=tmp_path).ok()
    run("evaluate.py", CKPT, "output=scored", cwd=tmp_path).ok()
    by_field = load_checkpoint(tmp_path / "outputs" / "r" / "checkpoints" / "best.ckpt")
    data = DataConfig.from_dict(by_field.recipe["data"])
    assert fitted_on_test(by_field, data) == "nothing"
    split = {**by_field.recipe["split"], "by": "spatial"}
    within = replace(by_field, recipe={**by_field.recipe, "split": split})
    assert "flat field" in fitted_on_test(within, data)
    write(tmp_path / "larger" / "x_phase.tif", textured(0, (80, 91)))
    run("predict.py", CKPT, "input=larger", "output=p2", cwd=tmp_path).refused(
        "x", "80x91", f"{HEIGHT}x{WIDTH}"
    )


def test_fixed_ranges(images: Path, tmp_path: Path) -> None:
    options = ["data.range=fixed", "data.fixed={phase: [0, 40000], dapi: [100, 50000]}"]
    run("train.py", *TRAIN, *STAIN, *options, cwd=tmp_path).ok()
    stored = recipe(tmp_path)
    assert [(m["low"], m["high"]) for m in (*stored["inputs"], *stored["targets"])] == [
        (0, 40000),
        (100, 50000),
    ]
    other = [*TRAIN[:-1], "run=other", *STAIN]
    run("train.py", *other, "data.range=fixed", "data.fixed={phase: [0, 9]}", cwd=tmp_path).refused(
        "channel dapi", "data.fixed"
    )
    run("train.py", *other, "data.fixed={actin: [0, 9]}", cwd=tmp_path).refused(
        "actin", "no channel"
    )


def test_a_field_unlike_the_training_is_named(images: Path, tmp_path: Path) -> None:
    run("train.py", *TRAIN, *STAIN, cwd=tmp_path).ok()
    (first, *_) = (name for name, _ in recipe(tmp_path)["split"]["train"])
    usual = read_image(images / f"{first}_phase.tif").array[0]
    write(tmp_path / "new" / "usual_phase.tif", usual)
    write(tmp_path / "new" / "dim_phase.tif", usual // 20)
    said = run("predict.py", CKPT, "input=new", "output=predicted", cwd=tmp_path).ok().out
    assert "input shift: 1 of 2 field(s)" in said
    assert "field dim, phase:" in said
    assert {row["field"] for row in rows(tmp_path / "predicted" / "input_shift.csv")} == {"dim"}
    for name, shifted in (("dim", True), ("usual", False)):
        with tifffile.TiffFile(tmp_path / "predicted" / f"{name}.ome.tif") as tif:
            assert (SHIFT in (tif.ome_metadata or "")) == shifted


@pytest.mark.parametrize("key", ["channels", "fixed"])
def test_braces_that_the_shell_took_apart(images: Path, tmp_path: Path, key: str) -> None:
    """Unquoted, a shell makes two words of data.channels={phase:BF,dapi:x}."""
    words = [f"data.{key}=phase:BF", f"data.{key}=dapi:x"]
    run("train.py", *TRAIN, *STAIN, *words, cwd=tmp_path).refused(f"data.{key}=dapi:x", "quotes")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """As an old camera computer writes them: they reach tables, pages and messages."""
    for field in range(4):
        for channel in ("phase", "dapi"):
            name = os.fsdecode(b"f%d\xe9_%s.tif" % (field, channel.encode()))
            try:
                write(tmp_path / "images" / name, textured(field, (HEIGHT, WIDTH)))
            except OSError:
                pytest.skip("this file system takes no such names")
    given = ["data=folder", "data.root=images", *STAIN]
    run("vfn.doctor", *given, "output=doctor", cwd=tmp_path).ok()
    assert (
        os.fsencode("images/") + b"f0\xe9_phase.tif"
        in (tmp_path / "doctor" / "doctor.csv").read_bytes()
    )
    damaged = next(iter((tmp_path / "images").glob("f1*_dapi.tif")))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    run("train.py", *TRAIN, *STAIN, cwd=tmp_path).refused("is truncated")
    (tmp_path / "exclude.csv").write_text("field\nf1\n")
    run("train.py", *TRAIN, *STAIN, "data.exclude=exclude.csv", cwd=tmp_path).ok()
    run("predict.py", CKPT, "input=images", "output=predicted", cwd=tmp_path).ok()
    assert len(list((tmp_path / "predicted").glob("*.tif"))) == 4
