"""Displacement from place to place: shifts and rotations made on purpose."""

import math

import numpy as np
import pytest
from scipy.ndimage import rotate

from vfn.data.simulated import simulate_field
from vfn.metrics.drift import local_shift


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
