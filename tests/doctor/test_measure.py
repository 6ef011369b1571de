"""Numbers of one plane against what the plane was made of."""

import itertools
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.data.images import DTYPES
from vfn.data.simulated import Specimen
from vfn.doctor.grey_values import empty
from vfn.doctor.measure import QUANTILES, measure
from vfn.doctor.optics import corner_ratio

CELLS = Specimen(0, (160, 200)).render("dapi", 0.0, "uint16")


def noisy(sigma: float, shape: tuple[int, int] = (200, 240), level: float = 1000.0) -> np.ndarray:
    return np.random.default_rng(0).normal(level, sigma, shape).round().astype(np.uint16)


@pytest.mark.parametrize("sigma", [5.0, 40.0])
def test_noise_is_measured_on_noise_and_on_a_slope(sigma: float) -> None:
    image = noisy(sigma)
    slope = image + np.linspace(0, 3000, image.shape[1]).astype(np.uint16)
    for picture in (image, slope):
        assert measure(picture).noise == pytest.approx(sigma, rel=0.1)


def test_noise_is_taken_out_of_the_fine_detail() -> None:
    clean, rng = CELLS.astype(np.float32), np.random.default_rng(1)
    with_noise = clean + rng.normal(0, 300, clean.shape).astype(np.float32)
    assert measure(with_noise).focus == pytest.approx(measure(clean).focus, abs=0.5)


@given(gain=st.floats(0.2, 5), offset=st.floats(0, 500))
@settings(max_examples=15, deadline=None)
def test_focus_is_blind_to_gain_and_offset(gain: float, offset: float) -> None:
    clean = CELLS.astype(np.float32)
    assert measure(clean * gain + offset).focus == pytest.approx(measure(clean).focus, abs=0.02)


def test_focus_falls_with_blur() -> None:
    scores = [measure(cv2.GaussianBlur(CELLS, (0, 0), s)).focus for s in (0.5, 1, 2, 4)]
    assert all(a > b + 0.1 for a, b in itertools.pairwise(scores))


@pytest.mark.parametrize(("factor", "depth"), [(1, 8), (16, 8), (257, 8)])
def test_step_and_depth_of_stretched_data(factor: int, depth: int) -> None:
    image = np.arange(256, dtype=np.uint16).repeat(40).reshape(80, 128) * np.uint16(factor)
    stats = measure(image)
    assert (stats.step, stats.depth) == (factor, depth)


@pytest.mark.parametrize("top", [4095, 65535, 3000])
def test_pixels_that_pile_up_at_the_top_are_counted(top: int) -> None:
    image = np.random.default_rng(0).normal(0.9 * top, 0.06 * top, (200, 240)).clip(0, top)
    clipped = image.astype(np.uint16)
    share = float((clipped == top).mean())
    assert share > 0.01
    assert measure(clipped).top == pytest.approx(share)


def test_a_tail_that_thins_out_is_not_clipped() -> None:
    assert measure(noisy(100)).top == 0
    assert measure(CELLS).top == 0


@pytest.mark.parametrize(("level", "sigma"), [(0, 0), (0, 3), (0, 30), (1000, 3), (1000, 30)])
def test_no_field_without_cells_is_called_full(level: float, sigma: float) -> None:
    light = 1 - 0.3 * np.square(np.linspace(-1, 1, 300))[:, None] * np.ones(320)
    image = np.random.default_rng(2).normal(level * light, sigma).clip(0, 65535)
    assert empty(measure(image.astype(np.uint16)))


def test_a_single_faint_nucleus_is_not_empty() -> None:
    image = noisy(20, (520, 696)).astype(np.float64)
    cv2.circle(image, (300, 200), 12, 1080.0, -1)  # four times the noise
    image[188:213, 288:313] += np.random.default_rng(3).normal(0, 20, (25, 25))
    assert not empty(measure(image.astype(np.uint16)))


def test_dark_corners_show_on_an_even_background() -> None:
    y, x = np.meshgrid(np.linspace(-1, 1, 240), np.linspace(-1, 1, 320), indexing="ij")
    light = np.where(np.hypot(y, x) > 1.2, 0.4, 1.0)
    image = (noisy(10, (240, 320), 5000) * light).astype(np.uint16)
    assert corner_ratio(measure(image)) == pytest.approx(0.4, abs=0.15)
    assert corner_ratio(measure(noisy(10, (240, 320), 5000))) == pytest.approx(1, abs=0.02)
    assert math.isnan(corner_ratio(measure(CELLS))) or corner_ratio(measure(CELLS)) > 0.8


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantiles_are_those_of_numpy(dtype: str) -> None:
    below = 100 if dtype.startswith("int") else 0
    image = (np.random.default_rng(4).random((64, 64)) * 250 - below).astype(dtype)
    stats = measure(image)
    assert (stats.low, stats.high) == (image.min(), image.max())
    assert stats.depth == (0 if dtype == "float32" else 8)
    found = stats.quantiles
    expected = np.quantile(image, QUANTILES, method="inverted_cdf")
    assert found == pytest.approx(tuple(expected), abs=0.2 if dtype == "float32" else 0)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(DTYPES))
@settings(max_examples=25, deadline=None)
def test_any_size_gives_numbers(height: int, width: int, dtype: str) -> None:
    stats = measure((np.random.default_rng(5).random((height, width)) * 200).astype(dtype), True)
    assert stats.shape == (height, width)
    assert stats.thumbnail.shape == (height, width)
    assert stats.outline is not None
    assert np.isfinite(stats.grid).all()


def test_the_digest_tells_pixels_shapes_and_types_apart() -> None:
    image = np.zeros((4, 6), np.uint16)
    others = [image.reshape(6, 4), image.astype(np.uint8), image + np.uint16(1)]
    assert measure(image).digest == measure(image.copy()).digest
    assert len({measure(i).digest for i in (image, *others)}) == 4
    # A sample with strides has the same pixels as its copy.
    wide = np.arange(48, dtype=np.uint16).reshape(4, 12)
    assert measure(wide[:, ::2]).digest == measure(wide[:, ::2].copy()).digest
