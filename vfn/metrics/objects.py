"""Nuclei and cells as objects: segmented in truth and prediction alike, matched, measured.

The segmentation is classical, with no trained weights and nothing to download. Cellpose (by way of
torchvision) and StarDist (by way of TensorFlow) would bring in packages that break or double what
is here, so neither is a dependency: `score_objects` takes label images of any program instead.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.measure import regionprops
from skimage.segmentation import expand_labels, watershed

from vfn.metrics.agreement import integrated_intensities
from vfn.metrics.matching import KINDS, THRESHOLDS, Found, Matching, list_faults, match

Image = NDArray[Any]
Labels = NDArray[np.int32]
ImageSource = NDArray[np.float32]

NUCLEAR_WORDS = frozenset(
    ("dna", "dapi", "hoechst", "nuclei", "nuclear", "nucleus", "h2b", "draq5")
)
# No nucleus of a cultured cell is smaller or larger: bounds of the estimate, micrometres.
DIAMETER_BOUNDS = (4.0, 40.0)
# Brightness above the ground, relative to the real nuclei, below which nothing is a nucleus. Otsu's
# threshold lies at 0.25 to 0.40 of it in the real fields that we tried.
FAINT = 0.1
# Otsu's two parts of white, correlated and log-normal noise lie 2.5 to 3.9 such units apart, those
# of real fields in focus 12.5 upwards, those of crowded fields 32 um out of focus 3.0 to 9.2.
_SEPARATION = 5.0
# Of the upper quartile of an object's brightness above the ground; the median would sink with haze.
_OUTLINE = 0.5
_SMALLEST = 0.1  # area of the smallest object, in squares of the diameter
_LAMELLA = 0.4  # of Otsu's threshold: the thin edge of a cell is far dimmer than its middle
_PEAK = 0.05  # height of a peak of the distance transform, in diameters


def is_nuclear(name: str) -> bool:
    """Return whether a channel's name says that it shows nuclei (`Hoechst 33342`, `w1_DNA`)."""
    return not NUCLEAR_WORDS.isdisjoint(re.split(r"[^a-z0-9]+", name.casefold()))


@dataclass(frozen=True)
class Scale:
    """Size and brightness of the nuclei of a field.

    Attributes:
        diameter: typical short diameter, pixels.
        contrast: typical brightness above the ground, grey levels.
    """

    diameter: float
    contrast: float


def measure_scale(image: Image, pixel_size: float | None = None) -> Scale | None:
    """Estimate the nuclei's size and brightness from the image (H, W) itself.

    The diameter is the median, weighted by diameter, of the inscribed circles of all bright bodies.

    Args:
        image: any dtype, finite.
        pixel_size: micrometres; where known, keeps the diameter within `DIAMETER_BOUNDS`.

    Returns:
        None where the image shows nothing that stands out of its ground.
    """
    smooth = _blur(image.astype(np.float32), 1.0)
    diameter = min(image.shape) / 12  # only the reach of the first ground
    for _ in range(2):
        above = smooth - _ground(smooth, diameter)
        threshold = _threshold(above)
        if threshold is None:
            return None
        bodies = above > threshold
        diameter = _clip_diameter(_inscribed(bodies), pixel_size)
        bodies &= _bodies(above, diameter)
        diameter = _clip_diameter(_inscribed(bodies), pixel_size)
    return Scale(diameter, float(np.median(above[bodies])) if bodies.any() else 0.0)


