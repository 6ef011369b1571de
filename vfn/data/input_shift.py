"""Does a new field look like those that the model was trained on? The input-shift alarm.

A network answers any image, and an image unlike its training images with nonsense that looks
well. So each channel's training fields leave an envelope of a few numbers that a biologist can check
by eye, and a field outside of it is named, with the number that is outside.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vfn.data.intensity import FieldLevel, subsample
from vfn.errors import UserError

CORE = 1024  # px: noise and sharpness of a large field are taken from its middle
PERCENTILES = (1.0, 50.0, 99.5)  # background, median, bright structures
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
# Power of white noise between the widths 1 and 2 px against what is finer than 1 px, for Gaussians:
# (1/4 + 1/16 - 1/5) / (pi - 1 + 1/4).
WHITE = 0.047
# Outside of the training range by this many robust spreads. Few fields show less than their range:
# the next of N fields from one experiment is farther out than all of them with probability 2/(N+1).
SPREADS, SPREADS_FEW = 1.5, 8.0  # SPREADS + SPREADS_FEW / N


SIZES_DIFFER = 0.1  # of the pixel size, beyond which it is said


@dataclass(frozen=True)
class _Statistic:
    """Comparison of one number, and its words.

    Attributes:
        scale: "level" for grey values, "ratio" for what gain or blur multiplies, "share" for small
            parts of a whole, "linear".
        floor: the least spread, on that scale; keeps three like fields from giving a needle.
        below, above: what a biologist would call it; empty where it harms no prediction.
    """

    scale: str
    floor: float
    below: str
    above: str

    def unit(self, values: Sequence[float], contrast: Sequence[float]) -> float:
        """Below it, differences count as such; above it, by their ratio.

        Grey values have no meaningful ratio where they are small beside the contrast (a background
        of 1 or 2 on an 8-bit camera).
        """
        if self.scale == "share":
            return SMALL_SHARE
        return max(UNIT * float(np.median(contrast if self.scale == "level" else values)), TINY)

    def position(self, value: float, unit: float) -> float:
        """`value` on the scale on which spreads are measured: about the logarithm."""
        return value if self.scale == "linear" else math.asinh(value / unit / 2)


UNIT, TINY = 0.05, 1e-12
SMALL_SHARE = 1e-3  # of the pixels: fewer do not matter
STATISTICS = {
    "background": _Statistic(
        "level", 0.04, "darker background than in training", "brighter background than in training"
    ),
    "mean": _Statistic("level", 0.08, "darker than in training", "brighter than in training"),
    "bright": _Statistic(
        "level", 0.08, "bright structures are dimmer than in training",
        "bright structures are brighter than in training",
    ),
    "contrast": _Statistic(
        "ratio", 0.08, "fainter than in training: an empty field, or weak stain or light",
        "stronger contrast than in training",
    ),
    "balance": _Statistic(
        "linear", 0.06, "more dark than bright structures than in training, as in an inverted image",
        "more bright than dark structures than in training",
    ),
    "noise": _Statistic(
        "ratio", 0.08, "less noise than in training: a smoothed image, or another camera setting",
        "noisier than in training",
    ),
    "sharpness": _Statistic(
        "ratio", 0.04, "less sharp than in training: out of focus",
        "finer detail than in training",
    ),
    "saturated": _Statistic("share", 0.5, "", "more saturated pixels than in training"),
}  # fmt: skip


def field_statistics(array: np.ndarray, level: FieldLevel | None = None) -> dict[str, float]:
    """Measure the look of a field (H, W) of grey values.

    Args:
        level: by which the network sees the field standardised; grey values below are then spreads from
            its median.

    Returns:
        background, mean, bright: 1st percentile, mean, 99.5th percentile, in grey values.
        contrast: bright - background, grey values.
        balance: -1 (all structures dark on a bright ground) to 1 (bright on a dark ground).
        noise: grey values; from the Laplacian (Immerkaer, CVIU 1996) over the darker half of the
            field, where there is little structure.
        sharpness: detail of 1 to 2 px against structures of 4 to 8 px, noise left out; without unit,
            the same for any gain and offset.
        saturated: share of the pixels that have the field's highest grey value, [0, 1].
    """
    sample = subsample(array)
    background, median, bright = (float(v) for v in np.percentile(sample, PERCENTILES))
    contrast = bright - background
    core = _middle(array).astype(np.float32)
    height, width = core.shape
    small = cv2.resize(
        core, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA
    )
    structure = _band(small)
    laplacian = np.abs(cv2.filter2D(core, -1, LAPLACIAN))
    ground = cv2.mean(laplacian, (core <= median).astype(np.uint8))[0]
    middle, spread = level or (0.0, 1.0)
    return {
        "background": (background - middle) / spread,
        "mean": (float(sample.mean()) - middle) / spread,
        "bright": (bright - middle) / spread,
        "contrast": contrast / spread,
        "balance": (bright + background - 2 * median) / contrast if contrast else 0.0,
        "noise": math.sqrt(math.pi / 2) / 6 * ground / spread,
        "sharpness": _band(core) / structure if structure else 0.0,
        "saturated": _share_of_highest(array),
    }


def _share_of_highest(array: np.ndarray) -> float:
    highest, rows = array.max(), max(1, CORE**2 // array.shape[1])  # in parts: fields may be huge
    parts = (array[top : top + rows] for top in range(0, len(array), rows))
    return sum(int(np.count_nonzero(part == highest)) for part in parts) / array.size


def _middle(array: np.ndarray) -> np.ndarray:
    """The middle of a large field; a smaller one as it is."""
    starts = [max(0, (n - CORE) // 2) for n in array.shape]
    return array[starts[0] : starts[0] + CORE, starts[1] : starts[1] + CORE]


def _band(image: np.ndarray) -> float:
    """Standard deviation of the detail between the widths 1 and 2 px, less what white noise has
    there: the camera's noise is as sharp out of focus as in it."""
    soft, softer = (cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (1, 2))
    fine, finest = (cv2.meanStdDev(x)[1].item() for x in (soft - softer, image - soft))
    return math.sqrt(max(0.0, fine**2 - WHITE * finest**2))


