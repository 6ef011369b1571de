"""Nuclei and cells as objects: segmentation, truth and prediction alike."""

import re
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import expand_labels, watershed

Image = NDArray[Any]
Labels = NDArray[np.int32]
Plane = NDArray[np.float32]

NUCLEAR_WORDS = frozenset(
    ("dna", "dapi", "hoechst", "nuclei", "nuclear", "nucleus", "h2b", "draq5")
)
# No nucleus of a cultured cell is smaller or larger: bounds of the estimate, micrometres.
DIAMETER_BOUNDS = (4.0, 40.0)
# Objects in pure noise reach 2.3 of these units, the flattest real field that we tried 8.
_SEPARATION = 5.0
_OUTLINE = 0.5  # of an object's own brightness above the ground
_SMALLEST = 0.1  # area of the smallest object, in squares of the diameter
_VALLEY = 0.02  # relative depth of the furrow that parts two nuclei
_LAMELLA = 0.4  # of Otsu's threshold: the thin edge of a cell is far dimmer than its middle
_PEAK = 0.05  # height of a peak of the distance transform, in diameters


def is_nuclear(name: str) -> bool:
    """Whether a channel's name says that it shows nuclei (`Hoechst 33342`, `w1_DNA`)."""
    return not NUCLEAR_WORDS.isdisjoint(re.split(r"[^a-z0-9]+", name.casefold()))


@dataclass(frozen=True)
class Scale:
    """What nuclei of a field look like.

    Attributes:
        diameter: typical short diameter, pixels.
        contrast: typical brightness above the ground, grey levels.
    """

    diameter: float
    contrast: float


def measure_scale(image: Image, pixel_size: float | None = None) -> Scale | None:
    """Estimate the nuclei's size and brightness from the image (H, W) itself.

    The diameter is the median, weighted by area, of the inscribed circles of all bright bodies.

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
    neither on the gain nor on how bright the others are. Objects at the border are kept.

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
    bodies = _open(bright & _bodies(above, diameter), int(diameter / 12))
    distance = _blur(_distance(bodies), diameter / 16)
    seeds, _ = ndimage.label(_peaks(distance, _PEAK * diameter) & bodies, np.ones((3, 3)))
    parts = watershed(-distance, seeds, mask=bright)
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
    reach = expand_labels(nuclei, 1.5 * diameter if max_distance is None else max_distance)
    smooth = _blur(body.astype(np.float32), diameter / 16)
    # Cells may fill the field: the ground is one level, the darkest that there is.
    root = np.sqrt((smooth - np.percentile(smooth, 0.5)).clip(0))
    if root.max() <= root.min():
        return reach.astype(np.int32)
    inside = (root**2 > _LAMELLA * threshold_otsu(root) ** 2) | (nuclei > 0)
    cells = watershed(-root, nuclei, mask=inside & (reach > 0))
    return cells.astype(np.int32)


def _blur(image: Plane, sigma: float) -> Plane:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def _coarse(image: Plane, step: int) -> Plane:
    """Means of squares of `step` pixels."""
    height, width = image.shape
    padded = np.pad(image, ((0, -height % step), (0, -width % step)), "edge")
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    return padded.reshape(rows, step, columns, step).mean(axis=(1, 3))


def _fine(coarse: Plane, step: int, shape: tuple[int, ...]) -> Plane:
    size = (coarse.shape[1] * step, coarse.shape[0] * step)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)[: shape[0], : shape[1]]


def _ground(image: Plane, diameter: float) -> Plane:
    """Smooth dark level: an opening five diameters wide on a coarse grid."""
    step = max(1, round(diameter / 6))
    width = round(5 * diameter / step) | 1
    low = ndimage.grey_opening(_coarse(image, step), (width, width), mode="nearest")
    return _fine(_blur(low, width / 4), step, image.shape)


def _threshold(above: Plane) -> float | None:
    """Otsu's threshold of the square roots; None where the bright part is only the noise's.

    The root weighs dim and bright nuclei more evenly, and no gain moves what it selects.
    """
    root = np.sqrt(above.clip(0))
    if root.max() <= root.min():
        return None
    threshold = float(threshold_otsu(root)) ** 2
    low, high = above[above <= threshold], above[above > threshold]
    middle = np.median(low)
    noise = 1.4826 * np.median(np.abs(low - middle))
    return threshold if np.median(high) - middle >= _SEPARATION * noise else None


def _bodies(above: Plane, diameter: float) -> NDArray[np.bool_]:
    """Pixels in the body of a nucleus: not in a furrow between two, nor on the haze around one."""
    root = np.sqrt(above.clip(0))
    near = _blur(root, diameter / 6)
    bulge = near - _blur(root, diameter / 6 * 2**0.5)
    step = max(1, round(diameter / 6))
    width = round(diameter / step) | 1
    peak = ndimage.grey_dilation(_coarse(above, step), (width, width), mode="nearest")
    # The middle of a large nucleus is flat, but bright.
    bright = above > 0.5 * _fine(_blur(peak, width / 3), step, above.shape)
    return (bulge > -_VALLEY * near) & ((bulge > 0) | bright)


def _open(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    size = 2 * max(1, radius) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disk).astype(bool)


def _distance(mask: NDArray[np.bool_]) -> Plane:
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _inscribed(mask: NDArray[np.bool_]) -> float:
    """Median diameter of the largest circles within the bodies, weighted by their area; pixels."""
    distance = _distance(mask)
    smooth = _blur(distance, 1.5)
    peaks = (smooth == cv2.dilate(smooth, np.ones((7, 7), np.uint8))) & (distance >= 2)
    radii = np.sort(distance[peaks])
    if not radii.size:
        return 4.0
    area = np.cumsum(radii**2)
    return 2 * float(radii[np.searchsorted(area, area[-1] / 2)])


def _clip_diameter(diameter: float, pixel_size: float | None) -> float:
    if pixel_size is None:
        return diameter
    low, high = DIAMETER_BOUNDS
    return min(max(diameter, low / pixel_size), high / pixel_size)


def _peaks(image: Plane, height: float) -> NDArray[np.bool_]:
    """Tops that stand `height` above the highest pass to a higher one (h-maxima), image >= 0."""
    filled = np.maximum(image - height, 0)
    square = np.ones((3, 3), np.uint8)
    while True:  # OpenCV's dilation makes this many times faster than scikit-image's reconstruction
        wider = np.minimum(cv2.dilate(filled, square), image)
        if np.array_equal(wider, filled):
            return image - filled >= 0.999 * height
        filled = wider


def _outline(parts: Labels, bodies: NDArray[np.bool_], above: Plane, smallest: float) -> Labels:
    labels = np.zeros(parts.shape, np.int32)
    count = 0
    for number, window in enumerate(ndimage.find_objects(parts), 1):
        own = parts[window] == number
        level = np.median(above[window][own & bodies[window]])
        kept = own & (above[window] >= _OUTLINE * level)
        pieces, several = ndimage.label(kept)
        if several > 1:
            kept = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
        kept = ndimage.binary_fill_holes(kept)
        if kept.sum() >= smallest:
            count += 1
            labels[window][kept] = count
    return labels
