"""Half-widths: the arithmetic of conformal calibration, the error model, and the commands."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.cli import run
from tests.inference.test_predictor import grey, make_checkpoint
from tests.planes import make_sample
from tests.test_resume import assert_same
from vfn.commands.calibrate import miscoverage
from vfn.commands.checkpoint_pairs import CheckpointPairs
from vfn.commands.held_out import recorded
from vfn.data.cache import ImageCache
from vfn.data.config import DataConfig
from vfn.data.illumination import FlatField
from vfn.data.images import read_image
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample
from vfn.data.sets import make_data
from vfn.errors import UserError
from vfn.inference.predictor import Predictor
from vfn.metrics.coverage import coverage_reached
from vfn.models.checkpoint import Checkpoint, load_checkpoint
from vfn.models.intervals import (
    MULTIPLIERS,
    Miscoverage,
    ScaleHead,
    Uncertainty,
    check_coverage,
    halfwidth,
    halfwidth_channel,
    laplace_loss,
    missed,
)

SHAPE = (37, 45)


def calibrated(checkpoint: Checkpoint, lambdas: tuple[float, ...] | None = None) -> Checkpoint:
    """With a head that was never fitted, and a curve that has its 90 % at each of `lambdas`."""
    inputs, targets = len(checkpoint.task.inputs), len(checkpoint.task.targets)
    torch.manual_seed(1)
    head = ScaleHead(inputs, targets, 4)
    head.unit[:] = 0.05
    curves = [
        Miscoverage(MULTIPLIERS, np.exp(-np.log(10) * MULTIPLIERS / at), 1)
        for at in lambdas or (2.0,) * targets
    ]
    return replace(checkpoint, uncertainty=Uncertainty(head.eval(), tuple(curves)))


def predictor(checkpoint: Checkpoint, coverage: float | None = 0.9) -> Predictor:
    return Predictor(checkpoint, "cpu", "float32", 32, uncertainty=coverage)


# --- conformal arithmetic ---


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_misses_are_those_of_the_half_widths_that_are_written(dtype: str) -> None:
    rng = np.random.default_rng(0)
    prediction = (rng.random(SHAPE) * 200).astype(dtype)
    truth = (prediction + rng.laplace(0, 6, SHAPE)).clip(0, 250).astype(dtype)
    score = rng.lognormal(1, 1, SHAPE)
    shares = missed(prediction, truth, score)
    assert shares.shape == MULTIPLIERS.shape
    assert (np.diff(shares) <= 0).all()
    for i in range(0, len(MULTIPLIERS), 37):
        width = halfwidth(score, MULTIPLIERS[i], dtype)
        assert shares[i] == pytest.approx(1 - coverage_reached(prediction, truth, width), abs=1e-12)


def test_half_widths_are_rounded_up_and_saturate() -> None:
    score = np.array([0.1, 1.0, 1.01, 300.0])
    np.testing.assert_array_equal(halfwidth(score, 1.0, "uint8"), np.array([1, 1, 2, 255], "u1"))
    np.testing.assert_array_equal(halfwidth(score, np.inf, "uint16"), np.full(4, 65535, "u2"))
    assert halfwidth(score, 0.5, "float32").dtype == np.float32
    assert np.isfinite(halfwidth(score, np.inf, "float32")).all()


@pytest.mark.parametrize(
    ("coverage", "fields"), [(0.5, 2), (0.8, 8), (0.9, 18), (0.95, 38), (0.99, 198)]
)
def test_fields_that_a_guarantee_takes(coverage: float, fields: int) -> None:
    assert Miscoverage.needed(coverage) == fields
    none = np.zeros(len(MULTIPLIERS))
    for count, promised in ((fields, True), (fields - 1, False)):
        curve = Miscoverage(MULTIPLIERS, none, count)
        assert curve.promised(coverage) == promised
        assert curve.multiplier(coverage) == MULTIPLIERS[0]  # reached on all fields, either way


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(50, 99), st.integers(1, 200))
def test_the_smallest_multiplier_that_keeps_the_risk(
    drops: list[float], percent: int, fields: int
) -> None:
    risk = np.cumprod(drops)
    curve = Miscoverage(MULTIPLIERS[: len(risk)], risk, fields)
    alpha = 1 - percent / 100
    found = curve.multiplier(percent / 100)
    if curve.promised(percent / 100):  # conformal risk control, as it is printed
        bound = fields / (fields + 1) * risk + 1 / (fields + 1)
        allowed = curve.multipliers[bound <= alpha + 1e-12]
        assert found == (allowed[0] if len(allowed) else np.inf)
    else:
        assert np.isinf(found) or risk[curve.multipliers == found][0] <= alpha + 1e-9
    wider = [curve.multiplier(p / 100) for p in range(50, 100)]
    assert wider == sorted(wider)


def test_new_fields_are_covered_as_promised() -> None:
    """Fields that differ from each other: the mean over calibrations and new fields keeps alpha."""
    alpha, fields = 0.1, 18
    rng = np.random.default_rng(0)

    def misses() -> np.ndarray:
        # Each field has a level of error of its own, which the score does not know.
        error = rng.laplace(0, 20 * rng.lognormal(0, 0.4), 400)
        return missed(np.zeros(400, np.float32), error.astype(np.float32), np.full(400, 20.0))

    reached = []
    for _ in range(60):
        curve = Miscoverage(MULTIPLIERS, np.mean([misses() for _ in range(fields)], 0), fields)
        place = int(np.searchsorted(MULTIPLIERS, curve.multiplier(1 - alpha)))
        reached += [misses()[place] for _ in range(10)]
    assert 0.03 < np.mean(reached) <= alpha + 0.005  # 0.005: standard error of the mean


@pytest.mark.parametrize("value", [0.49, 0.995, 0.905, 1.0, 90.0, float("nan")])
def test_coverages_that_mean_nothing_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"uncertainty=.*0\.50 to 0\.99"):
        check_coverage(value)


def test_names_of_channels() -> None:
    assert halfwidth_channel("er", check_coverage(0.9)) == "er_halfwidth90"
    assert halfwidth_channel("er", check_coverage(0.57)) == "er_halfwidth57"


def test_words_tell_a_guarantee_from_none() -> None:
    curves = tuple(Miscoverage(MULTIPLIERS, np.zeros(len(MULTIPLIERS)), n) for n in (18, 3))
    sure, unsure = Uncertainty(ScaleHead(1, 2), curves).promise(0.9, ("er", "dna"))
    assert sure.startswith("er: ")
    assert "guarantee" in sure
    assert "no guarantee" not in sure
    assert "dna" in unsure
    assert "3 validation field(s); no guarantee for others, which takes 18 such fields" in unsure
    assert "like the 18 validation fields (conformal guarantee); their wells are not known" in sure
    wells = [replace(curve, unit="well") for curve in curves]
    known = Uncertainty(ScaleHead(1, 2), tuple(wells))
    sure, unsure = known.promise(0.9, ("er", "dna"))
    assert sure.endswith("over wells like the 18 validation wells (conformal guarantee)")
    assert "3 validation well(s); no guarantee for others, which takes 18 such wells" in unsure
    assert known.promised(0.9) == (True, False)


# --- the error model ---


def test_loss_is_least_at_the_mean_error() -> None:
    error = torch.tensor([1.0, 2.0, 6.0, 99.0]).reshape(1, 1, 2, 2)
    valid = error < 50
    losses = {s: laplace_loss(error, torch.full_like(error, s), valid) for s in (2.5, 3.0, 3.5)}
    assert min(losses, key=lambda s: float(losses[s])) == 3.0


def test_head_is_above_zero_and_in_the_units_of_the_error() -> None:
    torch.manual_seed(0)
    head = ScaleHead(2, 3)
    image, prediction = torch.rand(2, 2, 9, 11), torch.rand(2, 3, 9, 11)
    error = torch.tensor([0.3, 0.003, 5.0]).reshape(1, 3, 1, 1).expand(2, 3, 9, 11)
    valid = torch.ones_like(error, dtype=torch.bool)
    valid[:, 2] = False
    head.meet(error, valid)
    head.meet(2 * error, torch.ones_like(valid))  # the third is met now, the others were before
    np.testing.assert_allclose(head.unit.flatten(), [0.3, 0.003, 10.0], rtol=1e-5)
    scale = head(image, prediction)
    assert scale.shape == prediction.shape
    assert (scale > 0).all()
    ratio = scale.mean((0, 2, 3)) / head.unit.flatten()
    assert ((ratio > 0.2) & (ratio < 5)).all()


def test_round_trip_as_plain_data(tmp_path: Path) -> None:
    known = calibrated(make_checkpoint(["a", "b"], ["x", "y"]), (2.0, 7.0)).uncertainty
    assert known is not None
    torch.save(known.to_dict(), tmp_path / "a.pt")
    read = Uncertainty.from_dict(torch.load(tmp_path / "a.pt", weights_only=True), 2)
    assert read.multipliers(0.9) == known.multipliers(0.9)
    assert [curve.count for curve in read.curves] == [1, 1]
    assert_same(dict(read.tensors()), dict(known.tensors()))
    wells = Uncertainty(known.head, tuple(replace(c, unit="well") for c in known.curves)).to_dict()
    assert [curve.unit for curve in Uncertainty.from_dict(wells, 2).curves] == ["well", "well"]
    with pytest.raises(ValueError, match="units"):
        Uncertainty.from_dict({**wells, "units": ["plate", "well"]}, 2)
    assert not read.head.training


# --- prediction ---


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_stains_stay_and_half_widths_follow_in_their_order(dtype: str) -> None:
    checkpoint = calibrated(make_checkpoint(["a"], ["x", "y"], dtypes=("uint16", dtype)), (2, 40))
    field = [grey(0, SHAPE)]
    model = predictor(checkpoint)
    assert model.channels == ("x", "y", "x_halfwidth90", "y_halfwidth90")
    out = model.predict(field)
    assert out.shape == (4, *SHAPE)
    assert out.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(out[:2], predictor(checkpoint, None).predict(field))
    stain, score = model.predict_scored(field)
    np.testing.assert_array_equal(stain, out[:2])
    for i, at in enumerate((2, 40)):
        curve = checkpoint.uncertainty.curves[i]  # type: ignore[union-attr]
        assert curve.multiplier(0.9) == pytest.approx(at, rel=0.012)
        np.testing.assert_array_equal(out[2 + i], halfwidth(score[i], curve.multiplier(0.9), dtype))
    wider = predictor(checkpoint, 0.99).predict(field)[2:]
    assert (wider >= out[2:]).all()
    assert wider.mean() > out[2:].mean()


def test_scores_are_grey_values_on_any_curve() -> None:
    plain = calibrated(make_checkpoint())
    # The middle third of the equalised range is 1000 grey values of 4000: three quarters as steep.
    curve = replace(plain.targets[0], knots=(0.0, 1500.0, 2500.0, 4000.0))
    field = [grey(0, SHAPE)]
    line, score = (part[0] for part in predictor(plain).predict_scored(field))
    bent, scaled = (
        part[0] for part in predictor(replace(plain, targets=(curve,))).predict_scored(field)
    )
    middle = (line - score > 1400) & (line + score < 2600)
    assert middle.mean() > 0.5
    np.testing.assert_allclose(scaled[middle], 0.75 * score[middle], rtol=1e-3)
    assert not np.array_equal(line, bent)


def test_falloff_of_light_scales_half_widths_too() -> None:
    """In a region, by the region's own part of the surface."""
    plain = calibrated(make_checkpoint())
    surface = np.linspace(0.5, 1.5, 60, dtype=np.float32)[None].repeat(50, 0)
    flat = FlatField(100.0, surface, (50, 60))
    lit = replace(plain, flats=(None, flat))
    region = (slice(3, 40), slice(10, 55))
    field = [grey(0, SHAPE)]
    _, even = predictor(plain).predict_scored(field, region)
    _, uneven = predictor(lit).predict_scored(field, region)
    np.testing.assert_allclose(uneven[0] / even[0], flat.surface[region], rtol=1e-3)