@dataclass(frozen=True)
class TrainingDistribution:
    """Look of the training fields of one channel.

    Attributes:
        seen: statistic -> least and greatest value over the training fields.
        allowed: statistic -> the bounds of what passes, wider than `seen`, on the statistic's scale.
        units: statistic -> see `_Statistic.unit`.
    """

    seen: Mapping[str, tuple[float, float]]
    allowed: Mapping[str, tuple[float, float]]
    units: Mapping[str, float]

    @classmethod
    def fit(cls, statistics: Sequence[Mapping[str, float]]) -> "TrainingDistribution":
        """From `field_statistics` of each training field.

        Raises:
            UserError: no field.
        """
        if not statistics:
            raise UserError("input shift: no training field to compare with; check the split")
        seen, allowed, units = {}, {}, {}
        contrast = [field["contrast"] for field in statistics]
        widen = SPREADS + SPREADS_FEW / len(statistics)
        for name, rule in STATISTICS.items():
            values = [field[name] for field in statistics]
            units[name] = rule.unit(values, contrast)
            positions = np.array([rule.position(value, units[name]) for value in values])
            low, high = float(positions.min()), float(positions.max())
            spread = 1.4826 * float(np.median(np.abs(positions - np.median(positions))))
            margin = widen * max(spread, rule.floor)
            seen[name] = (min(values), max(values))
            allowed[name] = (low - margin, high + margin)
        return cls(seen, allowed, units)

    def judge(self, statistics: Mapping[str, float]) -> list[str]:
        """A phrase for each statistic outside; empty for a field like those of training."""
        phrases = []
        for name, rule in STATISTICS.items():
            value, (low, high) = statistics[name], self.allowed[name]
            position = rule.position(value, self.units[name])
            words = rule.below if position < low else rule.above if position > high else ""
            if words:
                first, last = self.seen[name]
                training = f"training {number(first)} to {number(last)}"
                phrases.append(f"{name} {number(value)} ({training}): {words}")
        return phrases

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {
            "seen": {name: list(bounds) for name, bounds in self.seen.items()},
            "allowed": {name: list(bounds) for name, bounds in self.allowed.items()},
            "units": dict(self.units),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrainingDistribution":
        """The inverse of `to_dict`."""
        seen, allowed = (
            {name: (float(low), float(high)) for name, (low, high) in data[key].items()}
            for key in ("seen", "allowed")
        )
        if any(low > high for part in (seen, allowed) for low, high in part.values()):
            raise ValueError("a range whose low end is above its high end")
        return cls(seen, allowed, {name: float(unit) for name, unit in data["units"].items()})


def judge_pixel_size(here: float | None, trained: float | None) -> list[str]:
    """A phrase where pixels (um) are of another size than in training; none where either is unknown."""
    if not here or not trained or abs(here / trained - 1) <= SIZES_DIFFER:
        return []
    larger = "larger" if here < trained else "smaller"
    return [
        f"pixel size {here:.3g} um (training {trained:.3g}): structures are {larger} than in training; "
        "resample the images"
    ]


def number(value: float) -> str:
    """Three digits, or all before the point: "0.0123", "16685"."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
