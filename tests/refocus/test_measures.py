"""Measures of focus against independent references, and what they must not depend on."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from vfn.refocus.measures import (
    EDGES,
    TILE,
    mean_spectrum,
    normalised_variance,
    power_log_log_slope,
    tile_corners,
    tile_spectra,
    variance_of_laplacian,
)


def texture(seed: int = 0, shape: tuple[int, int] = (300, 340)) -> np.ndarray:
    """Blobs of many sizes, grey values about 1000 to 5000."""
    rng = np.random.default_rng(seed)
    image = sum(
        s * ndimage.gaussian_filter(rng.standard_normal(shape), s) for s in (1, 2, 4, 8, 16)
    )
    return 3000 + 1000 * np.asarray(image)


def test_laplacian_is_scipys() -> None:
    image = texture()
    inner = (slice(1, -1), slice(1, -1))
    laplacian = ndimage.laplace(image, mode="mirror")
    assert variance_of_laplacian(image) == pytest.approx(laplacian.var() / image.var(), rel=1e-9)
    assert laplacian[inner].size


def test_normalised_variance_is_numpys() -> None:
    image = texture().astype(np.uint16)
    assert normalised_variance(image) == pytest.approx(np.var(image) / np.mean(image))
    assert math.isnan(normalised_variance(np.zeros((4, 4))))
    assert variance_of_laplacian(np.ones((9, 9))) == 0


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_the_slope_is_that_of_the_spectrum(exponent: float) -> None:
    """Noise of amplitude 1/f^a has a power of 1/f^2a; a ring sums up f of it."""
    rng = np.random.default_rng(1)
    f = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512))
    f[0, 0] = 1
    image = np.fft.ifft2(np.fft.fft2(rng.standard_normal((512, 512))) / f**exponent).real
    assert power_log_log_slope(image) == pytest.approx(1 - 2 * exponent, abs=0.1)
    assert math.isnan(power_log_log_slope(np.ones((64, 64))))


def test_the_bands_are_those_of_a_periodogram() -> None:
    """One tile: the mean of SciPy's two-dimensional spectrum over each ring."""
    image = texture(2, (TILE, TILE))
    window = np.outer(signal.windows.hann(TILE), signal.windows.hann(TILE))
    x = (image - (image * window).sum() / window.sum()) * window
    power = np.abs(np.fft.fft2(x)) ** 2
    radius = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE))
    spectrum = tile_spectra(image)
    for i, (low, high) in enumerate(itertools.pairwise(EDGES)):
        ring = power[(radius >= low) & (radius < high)].mean()
        assert spectrum.bands[0, 0, i] == pytest.approx(ring - spectrum.floor[0, 0], rel=1e-3)


def test_blur_lowers_every_band_the_finer_the_more() -> None:
    sharp = mean_spectrum(tile_spectra(texture())).features
    blurred = mean_spectrum(tile_spectra(ndimage.gaussian_filter(texture(), 2))).features
    loss = sharp - blurred
    assert (loss > 0).all()
    assert (np.diff(loss[:4]) > 0).all()


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.1, 10), offset=st.floats(-500, 500), flip=st.booleans())
def test_gain_offset_and_flips_change_nothing(gain: float, offset: float, flip: bool) -> None:
    image = texture(3, (150, 170))
    other = gain * (image[::-1] if flip else image) + offset
    a, b = (mean_spectrum(tile_spectra(x)).features for x in (image, other))
    assert a == pytest.approx(b, abs=2e-3)


def test_white_noise_is_taken_off() -> None:
    """Noise as strong as the fine detail moves the bands by far less than it moves the Laplacian."""
    image = ndimage.gaussian_filter(texture(), 3)
    noisy = image + np.random.default_rng(0).normal(0, 0.1 * image.std(), image.shape)
    a, b = (mean_spectrum(tile_spectra(x)).features[:2] for x in (image, noisy))
    assert a == pytest.approx(b, abs=0.05)
    assert variance_of_laplacian(noisy) > 10 * variance_of_laplacian(image)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(64, 500), width=st.integers(64, 500), tile=st.integers(64, 200))
def test_tiles_cover_the_image(height: int, width: int, tile: int) -> None:
    rows, columns, side = tile_corners((height, width), tile)
    for starts, length in ((rows, height), (columns, width)):
        assert starts[0] == 0
        assert starts[-1] + side == length
        assert all(b - a <= side for a, b in itertools.pairwise(starts))


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="64 pixels"):
        tile_spectra(np.zeros((63, 200)))


def test_an_empty_field_shows_nothing() -> None:
    noise = np.random.default_rng(0).normal(200, 5, (200, 200))
    assert not mean_spectrum(tile_spectra(noise)).shows
    assert not mean_spectrum(tile_spectra(np.full((200, 200), 7.0))).shows
    assert mean_spectrum(tile_spectra(texture())).shows
