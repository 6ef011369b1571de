"""Pictures of the fields on the doctor's page."""

from collections.abc import Sequence

import cv2
import numpy as np

from vfn.data.discovery import Field, ImageSource
from vfn.doctor.case import Case
from vfn.doctor.findings import Finding
from vfn.doctor.measure import PlaneStats
from vfn.doctor.reading import FieldStats, Key
from vfn.doctor.tables import role, status
from vfn.errors import UserError
from vfn.report.images import Panel, Strip, scale_bar

PICTURES_OF_FIELD = 6
PICTURE = 320  # pixels, the longer side
DETAIL = 160  # pixels of the middle that the overlay shows


def field_pictures(
    case: Case, stats: FieldStats, entry: Field, findings: Sequence[Finding]
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
        plane: ImageSource = entry.planes[key]
        try:
            pixels[key], pixel_size = plane.read(), pixel_size or plane.pixel_size
        except UserError as exc:  # it was there a moment ago
            absent.append(str(exc))
            continue
        picture = grey(pixels[key], stats.planes[key])
        panels.append(Panel(f"{role(stats, key)}: {case.names[key]}", shrink(picture)))
    reference = min(stats.inputs, key=lambda k: abs(k[1]))
    shifted = {f.channel for f in findings if f.kind == "shift"}
    for key in pixels:
        if reference in pixels and case.names[key] in shifted:
            two = [grey(pixels[k], stats.planes[k]) for k in (reference, key)]
            title = f"middle, {case.names[reference]} magenta, {case.names[key]} green"
            panels.append(Panel(title, overlay(*two)))
    width = next(iter(pixels.values())).shape[1] if pixels else 1
    return Strip(tuple(panels), *scale_bar(width, pixel_size)), absent


def grey(pixels: np.ndarray, stats: PlaneStats) -> np.ndarray:
    """(H, W) uint8: the 0.1 to 99.9 percentile stretched, or the range where that is nothing."""
    low, high = stats.quantiles[0], stats.quantiles[4]
    low, high = (low, high) if high > low else (stats.low, stats.high)
    scaled = (pixels.astype(np.float32) - low) / ((high - low) or 1.0)
    return np.asarray((scaled.clip(0, 1) * 255).round(), np.uint8)


def shrink(picture: np.ndarray) -> np.ndarray:
    """Longer side `PICTURE`, never enlarged."""
    height, width = picture.shape[:2]
    factor = min(1.0, PICTURE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def overlay(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Edges of two pictures in magenta and green, the middle of the field, twice enlarged, (H, W, 3)."""
    top, left = (max(0, (side - DETAIL) // 2) for side in one.shape)
    cut = [p[top : top + DETAIL, left : left + DETAIL].astype(np.float32) for p in (one, other)]
    edges = []
    for picture in cut:
        smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
        edge = cv2.magnitude(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
        edges.append((edge / (float(np.quantile(edge, 0.99)) or 1.0)).clip(0, 1) * 255)
    rgb = np.stack([edges[0], edges[1], edges[0]], axis=-1).round().astype(np.uint8)
    return np.asarray(cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))
