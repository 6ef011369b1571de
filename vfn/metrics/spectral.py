"""Details of a stain that a prediction gets right: Fourier ring correlation and power ratio.

Both compare the two images ring by ring of spatial frequency, in cycles a pixel from 0 to the
Nyquist frequency 0.5, in a fixed number of rings, so that curves of any fields can be averaged. The mean
is taken off and a Hann window laid over either image, since its edges would else draw a cross
through the spectrum that both share.

*Fourier ring correlation* (Saxton and Baumeister 1982, J. Microsc. 127; for fluorescence Banterle et al.
2013, J. Struct. Biol. 183, and Nieuwenhuizen et al. 2013, Nat. Methods 10): how well the
structures of one size agree, 1 for the same, 0 for unrelated ones. The frequency at which it falls below
1/7, the usual threshold for two measurements of one specimen, is the finest detail that prediction
and truth share. Unrelated images correlate by chance in rings of few frequencies; there the
threshold is three standard deviations of that (Saxton and Baumeister), if this is more. FRC is blind to
gain, offset and blur, and the noise of the truth lowers it: the resolution is one of the prediction
against this truth, not of the optics.

*Power ratio*: how much detail the prediction shows, whether right or not; below 1 it smooths, above 1
it invents texture or noise. A network that learns by MAE does not predict the camera's noise, so the
white floor of the truth, read off its highest frequencies, is taken off, and only frequencies are
compared where the truth stands clearly above it. White noise in the prediction is forgiven up to the same
floor, or to 1.5 % of the truth's range where that is more; a copy of the truth gets 1. It cannot tell texture that is right from
texture that is not, which FRC can, nor a wrong gain from wrong detail (a gain of g multiplies it by
g^2), and says nothing about detail that drowns in the truth's noise. Where the truth's own structure
reaches the Nyquist frequency, the floor is overestimated and the band of comparison too narrow.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from vfn.metrics.contrast import PERCENTILES

Float = NDArray[np.float64]

RINGS = 50  # 0.01 cycles a pixel each
FREQUENCY: Float = (np.arange(RINGS) + 0.5) / (2 * RINGS)  # centres of the rings
MIN_SIDE = 64  # px; below it, rings hold too few frequencies
FRC_THRESHOLD = 1 / 7
CHANCE = 3.0  # standard deviations of unrelated images
# A Hann window leaves so many independent frequencies of one: (sum w^2)^2 / (n sum w^4) along an axis.
INDEPENDENT = (18 / 35) ** 2
FLOOR_FROM = 0.45  # cycles a pixel; from here to the corners of the spectrum lies the noise floor
CLEAR = 10.0  # the truth's power over its floor from which on it counts as signal
MIN_BAND = 4  # rings
FORGIVEN = 0.015  # standard deviation of noise that is no texture, of the truth's range


@dataclass(frozen=True)
class Spectra:
    """Prediction and truth compared ring by ring.

    Attributes:
        frequency: centres of the rings, cycles a pixel, (50,).
        frc: Fourier ring correlation, -1 to 1; NaN in rings without a frequency, (50,).
        threshold: what the correlation must reach, (50,).
        power_ratio_curve: power of prediction over truth, noise taken off; NaN outside the band, (50,).
        resolution: period at which the correlation falls below the threshold, px; 2 (Nyquist) is
            best; NaN where undefined.
        power_ratio: mean of the curve over the finer half of the band, 1 is right; NaN where undefined.
        band: cycles a pixel at which the finer half of the band begins and ends; None without one.
        notes: why a figure is NaN.
    """

    frequency: Float
    frc: Float
    threshold: Float
    power_ratio_curve: Float
    resolution: float
    power_ratio: float
    band: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


class _Rings(NamedTuple):
    """Return the ring of each frequency of a half spectrum (H, W // 2 + 1)."""

    ring: NDArray[np.intp]  # flat; RINGS for those beyond Nyquist
    weight: NDArray[np.float32]  # (W // 2 + 1,): how often a column stands in the whole spectrum
    number: Float  # (RINGS,) frequencies of the whole spectrum
    outer: NDArray[np.intp]  # flat places of the highest frequencies
    window: NDArray[np.float32]  # (H, W)


def spectra(prediction: NDArray[np.generic], truth: NDArray[np.generic]) -> Spectra:
    """Fourier ring correlation and power ratio of one prediction (H, W) against its truth (H, W).

    Computed in float32; finite values, any dtype. Sides may differ; thread-safe.

    Raises:
        ValueError: images of different shape.
    """
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"one shape (H, W) is needed: {prediction.shape} and {truth.shape}")
    if min(truth.shape) < MIN_SIDE:
        return _undefined(f"smaller than {MIN_SIDE}x{MIN_SIDE}")
    for what, image in (("ground truth", truth), ("prediction", prediction)):
        if image.min() == image.max():
            return _undefined(f"{what} is constant")
    rings = _rings(*truth.shape)
    p, t = _transform(prediction, rings.window), _transform(truth, rings.window)
    power_p, power_t = _power(p, p), _power(t, t)
    sum_p, sum_t, cross = (_ring_sums(x, rings) for x in (power_p, power_t, _power(p, t)))
    with np.errstate(invalid="ignore", divide="ignore"):  # rings without a frequency
        frc = cross / (np.sqrt(sum_p) * np.sqrt(sum_t))
        chance = CHANCE / np.sqrt(INDEPENDENT * rings.number)
    threshold = np.maximum(FRC_THRESHOLD, chance)
    resolution = _resolution(frc, threshold)
    floor_p, floor_t = (_floor(power, rings) for power in (power_p, power_t))
    width = float(np.ptp(np.percentile(truth.astype(np.float32), PERCENTILES)))
    faint = (FORGIVEN * width) ** 2 * float(np.square(rings.window).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_p, mean_t = sum_p / rings.number, sum_t / rings.number
        curve = np.maximum(mean_p - min(floor_p, max(floor_t, faint)), 0) / (mean_t - floor_t)
    curve, detail = _in_band(curve, mean_t > CLEAR * floor_t, rings.number > 0)
    notes = []
    if math.isnan(resolution):
        notes.append(
            "prediction and ground truth correlate at no frequency: frc_resolution undefined"
        )
    if detail is None:
        notes.append("ground truth has no detail above its noise: power_ratio undefined")
        ratio, band = math.nan, None
    else:
        ratio = float(np.nanmean(curve[detail]))
        band = detail.start / (2 * RINGS), detail.stop / (2 * RINGS)
    return Spectra(FREQUENCY, frc, threshold, curve, resolution, ratio, band, tuple(notes))


def _undefined(why: str) -> Spectra:
    nothing = np.full(RINGS, np.nan)
    note = f"{why}: frc_resolution, power_ratio undefined"
    return Spectra(FREQUENCY, nothing, nothing, nothing, math.nan, math.nan, None, (note,))


@lru_cache(maxsize=4)
def _rings(height: int, width: int) -> _Rings:
    columns = np.fft.rfftfreq(width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], columns)
    index = np.minimum((radius * 2 * RINGS).astype(np.intp), RINGS).ravel()
    index[0] = RINGS  # the mean is no structure
    weight = np.where((columns == 0) | (columns == 0.5), 1, 2).astype(np.float32)
    count = np.bincount(index, np.tile(weight, height), minlength=RINGS + 1)[:RINGS]
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    return _Rings(
        index, weight, count.astype(np.float64), np.flatnonzero(radius >= FLOOR_FROM), window
    )


