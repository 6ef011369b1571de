"""Baselines in the network's range [-1, 1], which any network must beat: the mean and a linear map."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vfn.data.batch import Normaliser
from vfn.data.illumination import FlatField
from vfn.data.intensity import IntensityNormaliser
from vfn.data.patches import GridPatches
from vfn.data.statistics import LinearMap

Linear = tuple[Tensor, Tensor]  # weight (Ct, Ci), bias (Ct,)


def target_level(targets: Sequence[IntensityNormaliser], baselines: LinearMap) -> Tensor:
    """Return the mean of each target over the training pixels, (Ct,) in (-1, 1)."""
    pairs = zip(targets, baselines.mean, strict=True)
    levels = [float(fitted.normalise(np.array([mean]))[0]) for fitted, mean in pairs]
    return torch.tensor(levels).clamp(-0.99, 0.99)


def linear_start(
    inputs: Sequence[IntensityNormaliser],
    targets: Sequence[IntensityNormaliser],
    flats: Sequence[FlatField | None],
    baselines: LinearMap,
) -> Linear | None:
    """Return the linear map of the baselines between images in [-1, 1]: weight (Ct, Ci), bias (Ct,).

    It was fitted on grey values as they are on disk, so there is none if the network sees others: equalised, or
    corrected for illumination. Pixels beyond a channel's range count as its end.
    """
    maps = [*inputs, *targets]
    if any(m.knots is not None for m in maps) or any(flat is not None for flat in flats):
        return None
    half = np.array([(m.high - m.low) / 2 for m in maps])
    middle = np.array([(m.high + m.low) / 2 for m in maps])
    count = len(inputs)
    weight = baselines.weights * half[:count] / half[count:, None]
    bias = (baselines.weights @ middle[:count] + baselines.offset - middle[count:]) / half[count:]
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def baseline_errors(
    patches: GridPatches,
    normaliser: Normaliser,
    level: Tensor,
    linear: Linear | None,
    batch_size: int,
) -> dict[str, float]:
    """Return the MAE of the baselines "mean" and, if there is one, "linear" over patches, in [-1, 1]."""
    sums, pixels = {"mean": 0.0}, 0
    for start in range(0, len(patches), batch_size):
        stop = min(start + batch_size, len(patches))
        batch = normaliser(patches.__getitems__(range(start, stop)))
        predicted = {"mean": level[:, None, None].expand_as(batch.target)}
        if linear is not None:
            weight, bias = linear
            mapped = torch.einsum("tc,bchw->bthw", weight, batch.input) + bias[:, None, None]
            predicted["linear"] = mapped.clamp(-1, 1)
        pixels += int(batch.valid.sum())
        for name, image in predicted.items():
            error = (image - batch.target).abs()[batch.valid].sum(dtype=torch.float64)
            sums[name] = sums.get(name, 0.0) + float(error)
    return {name: total / max(pixels, 1) for name, total in sums.items()}
