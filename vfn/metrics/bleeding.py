"""Signal of other channels in a predicted stain."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfn.metrics.contrast import PERCENTILES


@dataclass(frozen=True)
class Bleeding:
    """The channel that the error of a prediction follows most.

    Attributes:
        channel: its name.
        slope: 0.2 where 20 % of it are mixed in, -0.2 where they are taken off; in units of both signals' widths.
    """

    channel: str
    slope: float


def bleeding(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    width: float,
    inputs: Iterable[tuple[str, NDArray[Any]]],
    targets: Iterable[tuple[str, NDArray[Any]]],
) -> Bleeding | None:
    """Measure by how much each other channel of the field is mixed into a prediction; return the largest.

    The slope is that of the least-squares line of the error, prediction - truth, on the channel. It is fair to a
    model that does its best: what its inputs tell of the stain is in its prediction, so that its error does not follow
    them. It does follow the other stains of the field that it has not seen: where the prediction falls short of the
    truth, stains that go with it are bright. Of these, only a slope above 0 counts.

    Args:
        prediction: (H, W), finite.
        truth: (H, W).
        width: of the target's signal range, grey levels; above 0.
        inputs: name and image (H, W) of what the model saw; their unit is their own 0.1 to 99.9 percentile here.
        targets: name and truth (H, W) of the other targets.

    Returns:
        None where no other channel shows anything.
    """
    error = np.subtract(prediction, truth, dtype=np.float32, casting="unsafe")
    error -= error.mean()
    found = [Bleeding(name, _slope(error, image) / width) for name, image in inputs]
    found += [
        Bleeding(name, np.maximum(_slope(error, image), 0.0) / width) for name, image in targets
    ]
    shown = [one for one in found if not math.isnan(one.slope)]
    return max(shown, key=lambda one: abs(one.slope), default=None)


def _slope(error: NDArray[np.float32], image: NDArray[Any]) -> float:
    """Grey levels of the error, whose mean is 0, for the width of the channel; NaN if that is empty."""
    low, high = np.percentile(image[::2, ::2], PERCENTILES)
    if not high > low:
        return math.nan
    x = (image.astype(np.float32) - low) / (high - low)
    x -= x.mean()
    return float(np.vdot(error, x) / np.vdot(x, x))