def segment_nuclei(
    image: Image, scale: Scale | None = None, pixel_size: float | None = None, floor: float = 0.0
) -> Labels:
    """Label the nuclei of an image (H, W): 0 is the ground, 1 to n the objects.

    Otsu's threshold on the square root of the brightness above the ground (an opening five
    diameters wide, so uneven light and out-of-focus haze do no harm) finds the bodies; touching ones
    are parted along furrows of brightness and at necks (watershed of the distance transform); each
    is then outlined where it falls to half of its own brightness, so that the outline depends
    neither on the gain nor on how bright the others are. Objects at the border are kept. Where the
    cell bodies are stained a third as brightly as the nuclei, parts of them may pass for nuclei.

    Args:
        image: any dtype, finite.
        scale: size and brightness to expect; measured from the image if not given.
        pixel_size: micrometres, for the measurement.
        floor: grey levels above the ground below which nothing is a nucleus.
    """
    scale = scale or measure_scale(image, pixel_size)
    nothing = np.zeros(image.shape, np.int32)
    if scale is None:
        return nothing
    diameter = scale.diameter
    smooth = _blur(image.astype(np.float32), max(0.7, diameter / 20))
    above = smooth - _ground(smooth, diameter)
    threshold = _threshold(above)
    if threshold is None:
        return nothing
    bright = above > max(threshold, floor)
    bodies = bright & _bodies(above, diameter)
    distance = _blur(_distance(bodies), diameter / 16)
    seeds = _components(_peaks(distance, _PEAK * diameter) & bodies)
    parts = _watershed(-distance, seeds, bright)
    return _outline(parts, bodies, above, _SMALLEST * diameter**2)


def segment_cells(nuclei: Labels, body: Image, max_distance: float | None = None) -> Labels:
    """Grow nuclei (H, W) into cells on a channel (H, W) that fills them; numbers are kept.

    Args:
        nuclei: labels; every nucleus lies within the cell of its number.
        body: RNA, endoplasmic reticulum, actin: any dtype, finite.
        max_distance: pixels that a cell reaches beyond its nucleus; one and a half times the median
            diameter of the nuclei if not given.

    Returns:
        Labels of the cells. Where the channel shows no bodies, everything within `max_distance`.
    """
    areas = np.bincount(nuclei.ravel())[1:]
    if not areas.any():
        return nuclei.copy()
    diameter = float(np.sqrt(4 / np.pi * np.median(areas[areas > 0])))
    distance = 1.5 * diameter if max_distance is None else max_distance
    reach: Labels = expand_labels(nuclei, distance)  # type: ignore[no-untyped-call]
    smooth = _blur(body.astype(np.float32), diameter / 16)
    # Cells may fill the field: the ground is one level, the darkest that there is.
    root = np.sqrt((smooth - np.percentile(smooth, 0.5)).clip(0))
    if root.max() <= root.min():
        return reach
    inside = (root**2 > _LAMELLA * _otsu(root) ** 2) | (nuclei > 0)
    return _watershed(-root, nuclei, inside & (reach > 0))


COLUMNS = (
    "nuclei_truth",
    "nuclei_predicted",
    "count_error",
    *(f"{figure}_{round(100 * t)}" for figure in ("f1", "ap") for t in THRESHOLDS),
    "mean_ap",
    "matched_iou",
    "outline_shift",
    *KINDS,
)


@dataclass(frozen=True)
class ObjectScores:
    """The nuclei of one field.

    Attributes:
        values: column of `COLUMNS` -> number; NaN where undefined.
        note: why values are NaN; empty if none is.
        found: objects that went wrong, with their places.
        truth_intensity: (n,), integrated intensity of every real nucleus above the local ground.
        prediction_intensity: (n,), of the prediction over the same pixels.
        truth_labels: (H, W).
    """

    values: dict[str, float]
    note: str
    found: tuple[Found, ...]
    truth_intensity: NDArray[np.float64] = field(repr=False)
    prediction_intensity: NDArray[np.float64] = field(repr=False)
    truth_labels: NDArray[np.integer] = field(repr=False)


