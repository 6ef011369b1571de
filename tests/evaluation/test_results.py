"""Ranking, choice of shown fields, best systems, scales of pictures."""

import math

import numpy as np
import pytest

from vfn.evaluation.columns import PIXEL_COLUMNS as COLUMNS
from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.ranges import ChannelRanges, Range
from vfn.evaluation.results import ChannelResult, best_systems, shown_rows
from vfn.evaluation.rows import ImageScores
from vfn.evaluation.stain import Nuclei, measure
from vfn.report.images import (
    DETAIL_SIDE,
    LONGEST_SIDE,
    Panel,
    make_pictures,
    worst_region,
)

RANGES = ChannelRanges("uint16", Range(0, 65535), Range(100, 300), fields=1, pixels=100)


def result(**kwargs):
    return ChannelResult("er", RANGES, **kwargs)


def scored(truth, prediction, **kwargs):
    """A channel with this one field (1, H, W)."""
    pair = FieldPair("f", ("er",), truth, prediction, **kwargs)
    channel = result()
    channel.add(0, pair, 0, measure(pair, {"er": RANGES}, Nuclei())[0])
    return channel


def test_ranking_puts_the_undefined_first_then_the_worst():
    values = [30.0, math.nan, 20.0, math.inf]
    rows = [
        ImageScores(str(v), "er", {**dict.fromkeys(COLUMNS, 0.1), "psnr_signal": v}) for v in values
    ]
    assert result(rows=rows).ranking() == [1, 2, 0, 3]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 11, 12, 13, 100])
def test_shown_rows_start_with_worst_median_best(count):
    chosen = shown_rows(range(count), limit=12)
    assert len(chosen) == min(count, 12)
    assert len({row for row, _ in chosen}) == len(chosen)
    if count > 2:
        assert chosen[:3] == [(0, "worst"), ((count - 1) // 2, "median"), (count - 1, "best")]


def test_best_systems_look_in_the_right_direction():
    means = {"a": {"mae": 0.1, "psnr": 20.0, "ssim": None}, "b": {"mae": 0.2, "psnr": 30.0}}
    assert best_systems(means) == {"mae": "a", "psnr": "b"}
    assert best_systems({"a": {"mae": 0.1}}) == {}


def ramp(low, high, dtype):
    return np.linspace(low, high, 400).reshape(1, 20, 20).astype(dtype)


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (
            ramp(0, 0.03, np.float32),
            "Predictions are float32, 0 to 0.03; truths uint16, 100 to 300",
        ),
        (
            ramp(0, 20000, np.float32),
            "Predictions are float32, 0 to 20000; truths uint16, 100 to 300",
        ),
        (ramp(100, 300, np.float32), ""),
        (ramp(120, 200, np.float32), ""),  # flat, on the same scale
        (ramp(0, 255, np.uint8), ""),
        (ramp(150, 160, np.uint16), ""),  # poor, and of the truth's dtype
    ],
)
def test_another_scale_is_asked_about(prediction, words):
    said = scored(ramp(100, 300, np.uint16), prediction).other_scale()
    assert said == (f"{words}: another scale?" if words else "")


def test_the_scale_is_that_of_all_fields_and_of_finite_pixels():
    prediction = ramp(0, 1, np.float32)
    prediction[0, 0, 0] = np.nan
    channel = scored(ramp(100, 200, np.uint16), prediction)
    pair = FieldPair("g", ("er",), ramp(150, 300, np.uint16), ramp(-1, 0, np.float32))
    channel.add(1, pair, 0, measure(pair, {"er": RANGES}, Nuclei())[0])
    assert "float32, -1 to 1; truths uint16, 100 to 300" in channel.other_scale()


def fields_of(truths):
    ranges = ChannelRanges("uint8", Range(0, 255), Range(0, 255), len(truths), 400 * len(truths))
    channel = ChannelResult("er", ranges)
    for i, truth in enumerate(truths):
        pair = FieldPair(f"f{i}", ("er",), truth, truth)
        channel.add(i, pair, 0, measure(pair, {"er": ranges}, Nuclei())[0])
    return channel


def test_images_that_were_stretched_one_by_one_are_named():
    truths = [ramp(0, 255, np.uint8) for _ in range(4)]
    assert "stretched one by one" in fields_of(truths).remark()
    assert fields_of(truths[:3]).remark() == ""  # chance
    assert fields_of([*truths, ramp(0, 254, np.uint8)]).remark() == ""
    over = ramp(0, 255, np.uint8)
    over[0, :3] = 255  # over-exposed: the share at the top differs
    assert fields_of([*truths, over]).remark() == ""


@pytest.mark.parametrize(("error", "scale"), [(0, 0.05), (9, 0.05), (15, 0.1), (70, 0.5), (900, 1)])
def test_error_scale_holds_the_errors(error, scale):
    truth = np.full((1, 10, 10), 200, np.uint16)
    channel = scored(truth, truth + np.uint16(error))
    assert channel.error_scale == scale


def test_scatter_counts_every_pixel_in_its_range():
    truth = np.linspace(100, 300, 100).astype(np.uint16).reshape(1, 10, 10)
    channel = scored(truth, truth)
    assert channel.scatter.sum() == np.trace(channel.scatter) == 100
    assert channel.scatter_share == 1.0


