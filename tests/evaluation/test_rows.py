"""Rows of figures: both ranges, and a reason for everything undefined."""

import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vfn.data.simulated import simulate_field
from vfn.evaluation.columns import BASELINE_COLUMNS, HIGHER_IS_BETTER
from vfn.evaluation.columns import COLUMNS as ALL
from vfn.evaluation.columns import PIXEL_COLUMNS as COLUMNS
from vfn.evaluation.ranges import ChannelRanges, Range
from vfn.evaluation.rows import ImageScores, score_image, summarise
from vfn.metrics import objects

RANGES = ChannelRanges("uint16", Range(0, 65535), Range(100, 900), fields=1, pixels=1)


def images(shape=(200, 233)):
    """(prediction, truth), uint16: smooth structure, and the same with a little noise."""
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.normal(size=shape), 2) * 1000 + 500
    truth = rng.poisson(truth.clip(100, 900)).astype(np.uint16)
    return (truth + rng.integers(0, 60, shape)).astype(np.uint16), truth


def row_of(prediction, truth, ranges=RANGES, columns=COLUMNS):
    return score_image("f", "dapi", prediction, truth, ranges, columns)


def test_both_ranges_equal_scikit_image():
    prediction, truth = images()
    row = row_of(prediction, truth)
    a, b = truth.astype(float), prediction.astype(float)
    error = ((a - b) ** 2).mean()
    for suffix, width in (("", 65535), ("_signal", 800)):
        assert row.values[f"psnr{suffix}"] == pytest.approx(
            peak_signal_noise_ratio(a, b, data_range=width), abs=1e-5
        )
        ssim = structural_similarity(
            a, b, data_range=width, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert row.values[f"ssim{suffix}"] == pytest.approx(ssim, abs=1e-6)
        assert row.values[f"mae{suffix}"] == pytest.approx(np.abs(a - b).mean() / width)
        assert row.values[f"mse{suffix}"] == pytest.approx(error / width**2)
        assert row.values[f"nrmse{suffix}"] == pytest.approx(error**0.5 / width)
        assert ssim < row.values[f"ms_ssim{suffix}"] < 1
    line = linregress(a.ravel(), b.ravel())
    assert row.values["gain"] == pytest.approx(line.slope, abs=1e-5)
    assert row.values["offset"] == pytest.approx(line.intercept, abs=1e-2)
    assert row.values["r2"] == pytest.approx(line.rvalue**2, abs=1e-5)
    assert row.spectra.resolution == row.values["frc_resolution"]
    assert tuple(row.values) == COLUMNS
    assert (row.note, np.isfinite(list(row.values.values())).all()) == ("", True)


def test_a_baseline_has_less_and_the_same():
    prediction, truth = images()
    whole, part = row_of(prediction, truth), row_of(prediction, truth, columns=BASELINE_COLUMNS)
    assert tuple(part.values) == BASELINE_COLUMNS
    assert part.values == {column: whole.values[column] for column in BASELINE_COLUMNS}
    assert part.spectra is None
    assert part.tolerance is not None
    assert set(summarise([part])) == set(BASELINE_COLUMNS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("move", [(0, 0), (2, 0), (0, -2), (3, 5)])
def test_a_shifted_copy_shows_its_shift(dtype, move):
    stain = simulate_field(3, (300, 320), ("dna",))[0].astype(np.float64)
    stain *= 250 / stain.max()
    down, right = move
    truth = stain[10:-10, 10:-10].astype(dtype)
    moved = stain[10 - down : 290 - down, 10 - right : 310 - right].astype(dtype)
    row = row_of(moved, truth)
    assert row.values["shift_rows"] == pytest.approx(down, abs=0.1)
    assert row.values["shift_columns"] == pytest.approx(right, abs=0.1)
    assert row.values["shift_local"] == pytest.approx(math.hypot(down, right), abs=0.2)


def test_an_offset_shows_in_the_bias_alone():
    prediction, truth = images()
    before, after = row_of(prediction, truth).values, row_of(prediction + 400, truth).values
    wrong = (prediction.mean(dtype=float) - truth.mean(dtype=float)) / 800
    assert before["bias_signal"] == pytest.approx(wrong)
    assert after["bias_signal"] == pytest.approx(wrong + 0.5)
    assert after["contrast"] == pytest.approx(before["contrast"], rel=1e-4)
    assert row_of(np.full_like(truth, 9), truth).values["contrast"] < 1e-6


def test_every_undefined_figure_has_its_reason():
    prediction, truth = images()
    same = row_of(truth, truth)
    assert same.values["psnr"] == math.inf
    assert same.note == "identical to the ground truth: psnr, psnr_signal infinite"
    small = row_of(prediction[:10], truth[:10])
    assert math.isnan(small.values["ssim"])
    assert math.isnan(small.values["ms_ssim_signal"])
    for reason in (
        "11x11: ssim,", "176x176: ms_ssim", "64x64: frc_res", "no shift can be told",
        "too few parts of the field tell", "too few parts of the field have signal",
    ):  # fmt: skip
        assert reason in small.note
    flat = row_of(np.full_like(truth, 5), truth)
    assert math.isnan(flat.values["pearson"])
    assert (flat.values["gain"], flat.values["offset"]) == (0, 5)
    assert "prediction is constant: pearson, r2 undefined" in flat.note
    empty = row_of(truth, np.full_like(truth, 5))
    assert math.isnan(empty.values["gain"])
    assert (
        "ground truth is constant: pearson, gain, offset, r2, pearson_ceiling undefined"
        in empty.note
    )
    dark = row_of(prediction, truth, ChannelRanges("uint16", Range(0, 65535), Range(4, 4), 1, 1))
    assert math.isnan(dark.values["mae_signal"])
    assert "signal range is empty: mae_signal, mse_signal" in dark.note
    assert "noise_truth, tolerance_level_signal" in dark.note
    tiny = row_of(prediction[:4], truth[:4])
    assert "5x5: noise_truth, pearson_ceiling undefined" in tiny.note
    faint = row_of(prediction, truth, ChannelRanges("uint16", RANGES.full, Range(0, 65535), 1, 1))
    assert math.isnan(faint.values["tolerance_level_signal"])
    assert "no signal: tolerance_level_signal, tolerance_threshold_signal" in faint.note
    none = row_of(prediction, truth, ChannelRanges("float32", Range(4, 4), Range(4, 4), 1, 1))
    assert math.isnan(none.values["tolerance_level"])
    assert "one value" in none.note
    broken = prediction.astype(np.float32)
    broken[0, 0] = np.nan
    bad = row_of(broken, truth)
    assert all(math.isnan(value) for value in bad.values.values())
    assert "1 pixels" in bad.note


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["prediction", "truth", "both", "neither"]),
    st.integers(1, 190),
    st.integers(1, 190),
    st.booleans(),
)
def test_no_undefined_figure_goes_without_a_word(constant, height, width, empty):
    prediction, truth = (image[:height, :width].copy() for image in images())
    if constant in ("prediction", "both"):
        prediction[:] = 7
    if constant in ("truth", "both"):
        truth[:] = 9
    ranges = ChannelRanges("uint16", Range(0, 65535), Range(4, 4 if empty else 900), 1, 1)
    row = row_of(prediction, truth, ranges)
    for column, value in row.values.items():
        if not math.isfinite(value):
            assert re.search(rf"\b{column}\b", row.note)