def score_objects(
    truth: Image,
    prediction: Image,
    pixel_size: float | None = None,
    signal_width: float = 0.0,
    labels: tuple[NDArray[np.integer], NDArray[np.integer]] | None = None,
) -> ObjectScores:
    """Segment, match and measure the nuclei of a predicted field (H, W) against the real one (H, W).

    Size is measured in the truth and used for both. Each image has its own threshold, since a wrong
    gain or offset is no missing nucleus; but what is fainter than `FAINT` times the real nuclei is
    none in either, so that an empty prediction does not turn its noise into objects.

    Args:
        truth: a nuclear stain, any dtype, finite.
        prediction: of the same shape.
        pixel_size: micrometres, where known.
        signal_width: width of the channel's signal range, grey levels: stands for the brightness of
            nuclei in a field that has none.
        labels: of truth and prediction, if another program has segmented them.

    Raises:
        ValueError: labels that are not two integer images of the shape of the field.
    """
    scale = measure_scale(truth, pixel_size)
    floor = FAINT * (scale.contrast if scale else signal_width)
    real = labels[0] if labels else segment_nuclei(truth, scale, pixel_size, floor)
    bad = int(prediction.size - np.isfinite(prediction).sum())
    if bad:
        note = f"prediction has {bad} pixels that are NaN or infinite: no nuclei are sought in it"
        undefined = np.full(np.unique(real[real > 0]).size, math.nan)
        return ObjectScores(dict.fromkeys(COLUMNS, math.nan), note, (), undefined, undefined, real)
    drawn = labels[1] if labels else segment_nuclei(prediction, scale, pixel_size, floor)
    matching = match(real, drawn)
    found = list_faults(matching, truth, prediction)
    ground = _ground(truth.astype(np.float32), scale.diameter) if scale else None
    intensities = integrated_intensities(real, truth, prediction, ground)
    notes = []
    if not len(matching.truth.numbers):
        notes.append("no nuclei in the ground truth: f1, ap and count_error undefined")
    if not len(matching.pairs):
        notes.append("no nucleus is matched: matched_iou, outline_shift undefined")
    return ObjectScores(_values(matching, found), "; ".join(notes), found, *intensities, real)


def _values(matching: Matching, found: tuple[Found, ...]) -> dict[str, float]:
    kinds: Counter[str] = Counter(fault.kind for fault in found)
    real = len(matching.truth.numbers)
    some = 1.0 if real else math.nan
    values: dict[str, float] = {
        "nuclei_truth": real,
        "nuclei_predicted": len(matching.prediction.numbers),
        "count_error": matching.count_error,
        "mean_ap": some * matching.mean_ap,
        "matched_iou": matching.mean_iou,
        "outline_shift": matching.outline_shift,
        **{kind: kinds[kind] for kind in KINDS},
    }
    for score in matching.scores:
        percent = round(100 * score.threshold)
        values |= {f"f1_{percent}": some * score.f1, f"ap_{percent}": some * score.ap}
    return {name: float(values[name]) for name in COLUMNS}


def _blur(image: ImageSource, sigma: float) -> ImageSource:
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32)


def _watershed(landscape: ImageSource, seeds: Labels, mask: NDArray[np.bool_]) -> Labels:
    return np.asarray(watershed(landscape, seeds, mask=mask), np.int32)  # type: ignore[no-untyped-call]


def _otsu(image: ImageSource) -> float:
    return float(threshold_otsu(image))  # type: ignore[no-untyped-call]


def _components(mask: NDArray[np.bool_], connectivity: int = 8) -> Labels:
    return np.asarray(cv2.connectedComponents(mask.view(np.uint8), connectivity=connectivity)[1])


def _coarse(image: ImageSource, step: int) -> ImageSource:
    """Means of squares of `step` pixels."""
    height, width = image.shape
    padded = np.pad(image, ((0, -height % step), (0, -width % step)), "edge")
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    return np.asarray(padded.reshape(rows, step, columns, step).mean(axis=(1, 3)), np.float32)


def _fine(coarse: ImageSource, step: int, shape: tuple[int, ...]) -> ImageSource:
    size = (coarse.shape[1] * step, coarse.shape[0] * step)
    fine = np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR), np.float32)
    return fine[: shape[0], : shape[1]]