def test_truth_and_prediction_have_one_display_range_and_error_its_sign():
    truth = np.full((1, 20, 20), 200, np.uint16)
    prediction = truth.copy()
    prediction[0, :, :10], prediction[0, :, 10:] = 300, 100
    channel = scored(truth, prediction)
    pair = FieldPair("f", ("er",), truth, prediction, pixel_size=0.5)
    strip = make_pictures(pair, channel).strip
    shown_truth, shown_prediction, error, _ = (panel.pixels for panel in strip.panels)
    assert set(shown_truth.ravel()) == {128}
    assert (shown_prediction[0, 0], shown_prediction[0, -1]) == (255, 0)
    red, _, blue = error[0, 0].tolist()
    assert red > blue  # too bright
    red, _, blue = error[0, -1].tolist()
    assert blue > red  # too dark
    assert strip.bar_um == 2.0
    assert strip.bar_share == pytest.approx(2 / 10)


def test_the_mask_paints_what_is_off_green():
    truth = np.full((1, 700, 1400), 200, np.uint16)
    prediction = truth.copy()
    prediction[0, :140, :280] += 21  # the signal range is 200 wide: 20 is within
    prediction[0, :140, 280:560:2] += 21
    prediction[0, 200:, :] += 20
    pictures = make_pictures(FieldPair("f", ("er",), truth, prediction), result())
    mask = pictures.mask.pixels.astype(int)
    assert mask.shape == (320, 640, 3)
    assert mask[10, 10].tolist() == [0, 220, 60]
    assert mask[10, 150:250, 0].min() > 20  # half of the pixels: half of the green
    assert mask[10, 150:250, 0].max() < 128
    np.testing.assert_array_equal(mask[-1, -1], pictures.prediction.pixels[-1, -1])
    assert pictures.beyond == pytest.approx(140 * 420 / (700 * 1400))
    region = (slice(100, 200), slice(0, 300))
    detail = make_pictures(FieldPair("f", ("er",), truth, prediction), result(), region)
    green = (detail.mask.pixels == (0, 220, 60)).all(axis=-1)
    np.testing.assert_array_equal(green, prediction[0, 100:200, :300] > 220)
    assert (detail.top, detail.left, detail.height, detail.width) == (100, 0, 100, 300)


def test_pixels_without_a_value_are_off():
    truth = np.full((1, 9, 9), 200, np.float32)
    prediction = truth.copy()
    prediction[0, 0, 0] = np.nan
    assert make_pictures(FieldPair("f", ("er",), truth, prediction), result()).beyond == 1 / 81


@pytest.mark.parametrize("limit", [200_000, 20_000, 2_000])
def test_a_picture_keeps_to_its_limit(limit):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400)).astype(np.uint8)
    uri = Panel("noise", noise).data_uri(limit)
    assert uri.startswith("data:image/webp;base64,")
    assert limit / 6 < len(uri) <= limit


def test_whole_fields_are_reduced_and_details_are_not():
    shape = (1, 700, 1000)
    truth = np.full(shape, 200, np.uint16)
    prediction = truth.copy()
    prediction[0, 600:620, 900:930] = 300
    pair = FieldPair("f", ("er",), truth, prediction)
    shown = make_pictures(pair, result())
    assert max(shown.truth.pixels.shape) == LONGEST_SIDE
    region = worst_region(pair, "er")
    assert region is not None
    rows, columns = region
    assert (rows.stop - rows.start, columns.stop - columns.start) == (DETAIL_SIDE, DETAIL_SIDE)
    assert rows.start <= 600 < 620 <= rows.stop <= 700
    assert columns.start <= 900 < 930 <= columns.stop <= 1000
    small = FieldPair("f", ("er",), truth[:, :99, :99], prediction[:, :99, :99])
    assert worst_region(small, "er") is None


def test_intervals_are_counted():
    rng = np.random.default_rng(0)
    truth = rng.integers(100, 300, (1, 40, 40)).astype(np.uint16)
    prediction = truth + np.uint16(5)
    halfwidth = np.full(truth.shape, 4, np.float32)
    halfwidth[:, :10] = 5
    channel = scored(truth, prediction, halfwidth=halfwidth, coverage=0.9)
    part = channel.summary()
    assert part["coverage"]["mean"] == 0.25
    assert part["coverage_stated"] == 0.9
    assert part["coverage_promised"] is None
    for promised in (True, False):
        told = scored(truth, prediction, halfwidth=halfwidth, coverage=0.9, promised=(promised,))
        assert told.summary()["coverage_promised"] is promised
    assert part["interval_width"]["mean"] == pytest.approx(2 * 4.25 / 200)
    pair = FieldPair("f", ("er",), truth, prediction, halfwidth=halfwidth, coverage=0.9)
    panel = make_pictures(pair, channel).inputs[-1]
    assert panel.title.startswith("half-width")
    assert panel.pixels[0, 0] > panel.pixels[-1, 0] > 0
    bare = make_pictures(FieldPair("g", ("er",), truth, prediction), channel).inputs[-1]
    assert (bare.title, bare.pixels.max()) == (panel.title, 0)
    assert len(part["risk_coverage"]["risk"]) == len(part["risk_coverage"]["retained"])