def test_one_pixel_image():
    row = row_of(np.array([[7]], np.uint16), np.array([[9]], np.uint16))
    assert row.values["mae"] == pytest.approx(2 / 65535)


def test_images_are_scored_side_by_side_as_one_after_the_other():
    pairs = [images((200 + i, 230)) for i in range(6)]
    before = torch.get_num_threads()
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda pair: row_of(*pair).values, pairs))
    for pair, values in zip(pairs, together, strict=True):
        assert values == pytest.approx(row_of(*pair).values, rel=1e-4)
    assert torch.get_num_threads() == before


def test_a_wrong_gain_lowers_psnr_and_shows():
    _, truth = images()
    scores = [row_of((truth * gain).astype(np.uint16), truth).values for gain in (1.05, 1.3)]
    assert scores[1]["psnr_signal"] < scores[0]["psnr_signal"]
    assert scores[1]["gain"] == pytest.approx(1.3, abs=0.01)
    assert scores[1]["r2"] > 0.9999
    assert scores[1]["frc_resolution"] == 2.0


def test_every_column_has_its_words():
    assert all(column.title and format(0.5, column.spec) for column in ALL.values())
    assert set(HIGHER_IS_BETTER) < set(ALL)
    assert tuple(ALL)[: len(COLUMNS)] == COLUMNS
    assert set(objects.COLUMNS) < set(ALL)


def test_summary_leaves_out_what_is_not_finite():
    rows = [
        ImageScores(str(i), "a", dict.fromkeys(COLUMNS, value))
        for i, value in enumerate([1.0, 3.0, math.inf, math.nan])
    ]
    entry = summarise(rows)["mae"]
    assert (entry["mean"], entry["std"], entry["n"]) == (2.0, pytest.approx(2**0.5), 2)
    assert "infinite in 1 of 4" in entry["note"]
    assert "undefined in 1 of 4" in entry["note"]


def test_summary_of_one_field_has_no_spread():
    assert summarise([ImageScores("f", "a", dict.fromkeys(COLUMNS, 0.5))])["ssim"] == {
        "mean": 0.5,
        "std": None,
        "n": 1,
    }
