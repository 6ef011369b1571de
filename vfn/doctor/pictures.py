"""Pictures of the fields on the doctor's page."""

from collections.abc import Sequence

import cv2
import numpy as np

from vfn.doctor.case import Case
from vfn.doctor.findings import Finding
from vfn.doctor.measure import PlaneStats
from vfn.doctor.reading import FieldStats, Key
from vfn.doctor.tables import role, status
from vfn.errors import UserError
from vfn.evaluation.ranges import Range
from vfn.report.images import Panel, Strip, grey, scale_bar

PICTURES_OF_FIELD = 6
PICTURE = 320  # pixels, the longer side
DETAIL = 160  # pixels of the middle that the overlay shows


def field_pictures(
    case: Case, stats: FieldStats, findings: Sequence[Finding]
) -> tuple[Strip, list[str]]:
    """Return the planes of a field side by side, and a line for each plane that cannot be shown.

    Args:
        findings: on this field; a shifted channel is laid over the first input.
    """
    panels: list[Panel] = []
    there = [key for key in stats.keys if key in stats.planes]
    absent = [f"{case.names[k]}: {status(stats, k)}" for k in stats.keys if k not in there]
    pixels: dict[Key, np.ndarray] = {}
    pixel_size: float | None = None
    for key in there[:PICTURES_OF_FIELD]:
        plane = stats.entry.planes[key]
        try:
            pixels[key], pixel_size = plane.read(), pixel_size or plane.pixel_size
        except UserError as exc:  # it was there a moment ago
            absent.append(str(exc))
            continue
        picture = grey(pixels[key], _shown(stats.planes[key]), PICTURE)
        panels.append(Panel(f"{role(stats, key)}: {case.names[key]}", picture))
    reference = stats.reference
    shifted = {f.channel for f in findings if f.kind == "shift"}
    for key in pixels:
        if reference in pixels and case.names[key] in shifted:
            one, other = (_edges(pixels[k], stats.planes[k]) for k in (reference, key))
            title = f"middle, {case.names[reference]} magenta, {case.names[key]} green"
            twice = np.stack([one, other, one], axis=-1).repeat(2, axis=0).repeat(2, axis=1)
            panels.append(Panel(title, twice))
    width = next(iter(pixels.values())).shape[1] if pixels else 1
    return Strip(tuple(panels), *scale_bar(width, pixel_size)), absent


def _shown(stats: PlaneStats) -> Range:
    """Return the 0.1 to 99.9 percentile, or the whole range where that is nothing."""
    low, high = stats.quantiles[0], stats.quantiles[4]
    return Range(low, high) if high > low else Range(stats.low, stats.high)


def _edges(pixels: np.ndarray, stats: PlaneStats) -> np.ndarray:
    """Return the edges in the middle of a plane, uint8."""
    top, left = (max(0, (side - DETAIL) // 2) for side in pixels.shape)
    middle = grey(pixels[top : top + DETAIL, left : left + DETAIL], _shown(stats))
    smooth = cv2.GaussianBlur(middle.astype(np.float32), (0, 0), 1.0)
    edge = cv2.magnitude(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
    scaled = (edge / (float(np.quantile(edge, 0.99)) or 1.0)).clip(0, 1) * 255
    return scaled.round().astype(np.uint8)
