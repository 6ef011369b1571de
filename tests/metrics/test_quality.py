"""PIQE and BRISQUE against the published programs, plain code, and what they must do.

`PYPIQE` and `BRISQUE` were recorded from pypiqe 1.2 and from brisque 0.2.0 with libsvm 3.37, NumPy
2.4 and OpenCV 5.0, on the displays that `display` makes. brisque takes the grey image divided by 255
in the place of its `rgb2gray`, and its features are made numbers before they are stacked, which
NumPy 2.4 demands. Both programs only saw what they can handle: a maximum of 255 for pypiqe, which
divides by it; no flat areas for brisque, which counts a product of zero as positive.
"""

import math
from functools import cache

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from scipy.signal import convolve2d
from scipy.special import gamma

from vfn.metrics.quality import (
    BRISQUE_MODEL,
    brisque,
    brisque_features,
    piqe,
    quality,
    support_vector_score,
    to_display,
)

PYPIQE = {
    "photograph": 40.137402,
    "odd size": 38.542490,
    "blurred": 81.445257,
    "noisy": 64.642910,
    "random": 80.893949,
    "moon": 36.679168,
}
BRISQUE = {"photograph": -7.8794, "odd size": 3.1590, "noisy": 55.6546, "moon": 18.8190}


@cache
def display(name):
    camera = skimage.data.camera().astype(np.float64)
    match name:
        case "photograph":
            return camera
        case "odd size":
            return stretched(camera[50:251, 101:344])
        case "blurred":
            return stretched(gaussian_filter(camera, 2))
        case "noisy":
            noise = np.random.default_rng(0).normal(0, 15, camera.shape)
            return np.rint(np.clip(camera + noise, 0, 255))
        case "random":
            return np.random.default_rng(1).integers(0, 256, (100, 133)).astype(np.float64)
    return skimage.data.moon().astype(np.float64)


def stretched(image):
    return to_display(image, image.min(), image.max())


@pytest.mark.parametrize("name", PYPIQE)
def test_piqe_equals_pypiqe(name):
    assert piqe(display(name)) == pytest.approx(PYPIQE[name], abs=2e-6)


@pytest.mark.parametrize("name", BRISQUE)
def test_brisque_equals_the_package(name):
    assert brisque(display(name)) == pytest.approx(BRISQUE[name], abs=2e-3)


def plain_fit(x):
    """Shape, mean, left and right variance, by masks and a root."""
    left, right = np.mean(x[x < 0] ** 2), np.mean(x[x > 0] ** 2)
    skew = np.sqrt(left / right)
    ratio = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = brentq(lambda a: gamma(2 / a) ** 2 / gamma(1 / a) / gamma(3 / a) - ratio, 0.2, 10)
    spread = np.sqrt(gamma(1 / shape) / gamma(3 / shape)) * gamma(2 / shape) / gamma(1 / shape)
    return shape, (np.sqrt(right) - np.sqrt(left)) * spread, left, right


def plain_normalised(image):
    offsets = np.arange(7) - 3
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean = convolve2d(image, window, "same")
    deviation = np.sqrt(np.abs(convolve2d(image**2, window, "same") - mean**2))
    return (image - mean) / (deviation + 1)


def test_features_equal_plain_code():
    image = display("noisy")[:90, :75]
    x = plain_normalised(image)
    shape, _, left, right = plain_fit(x)
    pairs = (
        x[:, 1:] * x[:, :-1],
        x[1:] * x[:-1],
        x[1:, 1:] * x[:-1, :-1],
        x[1:, :-1] * x[:-1, 1:],
    )
    expected = [shape, (left + right) / 2, *(value for pair in pairs for value in plain_fit(pair))]
    features = brisque_features(image)
    assert features.shape == (36,)
    np.testing.assert_allclose(features[:18], expected, rtol=1e-5, atol=1e-6)


def test_score_equals_a_loop_over_support_vectors():
    model = np.load(BRISQUE_MODEL)
    features = np.linspace(model["low"], model["high"], 7)[2]
    scaled = [
        -1 + 2 * (f - a) / (b - a)
        for f, a, b in zip(features, model["low"], model["high"], strict=True)
    ]
    total = -float(model["rho"])
    for vector, weight in zip(model["support_vectors"], model["coefficients"], strict=True):
        distance = math.fsum((v - s) ** 2 for v, s in zip(vector, scaled, strict=True))
        total += weight * math.exp(-float(model["gamma"]) * distance)
    assert support_vector_score(features) == pytest.approx(total, abs=1e-7)