def _ground(image: ImageSource, diameter: float) -> ImageSource:
    """Smooth dark level: an opening five diameters wide on a coarse grid."""
    step = max(1, round(diameter / 6))
    width = round(5 * diameter / step) | 1
    square = np.ones((width, width), np.uint8)
    low = np.asarray(cv2.morphologyEx(_coarse(image, step), cv2.MORPH_OPEN, square), np.float32)
    return _fine(_blur(low, width / 4), step, image.shape)


def _threshold(above: ImageSource) -> float | None:
    """Otsu's threshold of the square roots; None where the bright part is only the noise's.

    The root weighs dim and bright nuclei more evenly, and no gain moves what it selects.
    """
    root = np.sqrt(above.clip(0))
    if root.max() <= root.min():
        return None
    threshold = _otsu(root) ** 2
    low, high = above[above <= threshold], above[above > threshold]
    middle = np.median(low)
    noise = 1.4826 * np.median(np.abs(low - middle))
    return threshold if np.median(high) - middle >= _SEPARATION * noise else None


def _bodies(above: ImageSource, diameter: float) -> NDArray[np.bool_]:
    """Pixels in the body of a nucleus: not in a furrow between two, nor on the haze around one."""
    root = np.sqrt(above.clip(0))
    bulges = _blur(root, diameter / 6) > _blur(root, diameter / 6 * 2**0.5)
    # The middle of a large nucleus is flat, but bright.
    step = max(1, round(diameter / 6))
    square = np.ones((round(diameter / step) | 1,) * 2, np.uint8)
    peak = np.asarray(cv2.dilate(_coarse(above, step), square), np.float32)
    peak = _fine(_blur(peak, len(square) / 3), step, above.shape)
    return bulges | (above > 0.5 * peak)


def _distance(mask: NDArray[np.bool_]) -> ImageSource:
    binary = mask.view(np.uint8)
    return np.asarray(cv2.distanceTransform(binary, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _inscribed(mask: NDArray[np.bool_]) -> float:
    """Median diameter of the circles within the bodies; pixels.

    Weighted by diameter: debris counts little, and one giant does not speak for all.
    """
    distance = _distance(mask)
    smooth = _blur(distance, 1.5)
    peaks = (smooth == cv2.dilate(smooth, np.ones((7, 7), np.uint8))) & (distance >= 2)
    radii = np.sort(distance[peaks])
    if not radii.size:
        return 4.0
    weight = np.cumsum(radii)
    return 2 * float(radii[np.searchsorted(weight, weight[-1] / 2)])


def _clip_diameter(diameter: float, pixel_size: float | None) -> float:
    if pixel_size is None:
        return diameter
    low, high = DIAMETER_BOUNDS
    return min(max(diameter, low / pixel_size), high / pixel_size)


def _peaks(image: ImageSource, height: float) -> NDArray[np.bool_]:
    """Tops that stand `height` above the highest pass to a higher one (h-maxima), image >= 0."""
    filled = np.maximum(image - height, 0)
    square = np.ones((3, 3), np.uint8)
    while True:  # OpenCV's dilation makes this many times faster than scikit-image's reconstruction
        wider = np.minimum(cv2.dilate(filled, square), image)
        if np.array_equal(wider, filled):
            return image - filled >= 0.999 * height
        filled = wider


def _outline(
    parts: Labels, bodies: NDArray[np.bool_], above: ImageSource, smallest: float
) -> Labels:
    labels = np.zeros(parts.shape, np.int32)
    count = 0
    for part in regionprops(parts):  # type: ignore[no-untyped-call]
        window, own = part.slice, part.image
        level = np.percentile(above[window][own & bodies[window]], 75)
        pieces = _components(own & (above[window] >= _OUTLINE * level), connectivity=4)
        largest = 1 + np.argmax(np.bincount(pieces.ravel())[1:])
        kept = _filled(pieces == largest)
        if kept.sum() >= smallest:
            count += 1
            labels[window][kept] = count
    return labels


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its holes."""
    outside = _components(np.pad(~mask, 1, constant_values=True), connectivity=4)
    return np.asarray(outside != outside[0, 0])[1:-1, 1:-1]
