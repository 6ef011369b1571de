"""Pixel fidelity of a predicted stain against the real one: errors, structure and a straight line.

The functions are pure. They take tensors (..., H, W) on any device, reduce over H and W alone and
give (...), so a batch of fields and channels is scored in one call. Nothing is rescaled: a wrong
gain costs what it costs, and `linear_fit` says what it is. `data_range` is the width of the intensity
range that the figures refer to; it is always stated by the caller and never guessed from the images.
It may be a tensor that broadcasts against (...), such as two ranges for one image.

Undefined values are NaN (SSIM of an image below 11x11, MS-SSIM below 176x176, Pearson of a constant
image, a range of zero) and the PSNR of identical images is infinite; saying so is the caller's part.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

# Wang et al. 2004, with the window radius that scikit-image derives: int(3.5 * sigma + 0.5) = 5.
SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_WINDOW = 2 * SSIM_RADIUS + 1
SSIM_K1 = 0.01
SSIM_K2 = 0.03
# Wang et al. 2003, from the finest to the coarsest scale.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SIDE = SSIM_WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)  # the coarsest scale holds one window
STRIP = 1 << 17  # pixels that are filtered at a time on a CPU

ERRORS = ("mae", "mse", "nrmse", "psnr")
LINE = ("pearson", "gain", "offset", "r2")
STRUCTURE = ("ssim", "ms_ssim")
NAMES = (*ERRORS, *LINE, *STRUCTURE)


def figures(
    prediction: Tensor, truth: Tensor, data_range: float | Tensor, names: Iterable[str] = NAMES
) -> dict[str, Tensor]:
    """Several figures at once, what they share computed once: (..., H, W) -> (...) for each name.

    Args:
        prediction: (..., H, W).
        truth: the same shape.
        data_range: width of the intensity range.
        names: which of `NAMES`; what each is says the function of that name, for `gain`, `offset`
            and `r2` `linear_fit`.
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