def test_the_model_is_the_published_one():
    model = np.load(BRISQUE_MODEL)
    assert model["support_vectors"].shape == (770, 36)
    assert (float(model["gamma"]), float(model["rho"])) == (0.05, -155.845)
    # What every solution of support vector regression fulfils: a lost line would break it.
    assert math.fsum(model["coefficients"]) == pytest.approx(0, abs=1e-9)
    assert np.abs(model["coefficients"]).max() == 1024
    assert (np.abs(model["support_vectors"]).max(axis=0) == 1).all()


def test_the_notices_go_along():
    notice = BRISQUE_MODEL.with_suffix(".NOTICE").read_text()
    for owner in ("2024 Rehan Guha", "2011 The University of Texas", "provided that the copyright"):
        assert owner in notice


@pytest.mark.parametrize("score", [piqe, brisque])
def test_more_blur_and_more_noise_raise_the_scores_of_a_photograph(score):
    photograph = display("photograph")
    noise = display("noisy") - photograph
    blurred = [score(np.rint(gaussian_filter(photograph, sigma))) for sigma in (0, 1, 2, 4)]
    noisy = [score(np.clip(np.rint(photograph + k * noise), 0, 255)) for k in (0, 0.5, 1, 2)]
    for scores in (blurred, noisy):
        assert scores == sorted(set(scores))


def test_flat_areas_count_for_neither_side():
    image = display("photograph")[100:180, 100:180].copy()
    image[10:70, 20:60] = 255  # of which the filters leave some 1e-14, all of one sign
    x = plain_normalised(image)
    x[13:67, 23:57] = np.nan  # the whole window is flat
    product = x[:, 1:] * x[:, :-1]
    expected = [np.mean(side**2) for side in (product[product < 0], product[product > 0])]
    np.testing.assert_allclose(brisque_features(image)[4:6], expected, rtol=1e-9)


def test_display_maps_the_range_linearly_clips_and_rounds():
    image = np.array([[50, 100, 101, 140], [199, 200, 201, 65535]], np.uint16)
    expected = [[0, 0, 3, 102], [252, 255, 255, 255]]
    found = to_display(image, 100, 200)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="5 to 5"):
        to_display(image, 5, 5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 999), st.integers(-5, 5), st.integers(-1000, 1000))
def test_units_of_intensity_do_not_matter(seed, exponent, offset):
    image = np.random.default_rng(seed).integers(0, 1000, (33, 40)).astype(np.float64)
    other = (image + offset) * 2.0**exponent
    low, high = 100, 900
    ends = [(end + offset) * 2.0**exponent for end in (low, high)]
    assert quality(image, low, high) == quality(other, *ends)
    assert quality(image, low, high) != quality(image, low, high + 300)


@pytest.mark.parametrize(
    ("image", "high", "words"),
    [
        (np.full((40, 40), 7, np.uint16), 255, "constant on the signal range"),
        (np.full((40, 40), np.linspace(256, 999, 40)), 255, "constant on the signal range"),
        (np.eye(15, 40), 1, "smaller than 16x16"),
        (np.eye(40), 0, "signal range is empty"),
        (np.eye(40), math.nan, "signal range is empty"),
        (np.where(np.eye(40) > 0, np.nan, 1), 1, "40 pixels are NaN or infinite"),
    ],
)
def test_no_score_has_a_reason(image, high, words):
    found = quality(image, 0, high)
    assert math.isnan(found.piqe)
    assert math.isnan(found.brisque)
    assert words in found.note
    assert "piqe and brisque undefined" in found.note


@pytest.mark.parametrize("score", [piqe, brisque])
def test_displays_without_a_score(score):
    for image in (np.full((40, 40), 3), np.eye(15, 40), np.full((40, 40), np.nan)):
        assert math.isnan(score(image))
    with pytest.raises(ValueError, match="H, W"):
        score(np.zeros((1, 40, 40)))


def test_an_image_without_structure_is_at_the_worst_of_piqe_and_says_so():
    ramp = np.add.outer(np.arange(64.0), np.arange(64.0))
    found = quality(ramp, 0, 255)
    assert found.piqe == 100
    assert "no block of 16x16 pixels has structure" in found.note
    assert quality(display("photograph"), 0, 255).note == ""


def test_a_chessboard_has_no_brisque():
    board = np.indices((64, 64)).sum(axis=0) % 2
    found = quality(board, 0, 1)
    assert math.isnan(found.brisque)
    assert "one sign: brisque undefined" in found.note
    assert math.isfinite(found.piqe)


@pytest.mark.parametrize("shape", [(16, 16), (17, 31), (16, 300)])
def test_small_and_odd_sizes_have_scores(shape):
    image = np.random.default_rng(3).integers(0, 256, shape)
    found = quality(image, 0, 255)
    assert 0 < found.piqe <= 100
    assert math.isfinite(found.brisque)
