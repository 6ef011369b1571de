"""Pixel fidelity of a predicted stain against the real one: errors, structure and a straight line.

The functions are pure. They take tensors (..., H, W) on any device, reduce over H and W alone and
give (...), so a batch of fields and channels is scored in one call. Nothing is rescaled: a wrong
gain costs what it costs, and `linear_fit` says what it is. `data_range` is the width of the intensity
range that the figures refer to; it is always stated by the caller and never guessed from the images.
It may be a tensor that broadcasts against (...), such as two ranges for one image.

Undefined values are NaN (SSIM of an image below 11x11, MS-SSIM below 176x176, Pearson of a constant
image, a range of zero) and the PSNR of identical images is infinite; saying so is the caller's part.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.metrics.structure import MS_SSIM_SIDE, MS_SSIM_WEIGHTS, SSIM_WINDOW, multiscale

ERRORS = ("mae", "mse", "nrmse", "psnr")
LINE = ("pearson", "gain", "offset", "r2")
STRUCTURE = ("ssim", "ms_ssim")
NAMES = (*ERRORS, *LINE, *STRUCTURE)


def figures(
    prediction: Tensor, truth: Tensor, data_range: float | Tensor, names: Iterable[str] = NAMES
) -> dict[str, Tensor]:
    """Several figures at once, what they share computed once: (..., H, W) -> (...) for each name.

    - `mae`, `mse`, `nrmse`: errors in units of the range (of its square); 0 is best.
    - `psnr`: 10 log10(range^2 / MSE) in dB.
    - `pearson`, `gain`, `offset`, `r2`: see `linear_fit`.
    - `ssim`: Wang et al. 2004, mean over the pixels whose whole window lies in the image; the same as
      scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
      use_sample_covariance=False, data_range=data_range)`.
    - `ms_ssim`: Wang et al. 2003, five scales. A negative mean of a scale, where light and dark are
      swapped, counts as 0; so does torchmetrics' `normalize="relu"`, which takes the mean of the
      coarsest scale over mirrored borders too.

    Args:
        prediction: (..., H, W).
        truth: the same shape.
        data_range: width of the intensity range.
        names: which of `NAMES`.
    """
    wanted = list(names)
    values: dict[str, Tensor] = {}
    if not set(wanted).isdisjoint(ERRORS):
        absolute, square = _errors(prediction, truth, data_range)
        values |= {"mae": absolute, "mse": square}
        values |= {"nrmse": square.sqrt(), "psnr": -10.0 * torch.log10(square)}
    if not set(wanted).isdisjoint(LINE):
        line = linear_fit(prediction, truth)
        values |= {"pearson": line.r, "gain": line.gain, "offset": line.offset, "r2": line.r2}
    if not set(wanted).isdisjoint(STRUCTURE):
        scales = len(MS_SSIM_WEIGHTS) if "ms_ssim" in wanted else 1
        values["ssim"], values["ms_ssim"] = _structure(prediction, truth, data_range, scales)
    return {name: values[name] for name in wanted}


class LinearFit(NamedTuple):
    """The least-squares line prediction = gain * truth + offset, (...) each.

    Attributes:
        gain: 1 is right; NaN where the truth is constant.
        offset: in the units of the images, 0 is right; NaN where the truth is constant.
        r: Pearson's correlation, -1 to 1; NaN where either image is constant.
    """

    gain: Tensor
    offset: Tensor
    r: Tensor

    @property
    def r2(self) -> Tensor:
        """The part of the prediction's variance that the line explains, 0 to 1."""
        return self.r.square()


def linear_fit(prediction: Tensor, truth: Tensor) -> LinearFit:
    """Fit the prediction's intensities to the truth's by a line: (..., H, W) -> (...) each.

    Ordinary least squares of the prediction on the truth, as `scipy.stats.linregress(truth,
    prediction)`. Noise in the truth and smoothing by the model both draw the gain below 1.
    """
    _check_shapes(prediction, truth)
    mean_p, mean_t = (image.mean(dim=(-2, -1), keepdim=True) for image in (prediction, truth))
    p, t = prediction - mean_p, truth - mean_t
    covariance, power = _dot(p, t), _dot(t, t)
    # Two roots, not the root of a product, which can leave the range of float32 for 16-bit images.
    norm = _dot(p, p).sqrt() * power.sqrt()
    flat = _is_constant(truth)
    gain = torch.where(flat, torch.nan, covariance / power)
    r = torch.where(flat | _is_constant(prediction), torch.nan, covariance / norm)
    offset = mean_p[..., 0, 0] - gain * mean_t[..., 0, 0]
    return LinearFit(gain, offset, r.clamp(-1.0, 1.0))


def _check_shapes(prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape != truth.shape or truth.ndim < 2:
        raise ValueError(
            "prediction and truth must have one shape (..., H, W), got "
            f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
        )


def _errors(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute and mean squared error in units of the range."""
    _check_shapes(prediction, truth)
    error = prediction - truth
    width = _width(data_range, error)
    pixels = error.shape[-2] * error.shape[-1]
    absolute = torch.linalg.vector_norm(error, 1, dim=-1).sum(dim=-1) / pixels
    square = _dot(error, error) / pixels
    defined = width > 0  # a range of zero is no scale to measure on
    return (
        torch.where(defined, absolute / width, torch.nan),
        torch.where(defined, square / width / width, torch.nan),
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products, row by row, which keeps seven digits of a large image in float32."""
    return torch.linalg.vecdot(a, b).sum(dim=-1)


def _width(data_range: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(data_range, dtype=like.dtype).to(like.device)


def _is_constant(image: Tensor) -> Tensor:
    # Exact, unlike a variance of zero, which rounding spoils.
    return image.amax(dim=(-2, -1)) == image.amin(dim=(-2, -1))


def _structure(
    prediction: Tensor, truth: Tensor, data_range: float | Tensor, scales: int
) -> tuple[Tensor, Tensor]:
    """SSIM of the finest scale and MS-SSIM; NaN for what the image is too small for."""
    _check_shapes(prediction, truth)
    width = _width(data_range, truth)
    undefined = torch.full_like(truth[..., 0, 0] * width, torch.nan)
    side = min(truth.shape[-2:])
    if side < SSIM_WINDOW:
        return undefined, undefined
    if scales == 1 or side < MS_SSIM_SIDE:
        return multiscale(prediction, truth, width, [1.0])[0], undefined
    return multiscale(prediction, truth, width, MS_SSIM_WEIGHTS)[:2]
