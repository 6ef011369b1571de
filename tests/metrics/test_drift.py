"""Displacement and shading from place to place, made on purpose."""

import math

import numpy as np
import pytest
from scipy.ndimage import rotate

from vfn.data.simulated import simulate_field
from vfn.metrics.contrast import smooth
from vfn.metrics.drift import local_shift, shading
from vfn.metrics.objects import segment_nuclei


def specimen(shape, seed=3):
    stain = simulate_field(seed, shape, ("dna",))[0].astype(np.float64)
    return (stain * (4000 / stain.max())).astype(np.float32)


@pytest.mark.parametrize("shape", [(160, 160), (300, 320), (420, 460), (940, 930)])
def test_a_shifted_copy_is_displaced_everywhere(shape):
    truth = specimen(shape)
    moved = np.roll(truth, (3, -4), (0, 1))
    assert local_shift(moved, truth) == pytest.approx(5, abs=0.3)
    assert local_shift(truth, truth) == pytest.approx(0, abs=0.02)


def test_a_rotation_shows_though_its_mean_shift_is_none():
    truth = specimen((520, 696))
    turned = rotate(truth, 0.5, reshape=False, order=1, mode="nearest")
    # Centres of the outer tiles lie 173 to 290 px off the middle: 0.0087 px per px.
    assert 1.5 < local_shift(turned, truth) < 2.7


def test_noise_and_blur_move_nothing():
    truth = specimen((520, 696))
    noisy = truth + np.random.default_rng(0).normal(0, 0.05 * 4000, truth.shape)
    assert local_shift(noisy.astype(np.float32), truth) < 0.3


def test_an_empty_prediction_has_no_displacement():
    truth = specimen((300, 320))
    assert math.isnan(local_shift(np.zeros_like(truth), truth))


ROWS, COLUMNS = np.mgrid[0:1:520j, 0:1:696j]
ACROSS = 1 - 0.4 * COLUMNS
RADIAL = 1 - 0.2 * ((2 * ROWS - 1) ** 2 + (2 * COLUMNS - 1) ** 2)


def shading_of(prediction, truth):
    return shading(smooth(prediction), smooth(truth))


@pytest.mark.parametrize("shade", [ACROSS, ACROSS[:, ::-1], RADIAL, 1 / ACROSS - 0.3])
@pytest.mark.parametrize("seed", [3, 4])
def test_uneven_gain_is_measured(shade, seed):
    truth = specimen((520, 696), seed)
    assert shading_of(300 + truth * shade, 500 + truth) == pytest.approx(np.ptp(shade), abs=0.1)


def test_gain_offset_noise_and_blur_are_no_shading():
    truth = specimen((520, 696))
    rng = np.random.default_rng(0)
    noisy = truth + rng.normal(0, 0.05 * 4000, truth.shape)
    for harmless in (truth, 0.5 * truth + 300, smooth(truth), noisy, np.zeros_like(truth)):
        assert shading_of(harmless, truth) < 0.05
    assert shading_of(truth, noisy) < 0.05


def test_cells_that_differ_by_chance_are_no_shading():
    truth = specimen((520, 696))
    rng = np.random.default_rng(0)
    patchy = truth * np.kron(rng.choice([0.6, 1.0], (13, 18)), np.ones((40, 40)))[:520, :696]
    assert shading_of(patchy, truth) < 0.5 * shading_of(truth * ACROSS, truth)


def test_nuclei_that_are_missing_or_doubled_are_no_shading():
    truth = specimen((520, 696))
    labels = segment_nuclei(truth)
    for change in (0.0, 0.5, 2.0):
        prediction = truth.copy()
        prediction[np.isin(labels, (1, 2))] *= change
        assert shading_of(prediction, truth) < 0.1


def test_too_few_cells_or_pixels_have_no_shading():
    truth = specimen((520, 696))
    truth[:, 60:] = 0
    truth[120:] = 0
    assert math.isnan(shading_of(truth, truth))
    assert math.isnan(shading_of(truth[:90, :90], truth[:90, :90]))
