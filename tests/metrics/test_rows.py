"""Rows of figures: both ranges, and a reason for everything undefined."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vfn.metrics.ranges import ChannelRanges, Range
from vfn.metrics.rows import COLUMNS, Row, score_image, summarise

RANGES = ChannelRanges("uint16", Range(0, 65535), Range(100, 900), fields=1, pixels=1)


def images(shape=(40, 53)):
    rng = np.random.default_rng(0)
    truth = rng.integers(100, 900, shape).astype(np.uint16)
    return (truth + rng.integers(0, 60, shape)).astype(np.uint16), truth


def test_both_ranges_equal_scikit_image():
    prediction, truth = images()
    row = score_image("f", "dapi", prediction, truth, RANGES)
    a, b = truth.astype(float), prediction.astype(float)
    for suffix, width in (("", 65535), ("_signal", 800)):
        assert row.values[f"psnr{suffix}"] == pytest.approx(
            peak_signal_noise_ratio(a, b, data_range=width), abs=1e-9
        )
        ssim = structural_similarity(
            a, b, data_range=width, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert row.values[f"ssim{suffix}"] == pytest.approx(ssim, abs=1e-6)
        assert row.values[f"mae{suffix}"] == pytest.approx(np.abs(a - b).mean() / width)
    assert tuple(row.values) == COLUMNS
    assert row.note == ""


def note_of(prediction, truth, ranges=RANGES):
    return score_image("f", "dapi", prediction, truth, ranges)


def test_every_undefined_figure_has_its_reason():
    prediction, truth = images()
    same = note_of(truth, truth)
    assert same.values["psnr"] == math.inf
    assert "identical" in same.note
    small = note_of(prediction[:10], truth[:10])
    assert math.isnan(small.values["ssim"])
    assert math.isnan(small.values["ssim_signal"])
    assert "11x11" in small.note
    flat = note_of(np.full_like(truth, 5), truth)
    assert math.isnan(flat.values["pearson"])
    assert "prediction is constant" in flat.note
    dark = note_of(prediction, truth, ChannelRanges("uint16", Range(0, 65535), Range(4, 4), 1, 1))
    assert math.isnan(dark.values["mae_signal"])
    assert "signal range is empty" in dark.note
    none = note_of(prediction, truth, ChannelRanges("float32", Range(4, 4), Range(4, 4), 1, 1))
    assert math.isnan(none.values["tolerance_level"])
    assert "one value" in none.note
    broken = prediction.astype(np.float32)
    broken[0, 0] = np.nan
    bad = note_of(broken, truth)
    assert all(math.isnan(value) for value in bad.values.values())
    assert "1 pixels" in bad.note


def test_one_pixel_image():
    row = note_of(np.array([[7]], np.uint16), np.array([[9]], np.uint16))
    assert row.values["mae"] == pytest.approx(2 / 65535)


def test_summary_leaves_out_what_is_not_finite():
    rows = [
        Row(str(i), "a", dict.fromkeys(COLUMNS, value))
        for i, value in enumerate([1.0, 3.0, math.inf, math.nan])
    ]
    entry = summarise(rows)["mae"]
    assert (entry["mean"], entry["std"], entry["n"]) == (2.0, pytest.approx(2**0.5), 2)
    assert "infinite in 1 of 4" in entry["note"]
    assert "undefined in 1 of 4" in entry["note"]


def test_summary_of_one_field_has_no_spread():
    assert summarise([Row("f", "a", dict.fromkeys(COLUMNS, 0.5))])["ssim"] == {
        "mean": 0.5,
        "std": None,
        "n": 1,
    }
