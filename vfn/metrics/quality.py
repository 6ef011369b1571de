"""No-reference quality of one image: PIQE and BRISQUE, for both of which lower is better.

Both were made for photographs of 8 bits. Their one input here is the *display*: grey values mapped
linearly from (low, high), the signal range of the ground truth's channel, to [0, 255], clipped and
rounded to whole numbers (`to_display`). Truth, prediction and input of a channel are mapped by the
same range, since both scores change with contrast. docs/trust.md says what they tell of
fluorescence, and what not.

PIQE (Venkatanath et al., "Blind image quality evaluation using perception based features", NCC
2015): the mean over blocks of 16x16 with structure of how much each is spoilt by artefacts or
noise, 0 to 100. Written afresh. Where the paper leaves details open, or they differ, this follows
MATLAB's `piqe` as ported by pypiqe 1.2 (MIT), so that scores compare with published ones: the image
is padded by reflection to whole blocks; of the surround of a block's two central columns (7 and 8,
from 0) columns 7 and 9 are left out, not 7 and 8. One difference: pypiqe stretches each image to its
own maximum, which would hide a wrong gain.

BRISQUE (Mittal, Moorthy and Bovik, "No-reference image quality assessment in the spatial domain",
IEEE TIP 21(12), 2012): 36 statistics of locally normalised pixels and of products of neighbours, at
two scales, judged by a support vector regression that was trained on photographs of the LIVE
database. About 0 to 100; neither end is a limit. The regression (770 support vectors) is the one
that the Python package brisque 0.2.0 carries, `brisque_svm.npz`, made by `bench/brisque_model.py`.
It is not that of the MATLAB release (774 support vectors), and fits other features: half size by
OpenCV's bicubic without low-pass filter (the features of noisy photographs then lie at a distance
of 0.37 from the nearest support vector, with MATLAB's filter at 1.48; medians of 48), an asymmetric
fit of the normalised pixels too, zeros beyond the border. Scores of MATLAB's `brisque` therefore
differ. Products of exactly zero count for neither side, as in Mittal's code; the package counts
them as positive, which moves images with clipped black or white areas by some points.

Licences: brisque 0.2.0 and with it the model file is under Apache-2.0 (Copyright 2024 Rehan Guha;
its LICENSE names no other terms for the model, and it has no NOTICE). The method and its training
are the LIVE laboratory's (The University of Texas at Austin), whose release, by its readme, may be
used, copied, changed and passed on for any purpose if its copyright notice goes along and
publications cite it; the package does not repeat that notice, we do. Both stand in
`brisque_svm.NOTICE` beside this file. No code of these programs is used.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.special import gamma

Image = NDArray[np.float64]

WINDOW, SIGMA = (7, 7), 7 / 6  # Gaussian window of the local mean and deviation, in both scores
BLOCK = 16  # PIQE's blocks; smaller images have neither score
SEGMENT = 6  # pixels of a block's edge that are looked at together
ACTIVE = 0.1  # variance above which a block has structure
IMPAIRED = 0.1  # standard deviation below which a segment of the edge is an artefact
WORST = 100.0  # PIQE's upper end
BRISQUE_MODEL = Path(__file__).with_name("brisque_svm.npz")
NOTHING = 1e-10  # what rounding leaves of a normalised pixel of a flat area


class Quality(NamedTuple):
    """Both scores of one image; lower is better.

    Attributes:
        piqe: 0 to 100, NaN where undefined.
        brisque: about 0 to 100, NaN where undefined.
        note: why a score is NaN, or PIQE exactly 100; empty if neither is.
    """

    piqe: float
    brisque: float
    note: str = ""


def quality(image: NDArray[Any], low: float, high: float) -> Quality:
    """PIQE and BRISQUE of an image (H, W) of any dtype, seen on the intensity range (low, high)."""
    bad = image.size - int(np.isfinite(image).sum())
    if bad:
        return _undefined(f"{bad} pixels are NaN or infinite")
    if not high > low:
        return _undefined("the signal range is empty")
    display = to_display(image, low, high)
    if reason := _unfit(display):
        return _undefined(reason)
    scores = piqe(display), brisque(display)
    reasons = []
    if scores[0] == WORST:
        reasons.append(
            f"piqe is at its worst: no block of {BLOCK}x{BLOCK} pixels has structure, or all are spoilt"
        )
    if math.isnan(scores[1]):
        reasons.append("products of neighbouring pixels have but one sign: brisque undefined")
    return Quality(*scores, "; ".join(reasons))


def to_display(image: NDArray[Any], low: float, high: float) -> Image:
    """Grey values from (low, high) to whole numbers 0 to 255, clipped: any dtype -> float64.

    Rounded, because the photographs that BRISQUE learnt from were, and PIQE rounds them itself.
    """
    if not high > low:
        raise ValueError(f"expected a range of some width, got {low} to {high}")
    return np.rint(np.clip((image.astype(np.float64) - low) * (255.0 / (high - low)), 0.0, 255.0))


def piqe(display: NDArray[Any]) -> float:
    """PIQE of a display (H, W), grey values 0 to 255: 0 (best) to 100, as where nothing has structure.

    NaN for images that are constant, below 16x16 or not finite.
    """
    if _unfit(display):
        return math.nan
    blocks, variance = structured_blocks(display)
    # Artefacts: a flat stretch on one of the four edges, as compression leaves it.
    edges = np.stack([blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]], axis=1)
    segments = sliding_window_view(edges, SEGMENT, axis=-1)  # (blocks, 4, 11, 6)
    impaired = (segments.std(axis=-1, ddof=1) < IMPAIRED).any(axis=(1, 2))
    # Noise: centre and surround of the block vary alike.
    middle = BLOCK // 2
    centre = blocks[:, :, middle - 1 : middle + 1].std(axis=(1, 2), ddof=1)
    surround = np.delete(blocks, (middle - 1, middle + 1), axis=2).std(axis=(1, 2), ddof=1)
    ratio = np.divide(centre, surround, out=np.zeros_like(centre), where=surround > 0)
    deviation = np.sqrt(variance)
    noisy = deviation > 2 * np.abs(deviation - ratio) / np.maximum(deviation, ratio)
    spoilt = impaired * (1 - variance) + noisy * variance
    return float(WORST * (spoilt.sum() + 1) / (len(blocks) + 1))


def structured_blocks(display: NDArray[Any]) -> tuple[Image, Image]:
    """The blocks that PIQE judges, normalised (N, 16, 16), and their variances (N,)."""
    padding = [(0, -size % BLOCK) for size in display.shape]
    padded = np.pad(display.astype(np.float64), padding, mode="symmetric")
    rows, columns = (size // BLOCK for size in padded.shape)
    blocks = (
        _normalised(padded, cv2.BORDER_REPLICATE)
        .reshape(rows, BLOCK, columns, BLOCK)
        .swapaxes(1, 2)
        .reshape(-1, BLOCK, BLOCK)
    )
    variance = blocks.var(axis=(1, 2), ddof=1)
    active = variance > ACTIVE
    return blocks[active], variance[active]


def brisque(display: NDArray[Any]) -> float:
    """BRISQUE of a display (H, W), grey values 0 to 255: about 0 (best) to 100.

    NaN for images that are constant, below 16x16 or not finite.
    """
    if _unfit(display):
        return math.nan
    return support_vector_score(brisque_features(display))


def brisque_features(display: NDArray[Any]) -> Image:
    """The 36 statistics that BRISQUE judges: (H, W), grey values 0 to 255 -> (36,).

    At full and then at half size: shape and variance of the normalised pixels; then shape, mean,
    left and right variance of the products of neighbours to the right, below, and along both
    diagonals. NaN where no product is negative, or none positive.
    """
    image: NDArray[Any] = display.astype(np.float64)
    features: list[float] = []
    for _ in range(2):
        x = _normalised(image, cv2.BORDER_CONSTANT)
        x[np.abs(x) < NOTHING] = 0.0
        shape, _, left, right = _fit_generalised_gaussian(x)
        features += [shape, (left + right) / 2]
        for first, second in (
            (x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:-1, :-1], x[1:, 1:]), (x[1:, :-1], x[:-1, 1:]),
        ):  # fmt: skip
            features += _fit_generalised_gaussian(first * second)
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    return np.array(features)


def support_vector_score(features: Image) -> float:
    """The published regression's judgement of the 36 statistics (36,)."""
    model = _model()
    low, high = model["low"], model["high"]
    scaled = 2 * (features - low) / (high - low) - 1
    distances = np.square(model["support_vectors"] - scaled).sum(axis=1)
    return float(model["coefficients"] @ np.exp(-model["gamma"] * distances) - model["rho"])


