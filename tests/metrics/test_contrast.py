"""Contrast and camera noise of one image: against closed forms, and noise of known size."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from vfn.data.simulated import simulate_field
from vfn.metrics.contrast import SIGMA, contrast, noise_deviation, pearson_ceiling, smooth

SHAPE = (512, 640)


def specimen(seed=0, shape=SHAPE):
    """A simulated stain of range 1 without noise: smoothed as optics do."""
    image = gaussian_filter(simulate_field(seed, shape, ("er",))[0].astype(np.float64), 1.0)
    low, high = np.percentile(image, (0.1, 99.9))
    return (image - low) / (high - low)


def noise(sd, seed=1, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, sd, shape)


@pytest.mark.parametrize("sd", [0.03, 0.05, 0.1])
def test_noise_of_known_size_is_measured(sd):
    assert noise_deviation(specimen() + noise(sd)) == pytest.approx(sd, rel=0.03)


def test_noise_that_grows_with_the_signal_counts_by_its_mean_variance():
    truth = specimen().clip(0)
    sd = 0.05 * np.sqrt(truth / truth.mean())
    noisy = truth + noise(1.0) * sd
    assert noise_deviation(noisy) == pytest.approx(0.05, rel=0.05)


def test_fine_texture_is_no_noise():
    # At a third of the resolution the finest structure is about a pixel wide.
    small = zoom(specimen(shape=(960, 960)), 1 / 3, order=1)
    assert noise_deviation(small) < 0.02
    assert noise_deviation(small + noise(0.05, shape=small.shape)) == pytest.approx(0.05, rel=0.1)


def test_a_plane_has_no_noise_and_a_tiny_image_no_answer():
    rows, columns = np.mgrid[:40, :50]
    assert noise_deviation((3 * rows - 2 * columns + 7).astype(np.float32)) < 1e-4
    assert math.isnan(noise_deviation(np.zeros((4, 50))))
    assert noise_deviation(np.zeros((5, 5), np.uint8)) == 0


def test_the_ceiling_is_the_correlation_of_the_noise_free_truth():
    clean = specimen()
    for sd in (0.05, 0.2):
        noisy = clean + noise(sd)
        reached = np.corrcoef(clean.ravel(), noisy.ravel())[0, 1]
        assert pearson_ceiling(noisy, noise_deviation(noisy)) == pytest.approx(reached, abs=0.003)
    assert pearson_ceiling(clean, 0.0) == 1
    assert pearson_ceiling(noise(1.0), 1.1) == 0
    assert math.isnan(pearson_ceiling(np.ones((9, 9)), 0.1))


def test_contrast_of_an_empty_field_follows_its_noise():
    # White noise after a Gaussian of s px has 1 / (2 sqrt(pi) s) of its deviation.
    left = 0.1 / (2 * math.sqrt(math.pi) * SIGMA)
    empty = contrast(smooth(100 + noise(0.1, shape=(1080, 1080))))
    assert empty == pytest.approx(2 * 3.0902 * left, rel=0.1)


def test_a_field_of_few_objects_has_contrast():
    image = np.zeros((520, 696), np.uint16)
    rows, columns = np.ogrid[:520, :696]
    for row, column in ((100, 100), (300, 500), (400, 200)):
        image[np.hypot(rows - row, columns - column) < 10] = 1000
    assert contrast(smooth(image)) > 0.8 * 1000