def test_a_model_that_is_not_calibrated_says_what_to_run() -> None:
    with pytest.raises(
        UserError, match=r"uncertainty=0.9: .*python -m vfn.calibrate ckpt=best.ckpt"
    ):
        predictor(make_checkpoint())


def test_a_field_counts_once_and_for_the_targets_that_it_has() -> None:
    checkpoint = calibrated(make_checkpoint(["a"], ["x", "y"]))
    model = predictor(checkpoint, None)

    def sample(name: str, field: str, seed: int, *has: bool) -> Sample:
        truth = [10 * grey(seed + i, SHAPE) if there else None for i, there in enumerate(has, 1)]
        return replace(make_sample(name, [grey(seed, SHAPE)], truth), field=field)

    samples = [
        sample("one_z0", "one", 0, True, False),
        sample("one_z2", "one", 10, True, False),
        sample("two", "two", 20, True, True),
    ]
    x, y = miscoverage(model, samples, ImageCache())
    assert (x.count, x.unit, y.count, y.unit) == (2, "field", 1, "field")

    def misses(sample: Sample, target: int) -> np.ndarray:
        stain, score = model.predict_scored([sample.inputs[0].read()])
        truth = sample.targets[target]
        assert truth is not None
        return missed(stain[target], truth.read(), score[target])

    planes = (misses(samples[0], 0) + misses(samples[1], 0)) / 2
    np.testing.assert_allclose(x.misses, (planes + misses(samples[2], 0)) / 2)
    np.testing.assert_allclose(y.misses, misses(samples[2], 1))
    with pytest.raises(UserError, match="target y: none of the 2 validation samples has it"):
        miscoverage(model, samples[:2], ImageCache())
    # A well counts once where every field that has the target names one.
    wells = [
        replace(samples[0], well="A1"), replace(samples[1], field="other", well="A1"),
        replace(samples[2], well="B2"),
    ]  # fmt: skip
    x, y = miscoverage(model, wells, ImageCache())
    assert (x.count, x.unit, y.count, y.unit) == (2, "well", 1, "well")
    np.testing.assert_allclose(x.misses, (planes + misses(samples[2], 0)) / 2)
    plates = [replace(s, plate=str(i), well="A1") for i, s in enumerate(wells)]
    assert miscoverage(model, plates, ImageCache())[0].count == 3
    lacking = [*wells[:2], samples[2]]
    x, _ = miscoverage(model, lacking, ImageCache())
    assert (x.count, x.unit) == (3, "field")
    np.testing.assert_allclose(x.misses, np.mean([misses(s, 0) for s in samples], 0))


