"""What the model of the control lets expect of a stain, pixel by pixel, and where cells depart from it.

A network errs more where a stain is bright, and in its own way for each grey value. So a pixel's
residual, truth minus prediction, is taken relative to what residuals of control fields are where the
prediction has the same grey value: minus their median, over their spread (1.4826 times the median absolute
deviation). That map is smoothed at the scale of a part of a cell, since biology departs by regions
and noise by pixels, and divided by the spread that control fields have after the same smoothing: its
units are standard deviations of the control.

A cell's departure is the root mean square of the map over the cell. More or less stain, or stain in
another place, all count.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

BINS = 24  # of predicted grey value, as many pixels in each
SMOOTH_UM = 2.0  # standard deviation of the smoothing
SMOOTH_PX = 3.0  # where pixels have no known size
SAMPLES = 20_000  # pixels taken of each field
FALSE_ALARMS = 0.05  # share of control cells that are let depart
MAD = 1.4826  # makes the median absolute deviation a standard deviation of normal numbers
LEAST = 1e-6  # of the signal range: a smaller spread is taken for this


@dataclass(frozen=True)
class Expectation:
    """Of one channel, from control fields.

    Attributes:
        edges: (BINS - 1,) grey values between the bins of the prediction.
        median, spread: (BINS,) of the residuals in each, grey values.
        scale: standard deviation of the smoothed map in the control.
        threshold: departure that 5 % of the control cells exceed; NaN without cells.
    """

    edges: Float
    median: Float
    spread: Float
    scale: float = 1.0
    threshold: float = float("nan")

    @classmethod
    def fit(cls, pairs: Iterable[tuple[Float, Float]], width: float) -> "Expectation":
        """Residuals by predicted grey value.

        Args:
            pairs: prediction and truth (H, W) of each control field.
            width: of the signal range.
        """
        predictions, residuals = [], []
        for prediction, truth in pairs:
            step = max(1, prediction.size // SAMPLES)
            p = prediction.ravel()[::step].astype(np.float32)
            predictions.append(p)
            residuals.append(truth.ravel()[::step].astype(np.float32) - p)
        p, r = np.concatenate(predictions), np.concatenate(residuals)
        edges = np.quantile(p, np.linspace(0, 1, BINS + 1)[1:-1])
        place = np.searchsorted(edges, p, side="right")
        median, spread = np.zeros(BINS, np.float32), np.full(BINS, np.nan, np.float32)
        for b in range(BINS):
            own = r[place == b]
            if len(own):
                median[b] = np.median(own)
                spread[b] = MAD * np.median(np.abs(own - median[b]))
        known = np.flatnonzero(np.isfinite(spread))  # bins of equal edges are empty
        every = np.arange(BINS)
        return cls(
            edges.astype(np.float32),
            np.interp(every, known, median[known]).astype(np.float32),
            np.maximum(np.interp(every, known, spread[known]), LEAST * width).astype(np.float32),
        )

    def map(self, prediction: Float, truth: Float, pixel_size: float | None) -> Float:
        """Departure of every pixel (H, W), in standard deviations of the control; above 0 there is more stain
        than expected."""
        p = prediction.astype(np.float32)
        place = np.searchsorted(self.edges, p, side="right")
        z = (truth.astype(np.float32) - p - self.median[place]) / self.spread[place]
        sigma = SMOOTH_UM / pixel_size if pixel_size else SMOOTH_PX
        smooth = cv2.GaussianBlur(z, (0, 0), max(0.5, sigma), borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth / np.float32(self.scale), np.float32)


def departures(z: Float, labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Root mean square of a map (H, W) over each object of `labels`, ascending by number."""
    count = np.bincount(labels.ravel())
    squares = np.bincount(labels.ravel(), np.square(z, dtype=np.float64).ravel())
    there = np.flatnonzero(count)
    there = there[there > 0]
    return np.asarray(np.sqrt(squares[there] / count[there]))


def robust_scale(maps: Iterable[Float]) -> float:
    """Spread of smoothed maps of the control, by their median absolute values over all fields."""
    values = [float(np.median(np.abs(z))) for z in maps]
    return max(MAD * float(np.median(values)), 1e-6) if values else 1.0