@cache
def _model() -> dict[str, NDArray[np.float64]]:
    with np.load(BRISQUE_MODEL) as stored:
        return dict(stored)


@cache
def _shapes() -> tuple[Image, Image]:
    """Shapes of a generalised Gaussian, and E[|x|]^2 / E[x^2] of each, which rises with them."""
    shapes = np.arange(200, 10001) / 1000
    return shapes, gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))


def _fit_generalised_gaussian(x: Image) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of the asymmetric generalised Gaussian by its moments.

    Lasmar, Stitou and Berthoumieu, ICIP 2009. The shape ends at 0.2 and at 10, as in Mittal's code.
    """
    negative = np.minimum(x, 0.0)
    n_left, n_right = np.count_nonzero(negative), np.count_nonzero(x > 0)
    if not (n_left and n_right):
        return (math.nan,) * 4
    # Not `x @ x`: BLAS would share this out among threads that wait for each other.
    squares, left_squares = (float(np.einsum("ij,ij->", y, y)) for y in (x, negative))
    left, right = left_squares / n_left, (squares - left_squares) / n_right
    skew = math.sqrt(left / right)
    mean_magnitude = (float(x.sum()) - 2 * float(negative.sum())) / x.size
    ratio = mean_magnitude**2 / (squares / x.size)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios = _shapes()
    shape = float(np.interp(ratio, ratios, shapes))
    g1, g2, g3 = (float(gamma(k / shape)) for k in (1, 2, 3))
    mean = (math.sqrt(right) - math.sqrt(left)) * g2 / math.sqrt(g1 * g3)
    return shape, mean, left, right


def _normalised(image: NDArray[Any], border: int) -> Image:
    """Pixels less their local mean, over their local deviation + 1: (H, W) -> (H, W)."""
    mean = cv2.GaussianBlur(image, WINDOW, SIGMA, borderType=border)
    square = cv2.GaussianBlur(image * image, WINDOW, SIGMA, borderType=border)
    return (image - mean) / (np.sqrt(np.abs(square - mean * mean)) + 1)


def _unfit(display: NDArray[Any]) -> str:
    """The reason why a display has no score at all; empty if it may have one."""
    if display.ndim != 2:
        raise ValueError(f"expected an image (H, W), got {display.shape}")
    if min(display.shape) < BLOCK:
        return f"smaller than {BLOCK}x{BLOCK} pixels"
    low, high = float(display.min()), float(display.max())
    if not math.isfinite(high - low):
        return "pixels are NaN or infinite"
    if low == high:
        return "constant on the signal range"
    return ""


def _undefined(reason: str) -> Quality:
    return Quality(math.nan, math.nan, f"{reason}: piqe and brisque undefined")
