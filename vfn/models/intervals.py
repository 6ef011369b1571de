"""Intervals of a prediction: for each pixel a half-width that holds the truth as often as asked.

The score is the absolute error that a small network expects (`ScaleHead`), from what the generator
saw and what it made of it. It is fitted after the training, the generator frozen, on training
patches (`vfn.commands.calibrate`). The spread over test-time augmentations would need no such network, but
eight predictions a field, which plates of thousands of fields cannot pay.

What turns the score into an interval is split-conformal calibration: half-width = lambda x score,
with one lambda a target and coverage, chosen on validation fields by conformal risk control
(Angelopoulos, Bates, Fisch, Lei, Schuster 2022, arXiv:2208.02814). The risk is the share of a
field's pixels outside the interval, as in Angelopoulos et al. 2022 (arXiv:2202.05265). Pixels of one
field go wrong together, and so do fields of one well: what counts is wells where they are known, else fields,
n of them. With alpha = 1 - coverage, the smallest lambda with n / (n + 1) x mean risk + 1 / (n + 1) <= alpha keeps
the expected risk of a new one at or below alpha, if it is exchangeable with those of validation. Three limits:

- With few fields that asks too much: the mean risk on them must be alpha - coverage / n, which is
  nothing at n = 1 / alpha - 1, so that one odd pixel decides. The promise is given where no more
  than half of alpha is paid for it: n >= 2 (1 / alpha - 1), 18 for a coverage of 0.9, 38
  for 0.95. With fewer, lambda is the one that reaches the coverage on the validation fields (and is
  not below that of a lower coverage), without any promise, and this is said.
- Fields of another plate, microscope or day are not exchangeable with those of the training.
- `best.ckpt` was chosen by its error on the same validation fields: a small departure, since one
  of a few dozen epochs is chosen by one figure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vfn.data.intensity import to_dtype
from vfn.errors import UserError
from vfn.models.nets import with_weights

# Half-widths in units of the score that are told apart; neighbours differ by 1.2 %.
MULTIPLIERS: NDArray[np.float64] = np.geomspace(1e-2, 1e3, 1000)
LOWEST, HIGHEST = 50, 99  # coverages that can be asked for (%)
WIDTH = 16  # channels of the head
LAYERS = 3  # of it: it sees 7 x 7 pixels; 15 x 15 rank errors no better
FLOOR = 0.02  # of a score, in units of the mean absolute error
UNKNOWN_WELLS = (
    "their wells are not known, so fields of one well count as independent, which they are not"
)


class ScaleHead(nn.Module):
    """Inputs and prediction -> the absolute error to expect of each target.

    Args:
        inputs, targets: numbers of channels.
        width: channels of the hidden layers.
    """

    unit: Tensor  # (Ct, 1, 1), mean absolute error; 0 for a target that was not met yet

    def __init__(self, inputs: int, targets: int, width: int = WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = inputs + targets
        for _ in range(LAYERS):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, targets, 1))
        self.width = width
        self.register_buffer("unit", torch.zeros(targets, 1, 1))

    def forward(self, image: Tensor, prediction: Tensor) -> Tensor:
        """(B, Ci, h, w), (B, Ct, h, w), both in [-1, 1] -> (B, Ct, h, w) float32, in these units."""
        x = self.layers(torch.cat([image, prediction], 1)).float()
        return self.unit * (F.softplus(x + math.log(math.e - 1)) + FLOOR)

    def meet(self, error: Tensor, valid: Tensor) -> None:
        """Take the unit of each target from the first patches (B, Ct, h, w) that have it."""
        count = valid.sum((0, 2, 3))
        mean = (error * valid).sum((0, 2, 3)) / count.clamp(min=1)
        new = (self.unit[:, 0, 0] == 0) & (count > 0)
        self.unit[new] = mean.clamp(min=1e-6)[new][:, None, None]


def laplace_loss(error: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
    """Negative log-likelihood of Laplace's distribution, |r| / s + log s, mean over the valid pixels.

    It is least where s is the mean of |r|; outliers count by |r|, not by its square.

    Args:
        error: |r|, (B, Ct, h, w).
        scale: s, the same shape.
        valid: the same shape, bool, True somewhere.
    """
    error, scale = error[valid], scale[valid]
    return (error / scale + scale.log()).mean()


def missed(prediction: np.ndarray, truth: np.ndarray, score: np.ndarray) -> NDArray[np.float64]:
    """Share of the pixels outside the interval, for each of `MULTIPLIERS`: (1000,), falling.

    Args:
        prediction, truth: (H, W) in the dtype of the target.
        score: (H, W) above 0, in grey values.
    """
    error = np.abs(np.subtract(truth, prediction, dtype=np.float64))
    if prediction.dtype.kind in "ui":
        # Half-widths are written as whole numbers, rounded up: |r| <= ceil(h) where h > |r| - 1.
        first = np.searchsorted(MULTIPLIERS, (error - 1) / score, side="right")
    else:
        first = np.searchsorted(MULTIPLIERS, error / score, side="left")
    inside = np.cumsum(np.bincount(first.ravel(), minlength=len(MULTIPLIERS) + 1))
    return np.asarray(1 - inside[:-1] / error.size)


def halfwidth(score: np.ndarray, multiplier: float, dtype: str) -> np.ndarray:
    """Half-widths in the target's dtype: cut at its maximum, and rounded up if it is an integer.

    Args:
        score: any shape, in grey values.
        multiplier: infinite where no finite one reaches the coverage.
    """
    is_float = np.dtype(dtype).kind == "f"
    largest = np.finfo(dtype).max if is_float else np.iinfo(dtype).max
    width = np.minimum(multiplier * score, largest)
    return to_dtype(width if is_float else np.ceil(width), dtype)


@dataclass(frozen=True, eq=False)
class Miscoverage:
    """Risk of one target on the validation fields.

    Attributes:
        multipliers: rising, (L,).
        misses: share of the pixels outside the interval, mean over the units, (L,).
        count: number of units.
        unit: "well" (the mean over its fields) or "field", where wells are not known.
    """

    multipliers: NDArray[np.float64]
    misses: NDArray[np.float64]
    count: int
    unit: str = "field"

    def promised(self, coverage: float) -> bool:
        """Return True if there are enough units for a guarantee."""
        return self.count >= self.needed(coverage)

    @staticmethod
    def needed(coverage: float) -> int:
        """Return the units that a guarantee takes: n >= 2 (1 / alpha - 1)."""
        return math.ceil(2 * (1 / (1 - coverage) - 1) - 1e-9)

    def allowed(self, coverage: float) -> float:
        """The mean risk on the validation fields that goes with `coverage`; it falls as that rises."""
        if self.promised(coverage):
            return 1 - coverage - coverage / self.count
        # The first term of the highest coverage that is promised comes to the second.
        least = 1 / (self.count + 2) if self.promised(LOWEST / 100) else 1.0
        return min(1 - coverage, least)

    def multiplier(self, coverage: float) -> float:
        """The smallest lambda whose risk is allowed; infinite where none is large enough."""
        enough = self.misses <= self.allowed(coverage) + 1e-12
        return float(self.multipliers[np.argmax(enough)]) if enough.any() else math.inf


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Error model of a calibrated checkpoint.

    Attributes:
        head: in evaluation mode, on the CPU.
        curves: of each target.
    """

    head: ScaleHead
    curves: tuple[Miscoverage, ...]

    def multipliers(self, coverage: float) -> tuple[float, ...]:
        """Return the half-width of each target in units of the score."""
        return tuple(curve.multiplier(coverage) for curve in self.curves)

    def promise(self, coverage: float, targets: Sequence[str]) -> list[str]:
        """Return what the intervals of each target are worth, in words."""
        lines = []
        for target, curve in zip(targets, self.curves, strict=True):
            text = f"{target}: intervals hold {coverage:.0%} of a field's pixels or more, on average over "
            units = f"{curve.unit}s"
            if curve.promised(coverage):
                text += f"{units} like the {curve.count} validation {units} (conformal guarantee)"
                if curve.unit == "field":
                    text += f"; {UNKNOWN_WELLS}"
            else:
                text += (
                    f"the {curve.count} validation {curve.unit}(s); no guarantee for others, which takes "
                    f"{curve.needed(coverage)} such {units}"
                )
            lines.append(text)
        return lines

    def promised(self, coverage: float) -> tuple[bool, ...]:
        """Return for each target whether `coverage` is guaranteed; see `Miscoverage.promised`."""
        return tuple(curve.promised(coverage) for curve in self.curves)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that half-widths depend on."""
        found = dict(self.head.state_dict())
        for i, curve in enumerate(self.curves):
            found |= {
                f"misses.{i}": torch.from_numpy(curve.misses),
                f"fields.{i}": torch.tensor([curve.count]),
            }
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data and tensors, for the checkpoint."""
        return {
            "width": self.head.width,
            "head": {key: value.clone() for key, value in self.head.state_dict().items()},
            "multipliers": torch.from_numpy(self.curves[0].multipliers),
            "misses": torch.from_numpy(np.stack([curve.misses for curve in self.curves])),
            "fields": [curve.count for curve in self.curves],
            "units": [curve.unit for curve in self.curves],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], inputs: int) -> "Uncertainty":
        """The inverse of `to_dict`, for a model of so many `inputs`."""
        targets, width = len(data["fields"]), int(data["width"])
        if data["misses"].shape != (targets, *data["multipliers"].shape):
            raise ValueError(f"misses {tuple(data['misses'].shape)} of {targets} target(s)")
        try:
            head = with_weights(lambda: ScaleHead(inputs, targets, width), data["head"])
        except RuntimeError as exc:
            raise ValueError(f"error model: {exc}") from exc
        curves = tuple(
            Miscoverage(data["multipliers"].numpy(), misses.numpy(), int(count), unit)
            for misses, count, unit in zip(
                data["misses"], data["fields"], units_of(data), strict=True
            )
        )
        return cls(head.eval(), curves)


def units_of(data: Mapping[str, Any]) -> list[str]:
    """Return the unit of each target from what `Uncertainty.to_dict` gave."""
    units = [str(unit) for unit in data["units"]]
    if not set(units) <= {"field", "well"}:
        raise ValueError(f"units {units}")
    return units


def check_coverage(value: float) -> float:
    """Return a coverage as a share, from whatever the user gave.

    Raises:
        UserError: not a whole percentage from 50 to 99.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    number = value if is_number else 0
    percent = round(100 * number)
    if not LOWEST <= percent <= HIGHEST or abs(100 * number - percent) > 1e-6:
        raise UserError(
            f"uncertainty={value}: give the share of pixels that the intervals shall hold, "
            "0.50 to 0.99 in steps of 0.01"
        )
    return percent / 100


def halfwidth_channel(target: str, coverage: float) -> str:
    """Name of the channel that holds the half-widths of `target`: "er_halfwidth90"."""
    return f"{target}_halfwidth{round(100 * coverage)}"