# --- the commands ---

RUN = [
    "data=simulated", "model=virfluonet", "data.fields=26", "data.height=70", "data.width=91", "data.patch_size=64",
    "data.test_fraction=0.15", "data.val_fraction=0.82", "data.batch_size=2",
    "data.patches_per_epoch=8", "model.generator.width=4", "model.generator.max_width=8",
    "model.discriminator.width=4", "logger=csv", "trainer=cpu", "trainer.precision=32-true",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose two checkpoints were calibrated after one epoch of two."""
    folder = tmp_path_factory.mktemp("trained")
    run("train.py", *RUN, "run=a", "trainer.max_epochs=1", cwd=folder).ok()
    for name in ("best", "last"):
        before = folder / f"outputs/a/checkpoints/{name}.ckpt"
        (folder / f"{name}_before.ckpt").write_bytes(before.read_bytes())
        run("vfn.calibrate", f"ckpt={before}", "steps=20", cwd=folder).ok()
    return folder / "outputs" / "a"


def load(path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = torch.load(path, weights_only=True)
    return raw


def test_all_else_in_the_checkpoint_stays(trained: Path) -> None:
    for name in ("best", "last"):
        before = load(trained.parents[1] / f"{name}_before.ckpt")
        after = load(trained / "checkpoints" / f"{name}.ckpt")
        assert "uncertainty" not in before["vfn"]
        assert after["vfn"].pop("uncertainty")["fields"] == [18]
        assert_same(after, before)
    assert not list((trained / "checkpoints").glob(".tmp*"))


def test_a_calibrated_run_resumes_as_if_it_were_not(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "a")
    run("train.py", *RUN, "run=b", "trainer.max_epochs=2", cwd=tmp_path).ok()
    run("train.py", "resume=a", "trainer.max_epochs=2", cwd=tmp_path).ok()
    one, other = (load(tmp_path / f / "checkpoints" / "last.ckpt") for f in ("a", "outputs/b"))
    for key in ("state_dict", "optimizer_states", "rng", "epoch", "global_step"):
        assert_same(one[key], other[key], key)
    assert "uncertainty" not in one["vfn"]  # other weights have other errors


def test_half_widths_in_the_file_hold_the_truth(trained: Path, tmp_path: Path) -> None:
    ckpt = trained / "checkpoints" / "best.ckpt"
    checkpoint = load_checkpoint(ckpt)
    assert checkpoint.uncertainty is not None
    data = make_data(checkpoint.task, DataConfig.from_dict(checkpoint.recipe["data"]))
    samples = recorded(data, checkpoint, "test")
    folder = tmp_path / "images"
    folder.mkdir()
    truths = {}
    for sample in samples:
        phase, truths[sample.name] = present(read_sample(sample, data.store))
        tifffile.imwrite(folder / f"{sample.name}_phase.tif", phase)
    command = [f"ckpt={ckpt}", f"input={folder}", f"output={tmp_path / 'out'}"]
    run("predict.py", *command, cwd=tmp_path).ok()
    (path,) = list((tmp_path / "out").glob(f"{samples[0].name}*"))
    plain = read_image(path).array
    said = run("predict.py", *command, "uncertainty=0.9", cwd=tmp_path).ok().out
    assert "dapi: intervals hold 90%" in said
    assert "18 validation fields (conformal guarantee)" in said
    files = sorted((tmp_path / "out").glob("*.ome.tif"))
    assert len(files) == len(samples)
    reached = []
    for file, sample in zip(files, sorted(samples, key=lambda sample: sample.name), strict=True):
        image = read_image(file)
        assert image.channels == ("dapi", "dapi_halfwidth90")
        reached.append(coverage_reached(image.array[0], truths[sample.name], image.array[1]))
    assert 0.8 < np.mean(reached) < 1  # four small fields tell no more
    np.testing.assert_array_equal(read_image(path).array[:1], plain)
    times = [file.stat().st_mtime_ns for file in files]
    run("predict.py", *command, "uncertainty=0.9", cwd=tmp_path).ok()
    assert [file.stat().st_mtime_ns for file in files] == times  # there already
    run("predict.py", *command, "uncertainty=0.95", cwd=tmp_path).ok()
    assert read_image(path).channels == ("dapi", "dapi_halfwidth95")


def test_evaluation_predicts_intervals_of_a_calibrated_model(trained: Path, tmp_path: Path) -> None:
    ckpt = trained / "checkpoints" / "best.ckpt"
    run("evaluate.py", f"ckpt={ckpt}", "output=scores", "uncertainty=0.8", cwd=tmp_path).ok()
    folder = tmp_path / "scores" / "predictions"
    checkpoint = load_checkpoint(ckpt)
    data = make_data(checkpoint.task, DataConfig.from_dict(checkpoint.recipe["data"]))
    samples = recorded(data, checkpoint, "test")
    model = Predictor(checkpoint, "cpu", uncertainty=0.8)
    pairs = CheckpointPairs(model, data, samples, folder)
    for i, sample in enumerate(samples):
        kept = read_image(folder / f"{sample.name}.ome.tif")
        assert kept.channels == ("dapi", "dapi_halfwidth80")
        pair = pairs.pair(i)
        assert pair.coverage == 0.8
        assert pair.halfwidth is not None
        np.testing.assert_array_equal(pair.prediction, kept.array[:1])
        np.testing.assert_array_equal(pair.halfwidth, kept.array[1:])


def test_calibrating_again_gives_the_same(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    before = (trained.parents[1] / "best_before.ckpt").read_bytes()
    found = []
    for seed in (0, 0, 1):
        path.write_bytes(before)
        run("vfn.calibrate", f"ckpt={path}", "steps=3", f"seed={seed}", cwd=tmp_path).ok()
        found.append(load(path)["vfn"]["uncertainty"])
    assert_same(found[0], found[1])
    assert not torch.equal(found[0]["misses"], found[2]["misses"])


def test_what_cannot_be_calibrated_is_refused(trained: Path, tmp_path: Path) -> None:
    path = trained.parents[1] / "best_before.ckpt"
    before = path.read_bytes()
    for overrides, parts in (
        ([], ("ckpt: not given",)),
        ([f"ckpt={path}", "steps=0"], ("steps=0",)),
        ([f"ckpt={path}", "data=folder"], ("data",)),
        ([f"ckpt={path}", "+data.first_seed=500"], ("none of the train fields", "sim0")),
    ):
        run("vfn.calibrate", *overrides, cwd=tmp_path).refused(*parts)
    uncalibrated = ["predict.py", f"ckpt={path}", f"input={tmp_path}", f"output={tmp_path / 'out'}"]
    for value, parts in (
        ("0.9", ("uncertainty=0.9", f"python -m vfn.calibrate ckpt={path}")),
        ("much", ("uncertainty=much",)),
        ("1.5", ("uncertainty=1.5", "0.50 to 0.99")),
    ):
        run(*uncalibrated, f"uncertainty={value}", cwd=tmp_path).refused(*parts)
    assert path.read_bytes() == before
