"""Fourier ring correlation and power ratio: against a plain loop, and where the answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from vfn.metrics.spectral import FRC_THRESHOLD, FREQUENCY, MIN_SIDE, RINGS, spectra

SHAPE = (256, 301)


def specimen(seed=0, shape=SHAPE, noise=0.0, grain=1.2):
    """Structure of unit spread that fades out towards high frequencies, and white noise."""
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.normal(size=shape), grain)
    return image / image.std() + noise * np.random.default_rng(seed + 1).normal(size=shape)


def rings_by_loop(prediction, truth):
    """FRC of the whole spectrum, a frequency at a time."""
    height, width = truth.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    p, t = (
        np.fft.fft2((image - (image * window).sum() / window.sum()) * window)
        for image in (prediction, truth)
    )
    cross, power_p, power_t = (np.zeros(RINGS) for _ in range(3))
    for row in range(height):
        for column in range(width):
            u = row / height if 2 * row < height else row / height - 1
            v = column / width if 2 * column < width else column / width - 1
            ring = int(math.hypot(u, v) * 2 * RINGS)
            if ring >= RINGS or row == column == 0:
                continue
            cross[ring] += (p[row, column] * t[row, column].conjugate()).real
            power_p[ring] += abs(p[row, column]) ** 2
            power_t[ring] += abs(t[row, column]) ** 2
    norm = np.sqrt(power_p * power_t)
    return np.divide(cross, norm, out=np.full(RINGS, np.nan), where=norm > 0)


@pytest.mark.parametrize("shape", [(83, 97), (97, 83), (64, 64)])
def test_curve_equals_a_plain_loop(shape):
    truth = specimen(0, shape)
    prediction = truth + specimen(5, shape, noise=1.0)
    expected = rings_by_loop(prediction, truth)
    found = spectra(prediction, truth)
    assert np.isnan(found.frc).tolist() == np.isnan(expected).tolist()
    np.testing.assert_allclose(found.frc, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_same_image_is_resolved_to_nyquist(dtype):
    truth = (specimen(noise=0.1) * 20 + 120).clip(0, 255).astype(dtype)
    found = spectra(truth, truth)
    assert found.resolution == 2.0
    assert found.power_ratio == pytest.approx(1.0)
    np.testing.assert_allclose(found.frc, 1.0, rtol=1e-6)
    assert found.notes == ()


@pytest.mark.parametrize("blur", [0.0, 1.0, 1.5])
def test_resolution_is_where_theory_puts_it(blur):
    # Two measurements of one specimen whose spectrum is known, white noise of unit spread in each, the
    # second one blurred before its noise came.
    rng = np.random.default_rng(3)
    shape, grain, signal = (900, 700), 1.0, 8.0
    structure = gaussian_filter(rng.normal(size=shape), grain, mode="wrap") * signal
    truth = structure + rng.normal(size=shape)
    prediction = gaussian_filter(structure, blur, mode="wrap") + rng.normal(size=shape)
    f = np.linspace(0.005, 0.495, 9801)
    power = signal**2 * np.exp(-4 * np.pi**2 * f**2 * grain**2)
    lost = np.exp(-2 * np.pi**2 * f**2 * blur**2)
    frc = power * lost / np.sqrt((power + 1) * (power * lost**2 + 1))
    expected = 1 / f[np.argmax(frc < FRC_THRESHOLD)]
    assert spectra(prediction, truth).resolution == pytest.approx(expected, rel=0.04)


def test_unrelated_images_have_no_resolution():
    found = [spectra(specimen(seed), specimen(seed + 100)) for seed in range(0, 40, 2)]
    undefined = [s for s in found if math.isnan(s.resolution)]
    assert len(undefined) >= 18  # three standard deviations, either side
    assert "correlate at no frequency" in undefined[0].notes[0]


def test_chance_is_as_large_as_it_is_said_to_be():
    # The threshold in the lower rings is three standard deviations of unrelated images.
    shape = (200, 240)
    rng = np.random.default_rng(0)
    found = [spectra(*rng.normal(size=(2, *shape))) for _ in range(60)]
    spread = np.std([s.frc for s in found], axis=0)[3:12]
    chance = found[0].threshold[3:12] / 3
    assert (found[0].threshold[3:12] > FRC_THRESHOLD).all()
    # a little less, since a thin ring does not hold all neighbours that the window ties together
    assert 0.75 < np.mean(spread / chance) < 1.05


def test_smoothing_lowers_the_power_ratio_and_texture_raises_it():
    truth = specimen(noise=0.05)
    smooth = [spectra(gaussian_filter(truth, s), truth).power_ratio for s in (0.5, 1, 2, 4)]
    assert smooth == sorted(smooth, reverse=True)
    assert smooth[0] < 1
    texture = specimen(9, grain=0.8)
    rough = [spectra(truth + s * texture, truth).power_ratio for s in (0.05, 0.1, 0.2, 0.4)]
    assert rough == sorted(rough)
    assert rough[0] > 1


def test_noise_of_the_camera_is_not_asked_for():
    structure = specimen()
    noisy = structure + 0.3 * np.random.default_rng(1).normal(size=SHAPE)
    found = spectra(structure, noisy)
    assert found.power_ratio == pytest.approx(1.0, abs=0.1)
    assert found.band is not None
    assert found.band[1] < 0.35  # where the noise drowns the structure
    outside = found.frequency > found.band[1]
    assert np.isnan(found.power_ratio_curve[outside]).all()
    assert np.isfinite(found.power_ratio_curve[~outside]).all()
    # and more noise than the truth has is invented
    assert (
        spectra(structure + np.random.default_rng(2).normal(size=SHAPE), noisy).power_ratio > 1.25
    )


@settings(max_examples=15, deadline=None)
@given(st.floats(0.25, 4.0), st.floats(-500, 500), st.integers(0, 1000))
def test_frc_forgives_gain_and_offset_power_shows_the_gain(gain, offset, seed):
    truth = specimen(seed, (96, 110), noise=0.05)
    prediction = gaussian_filter(truth, 0.7)
    plain, changed = spectra(prediction, truth), spectra(gain * prediction + offset, truth)
    np.testing.assert_allclose(changed.frc, plain.frc, atol=2e-3)
    ratio = gain**2 * plain.power_ratio  # undefined where noise hides all detail
    assert changed.power_ratio == pytest.approx(ratio, rel=0.02, nan_ok=True)


def test_the_undefined_has_its_reason():
    truth = specimen()
    for pair, why in (
        ((np.zeros(SHAPE), truth), "prediction is constant"),
        ((truth, np.zeros(SHAPE)), "ground truth is constant"),
        ((truth[: MIN_SIDE - 1], truth[: MIN_SIDE - 1]), "smaller than 64x64"),
    ):
        found = spectra(*pair)
        assert math.isnan(found.resolution)
        assert math.isnan(found.power_ratio)
        assert found.frc.shape == FREQUENCY.shape
        assert why in found.notes[0]
    noise = np.random.default_rng(0).normal(size=SHAPE)
    alone = spectra(noise, noise)
    assert math.isnan(alone.power_ratio)
    assert "no detail above its noise" in alone.notes[0]
    assert alone.resolution == 2.0


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        spectra(np.zeros((70, 70)), np.zeros((70, 71)))
