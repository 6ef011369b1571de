"""Baselines in the network's range [-1, 1], which any network must beat."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.data.base import StainData
from vfn.data.intensity import IntensityNormaliser

Linear = tuple[Tensor, Tensor]  # weight (Ct, Ci) or (Ct, Ci, 7, 7), bias (Ct,)


def target_level(data: StainData) -> Tensor:
    """Return the mean of each target over the training pixels, (Ct,) in (-1, 1)."""
    return _levels(data, data.measured.baselines.mean).clamp(-0.99, 0.99)


def _levels(data: StainData, grey: np.ndarray) -> Tensor:
    pairs = zip(data.targets, grey, strict=True)
    return torch.tensor([float(fitted.normalise(np.array([level]))[0]) for fitted, level in pairs])


def linear_start(data: StainData) -> Linear | None:
    """Return the linear map of the baselines between images in [-1, 1]: weight (Ct, Ci), bias (Ct,).

    It was fitted on grey values as they are on disk, so there is none if the network sees others: equalised, or
    corrected for illumination. Pixels beyond a channel's range count as its end.
    """
    maps = [*data.inputs, *data.targets]
    if any(m.knots is not None for m in maps) or any(flat is not None for flat in data.flats):
        return None
    fitted = data.measured.baselines
    return _scaled(fitted.weights, fitted.offset, maps)


def _scaled(weights: np.ndarray, offset: np.ndarray, maps: Sequence[IntensityNormaliser]) -> Linear:
    """Return weights (Ct, Ci, ...) and offset in grey values as those of images in [-1, 1]."""
    half = np.array([(m.high - m.low) / 2 for m in maps])
    middle = np.array([(m.high + m.low) / 2 for m in maps])
    count = weights.shape[1]
    taps = (1,) * (weights.ndim - 2)
    weight = weights * half[:count].reshape(-1, *taps) / half[count:].reshape(-1, 1, *taps)
    total = weights.reshape(*weights.shape[:2], -1).sum(-1)
    bias = (total @ middle[:count] + offset - middle[count:]) / half[count:]
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _predictors(data: StainData) -> dict[str, Linear]:
    """Return every baseline as a filter of images in [-1, 1]; the linear ones only where `linear_start` has one."""
    fitted = data.measured.baselines
    none = torch.zeros(len(data.targets), len(data.inputs))
    found = {"mean": (none, target_level(data)), "median": (none, _levels(data, fitted.median))}
    linear = linear_start(data)
    if linear is not None:
        maps = [*data.inputs, *data.targets]
        found["linear"] = linear
        found["filter"] = _scaled(fitted.filter.kernels, fitted.filter.offset, maps)
    return found


def baseline_errors(data: StainData) -> dict[str, float]:
    """Return the MAE of each baseline over the validation patches, in [-1, 1]. A filter mirrors a patch at its border."""
    patches, size, predictors = data.val_patches(), data.config.batch_size, _predictors(data)
    sums, pixels = dict.fromkeys(predictors, 0.0), 0
    for start in range(0, len(patches), size):
        stop = min(start + size, len(patches))
        batch = data.normaliser(patches.__getitems__(range(start, stop)))
        pixels += int(batch.valid.sum())
        for name, (weight, bias) in predictors.items():
            kernel = weight if weight.ndim == 4 else weight[..., None, None]
            padded = F.pad(batch.input, [kernel.shape[-1] // 2] * 4, mode="reflect")
            image = F.conv2d(padded, kernel, bias).clamp(-1, 1)
            error = (image - batch.target).abs()[batch.valid].sum(dtype=torch.float64)
            sums[name] += float(error)
    return {name: total / max(pixels, 1) for name, total in sums.items()}