def _transform(image: NDArray[np.generic], window: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Half spectrum (H, W // 2 + 1) of the windowed image, free of its mean."""
    x = image.astype(np.float32)
    x -= np.vdot(x, window) / window.sum()
    x *= window
    return np.asarray(fft.rfft2(x, workers=1))


def _power(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Real part of a times the conjugate of b."""
    power = a.real * b.real
    power += a.imag * b.imag
    return power


def _ring_sums(power: NDArray[np.float32], rings: _Rings) -> Float:
    sums = np.bincount(rings.ring, (power * rings.weight).ravel(), minlength=RINGS + 1)
    return sums[:RINGS].astype(np.float64)


def _floor(power: NDArray[np.float32], rings: _Rings) -> float:
    """Mean power of the white noise: its median, which lines in the spectrum do not move, over ln 2."""
    return float(np.median(power.ravel()[rings.outer])) / math.log(2)


def _resolution(frc: Float, threshold: Float) -> float:
    """Period (px) at the first fall below the threshold, between the centres of two rings."""
    rings = np.flatnonzero(threshold < 1)  # in the others not even the same image could pass
    above = frc[rings] >= threshold[rings]
    if not above[0]:
        return math.nan
    if above.all():
        return 2.0
    last, first = rings[np.argmin(above) - 1], rings[np.argmin(above)]
    before, after = (frc[i] - threshold[i] for i in (last, first))
    part = before / (before - after)
    return float(1 / (FREQUENCY[last] + part * (FREQUENCY[first] - FREQUENCY[last])))


def _in_band(
    curve: Float, clear: NDArray[np.bool_], filled: NDArray[np.bool_]
) -> tuple[Float, slice | None]:
    """The curve where the truth stands above its noise from the lowest frequency on, NaN elsewhere, and
    the finer half of that band."""
    end = int(np.argmin(np.append(clear | ~filled, False)))
    while end and not filled[end - 1]:
        end -= 1
    curve = np.where((np.arange(RINGS) < end) & filled, curve, np.nan)
    return curve, slice(end // 2, end) if end >= MIN_BAND else None