def mae(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Mean absolute error in units of `data_range` (0 is best): (..., H, W) -> (...)."""
    return _errors(prediction, truth, data_range)[0]


def mse(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Mean squared error in units of `data_range` squared (0 is best): (..., H, W) -> (...)."""
    return _errors(prediction, truth, data_range)[1]


def nrmse(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Root of the mean squared error in units of `data_range` (0 is best): (..., H, W) -> (...).

    scikit-image's `normalized_root_mse(normalization="min-max")` where `data_range` is the truth's
    largest minus smallest pixel.
    """
    return mse(prediction, truth, data_range).sqrt()


def psnr(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(range^2 / MSE): (..., H, W) -> (...).

    Infinite for identical images.
    """
    return -10.0 * torch.log10(mse(prediction, truth, data_range))


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
    """How the prediction's intensities follow the truth's: (..., H, W) -> (...) each.

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


def pearson(prediction: Tensor, truth: Tensor) -> Tensor:
    """Pearson's correlation of the pixels, -1 to 1: (..., H, W) -> (...). NaN if one is constant."""
    return linear_fit(prediction, truth).r


def ssim(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Structural similarity, up to 1 (best): (..., H, W) -> (...). NaN below 11x11 pixels.

    Wang et al. 2004, IEEE TIP 13(4): Gaussian window of sigma 1.5 and 11x11 pixels, K1 = 0.01,
    K2 = 0.03, mean over the pixels whose whole window lies in the image. The same as
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=data_range)`.
    """
    return _structure(prediction, truth, data_range, scales=1)[0]


def ms_ssim(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Multi-scale structural similarity, 0 to 1 (best): (..., H, W) -> (...). NaN below 176x176.

    Wang, Simoncelli and Bovik 2003, Asilomar: five scales, each half the size of the one before (means of
    2x2 pixels, an odd last row or column dropped); the mean contrast-structure term of the four
    finer scales and the mean SSIM of the coarsest, with the window and constants of `ssim`, are
    multiplied, each to the power of its weight. A negative mean, which has no such power, counts as
    0 and makes the product 0: at that scale light and dark are swapped. So does torchmetrics'
    `multiscale_structural_similarity_index_measure(normalize="relu")`, which differs in that it
    takes the mean of the coarsest scale over mirrored borders too.
    """
    return _structure(prediction, truth, data_range, len(MS_SSIM_WEIGHTS))[1]


class Fidelity(Metric):
    """Pixel figures of each channel, computed by field, then averaged over fields.

    `update` takes prediction and truth (B, C, H, W) with C = len(channels); `compute` gives a flat
    dictionary ready for a logger: `mae/dapi`, `psnr/dapi`, `ssim/dapi`, ...
    Undefined and infinite values of single fields are left out of the average; with none left, the
    average is NaN.

    Args:
        channels: names of the C target channels.
        data_range: intensity range of the tensors that `update` gets (2 for images in [-1, 1]).
        names: which of `NAMES`.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(
        self,
        channels: Sequence[str],
        data_range: float = 2.0,
        names: Sequence[str] = ("mae", "psnr", "ssim", "pearson"),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        unknown = sorted(set(names) - set(NAMES))
        if unknown:
            raise ValueError(f"unknown figures {unknown}; there are {', '.join(NAMES)}")
        self.channels = tuple(channels)
        self.data_range = data_range
        self.names = tuple(names)
        zeros = torch.zeros(len(self.names), len(self.channels))
        self.add_state("total", zeros, dist_reduce_fx="sum")
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of fields, (B, C, H, W) each; half precision is scored in float32."""
        if prediction.ndim != 4 or prediction.shape[1] != len(self.channels):
            raise ValueError(
                f"expected (B, {len(self.channels)}, H, W) for channels {self.channels}, "
                f"got {tuple(prediction.shape)}"
            )
        p, t = (image.detach().to(_at_least_float32(image)) for image in (prediction, truth))
        scored = figures(p, t, self.data_range, self.names)
        values = torch.stack([scored[name] for name in self.names])  # (figure, B, C)
        finite = values.isfinite()
        self.total += torch.where(finite, values, 0.0).sum(dim=1)
        self.count += finite.sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """Averages over all fields so far, keyed `figure/channel`."""
        average = self.total / self.count  # 0 / 0 is NaN: nothing to average
        return {
            f"{name}/{channel}": average[i, j]
            for i, name in enumerate(self.names)
            for j, channel in enumerate(self.channels)
        }


def _at_least_float32(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


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
    if min(truth.shape[-2:]) < SSIM_WINDOW:
        return undefined, undefined
    whole, contrast = _similarity(prediction, truth, width)
    if scales == 1 or min(truth.shape[-2:]) < MS_SSIM_SIDE:
        return whole, undefined
    factors = [contrast]
    for scale in range(1, scales):
        prediction, truth = _halve(prediction), _halve(truth)
        coarse, contrast = _similarity(prediction, truth, width)
        factors.append(coarse if scale == scales - 1 else contrast)
    product = torch.ones_like(whole)
    for factor, weight in zip(factors, MS_SSIM_WEIGHTS, strict=True):
        product = product * factor.clamp(min=0) ** weight
    return whole, product


def _similarity(prediction: Tensor, truth: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the interior of SSIM, and of its contrast-structure factor alone."""
    # Variances do not change with an offset, but E[x^2] - E[x]^2 loses its digits on a bright
    # background: take the offset away first and give it back to the means.
    offset = truth.mean(dim=(-2, -1), keepdim=True)
    height = truth.shape[-2] - 2 * SSIM_RADIUS
    pixels = height * (truth.shape[-1] - 2 * SSIM_RADIUS)
    # Strips of rows stay in the cache of a CPU; fetching fresh memory costs more than the arithmetic.
    whole = truth.device.type != "cpu" or truth.requires_grad or prediction.requires_grad
    step = height if whole else max(1, STRIP * truth.shape[-2] // truth.numel())
    strips = [
        slice(top, min(top + step, height) + 2 * SSIM_RADIUS) for top in range(0, height, step)
    ]
    sums = [
        _similarity_sums(prediction[..., rows, :], truth[..., rows, :], offset, width)
        for rows in strips
    ]
    similarity, contrast = torch.stack(sums).sum(dim=0) / pixels
    defined = width > 0
    return (
        torch.where(defined, similarity, torch.nan),
        torch.where(defined, contrast, torch.nan),
    )


def _similarity_sums(prediction: Tensor, truth: Tensor, offset: Tensor, width: Tensor) -> Tensor:
    """Sums of SSIM and of its contrast-structure factor, (2, ...)."""
    p, t = prediction - offset, truth - offset
    mean_p, mean_t = _gaussian(p), _gaussian(t)
    # In place where autograd allows it.
    variances = _gaussian((p * p).addcmul_(t, t))
    variances.sub_((mean_p * mean_p).addcmul_(mean_t, mean_t))
    covariance = _gaussian(p * t).addcmul_(mean_p, mean_t, value=-1).mul_(2)
    mean_p, mean_t = mean_p + offset, mean_t + offset
    product = (mean_p * mean_t).mul_(2)
    squares = (mean_p * mean_p).addcmul_(mean_t, mean_t)
    c1, c2 = ((k * width[..., None, None]) ** 2 for k in (SSIM_K1, SSIM_K2))
    contrast = (covariance + c2) / (variances + c2)
    similarity = contrast * ((product + c1) / (squares + c1))
    return torch.stack([similarity.sum(dim=(-2, -1)), contrast.sum(dim=(-2, -1))])


def _halve(image: Tensor) -> Tensor:
    """Means of 2x2 pixels; a last odd row or column is dropped."""
    height, width = (n // 2 * 2 for n in image.shape[-2:])
    rows = image[..., 0:height:2, :width] + image[..., 1:height:2, :width]
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)


def _gaussian(image: Tensor) -> Tensor:
    """Separable Gaussian window, whole windows only: (..., H, W) -> (..., H - 10, W - 10).

    On the CPU by OpenCV, where no gradient is asked for; elsewhere as sums of shifted samples, which take
    a tenth of the time of two conv2d with one channel.
    """
    taps = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    if image.device.type == "cpu" and not image.requires_grad:
        return _gaussian_opencv(image, weights.numpy())
    return _gaussian_samples(image, weights.tolist())


def _gaussian_opencv(image: Tensor, weights: np.ndarray) -> Tensor:
    planes = image.reshape(-1, *image.shape[-2:]).numpy()
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    smooth = [cv2.sepFilter2D(plane, -1, weights, weights)[inside, inside] for plane in planes]
    stack = smooth[0] if len(smooth) == 1 else np.stack(smooth)
    return torch.from_numpy(stack).reshape(*image.shape[:-2], *smooth[0].shape)


def _gaussian_samples(image: Tensor, weights: Sequence[float]) -> Tensor:
    for dim in (-2, -1):
        length = image.shape[dim] - 2 * SSIM_RADIUS
        result = image.narrow(dim, SSIM_RADIUS, length) * weights[SSIM_RADIUS]
        for k in range(SSIM_RADIUS):
            pair = image.narrow(dim, k, length) + image.narrow(dim, 2 * SSIM_RADIUS - k, length)
            result = result.add_(pair, alpha=weights[k])
        image = result
    return image
