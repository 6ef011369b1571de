"""Figures of predicted patches while a model trains or is tested, as torchmetrics.

Every metric is updated with prediction, target and valid, all (B, C, h, w); pixels that are not valid
(padding, a field that lacks the target) do not count. States are sums, so that processes add up.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from vfn.data.intensity import IntensityNormaliser
from vfn.metrics.structure import SSIM_WINDOW, multiscale

NORMALISED_RANGE = 2.0  # [-1, 1]


class _Mean(Metric):
    """Sum of a figure over its number: over the valid pixels, or the patches that define it."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch."""
        total, count = self.measure(prediction, target, valid)
        self.total = self.total + total
        self.count = self.count + count

    def measure(
        self, prediction: Tensor, target: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor | int]:
        """The sum over a batch, and of how many."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        """The mean; NaN without any."""
        return self.total / self.count


class _PixelMean(_Mean):
    def measure(self, prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, int]:
        error = (prediction - target)[valid]
        return self.sum_of(error) / max(len(error), 1) * len(error), len(error)

    def sum_of(self, error: Tensor) -> Tensor:
        """The sum of the errors of all pixels."""
        raise NotImplementedError


class PixelMAE(_PixelMean):
    """In the units of the images."""

    higher_is_better = False

    def sum_of(self, error: Tensor) -> Tensor:
        """Sum |error|."""
        return error.abs().sum()


class PixelMSE(_PixelMean):
    """In the squared units of the images."""

    higher_is_better = False

    def sum_of(self, error: Tensor) -> Tensor:
        """Sum error^2."""
        return error.square().sum()


class PixelPSNR(PixelMSE):
    """10 log10(range^2 / MSE) in dB, of the MSE over all pixels.

    Args:
        data_range: width of the intensity range.
    """

    higher_is_better = True

    def __init__(self, data_range: float = NORMALISED_RANGE, **options: Any) -> None:
        super().__init__(**options)
        self.data_range = data_range

    def compute(self) -> Tensor:
        """In float64, as tables are written."""
        mse = super().compute().cpu().double()
        return 10 * torch.log10(self.data_range**2 / mse)


class _PatchMean(_Mean):
    """Mean over patches and channels; those without a defined value are left out."""

    higher_is_better = True

    def measure(self, prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        values = self.values(prediction, target, valid)
        defined = values.isfinite()
        return torch.where(defined, values, 0).sum(), defined.sum()

    def values(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """(B, C), NaN where undefined."""
        raise NotImplementedError


class PatchSSIM(_PatchMean):
    """SSIM (Wang et al. 2004) over the windows whose pixels are all valid.

    Args:
        data_range: width of the intensity range.
        low: its lower end; the luminance factor takes intensities from 0 on.
    """

    def __init__(
        self, data_range: float = NORMALISED_RANGE, low: float = -1.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.data_range, self.low = data_range, low

    def values(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """(B, C); NaN where no window is valid."""
        if min(target.shape[-2:]) < SSIM_WINDOW:
            return target.new_full(target.shape[:2], torch.nan)
        everywhere = valid.device.type == "cpu" and bool(valid.all())
        ssim, _, counted = multiscale(
            prediction - self.low, target - self.low, target.new_tensor(self.data_range), [1.0],
            None if everywhere else valid,
        )  # fmt: skip
        return torch.where(counted, ssim, torch.nan)


class PatchPearson(_PatchMean):
    """Pearson's r over the valid pixels of each patch and channel; undefined where one is constant."""

    def values(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """(B, C); NaN where undefined."""
        weight = valid.to(target.dtype)
        number = weight.sum((-2, -1), keepdim=True).clamp(min=1)
        p, t = (
            (image - (image * weight).sum((-2, -1), keepdim=True) / number) * weight
            for image in (prediction, target)
        )
        norm = p.square().sum((-2, -1)).sqrt() * t.square().sum((-2, -1)).sqrt()
        return torch.where(norm > 0, (p * t).sum((-2, -1)) / norm, torch.nan)


class FullRange:
    """Images in [-1, 1] to grey values as a share of what their dtype can hold, the paper's scale.

    Args:
        targets: the normalisers of the C channels, whole numbers all.
    """

    def __init__(self, targets: Sequence[IntensityNormaliser]) -> None:
        self.targets = targets

    def __call__(self, image: Tensor) -> Tensor:
        """(B, C, h, w) in [-1, 1] -> (B, C, h, w) in [0, 1]."""
        shares = []
        for fitted, x in zip(self.targets, image.clamp(-1, 1).unbind(1), strict=True):
            limits = np.iinfo(fitted.dtype)
            position = (x + 1) / 2
            if fitted.knots is None:
                grey = fitted.low + position * (fitted.high - fitted.low)
            else:
                grey = _at(position, x.new_tensor(fitted.knots))
            shares.append((grey - limits.min) / (float(limits.max) - limits.min))
        return torch.stack(shares, 1)


def _at(position: Tensor, knots: Tensor) -> Tensor:
    """The equalising curve at a share of its length."""
    place = position * (len(knots) - 1)
    left = place.floor().clamp(max=len(knots) - 2).long()
    return torch.lerp(knots[left], knots[left + 1], place - left)


def patch_metrics(prefix: str) -> MetricCollection:
    """Figures on the range of normalisation, [-1, 1]."""
    return MetricCollection(
        {
            "mae": PixelMAE(),
            "mse": PixelMSE(),
            "psnr": PixelPSNR(),
            "ssim": PatchSSIM(),
            "pearson": PatchPearson(),
        },
        prefix=prefix,
    )


def full_range_metrics(prefix: str) -> MetricCollection:
    """Figures on all that the dtype can hold, of images in [0, 1]."""
    return MetricCollection(
        {"psnr": PixelPSNR(1.0), "ssim": PatchSSIM(1.0, 0.0)}, prefix=prefix, postfix="_full"
    )
