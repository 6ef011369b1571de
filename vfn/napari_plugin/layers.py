"""Appearance of channels in napari: colour map, contrast limits, scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vfn.data.discovery.tokens import split_token
from vfn.evaluation.pairs import HALFWIDTH

KEY = "vfn"  # of what a layer's `metadata` says about its prediction
UNIT = "um"
PERCENTILES = (0.1, 99.9)
SAMPLED = 2**20  # pixels that percentiles are taken of, at least
WIDTHS = "inferno"  # of half-widths: no stain, so no stain's colour
# The usual colours of the Cell Painting channels and of the paper's; the first word found in the
# channel's name counts. "bop blue" is a blue that the eye sees on black.
COLORMAPS = {
    "golgi": "bop orange", "agp": "bop orange", "membrane": "bop orange",
    "dapi": "bop blue", "dna": "bop blue", "hoechst": "bop blue", "nuclei": "bop blue",
    "nuclear": "bop blue", "nucleus": "bop blue",
    "actin": "green", "phalloidin": "green", "er": "green", "gfp": "green",
    "rna": "yellow", "nucleoli": "yellow", "mito": "red", "mitochondria": "red",
    "vinculin": "magenta", "tubulin": "cyan",
    "phase": "gray", "brightfield": "gray", "bf": "gray", "dic": "gray",
}  # fmt: skip
OTHERS = ("green", "magenta", "yellow", "cyan", "red")  # by position, for names that say nothing


def is_halfwidth(channel: str) -> bool:
    """Return True if the channel holds half-widths of intervals."""
    return HALFWIDTH.fullmatch(channel) is not None


def colormap(channel: str, position: int = 0) -> str:
    """Return the napari colour map of a channel, the `position`-th (from 0) of its file."""
    if is_halfwidth(channel):
        return WIDTHS
    named = (cmap for word, cmap in COLORMAPS.items() if split_token(channel, word) is not None)
    return next(named, OTHERS[position % len(OTHERS)])


def contrast_limits(pixels: np.ndarray) -> tuple[float, float]:
    """Return the contrast limits, the `PERCENTILES` of (..., H, W) `pixels`."""
    step = max(1, int((pixels.size / SAMPLED) ** 0.5))
    low, high = np.percentile(pixels[..., ::step, ::step], PERCENTILES)
    return float(low), float(high if high > low else low + 1)  # napari wants a range


def options(channels: Sequence[str], array: np.ndarray) -> list[dict[str, Any]]:
    """Return the keywords of napari's `add_image` for each channel of `array` (C, ..., H, W).

    Stains add up on a black screen; half-widths wait until they are switched on.
    """
    return [
        {
            "colormap": colormap(channel, position),
            "contrast_limits": contrast_limits(pixels),
            "blending": "additive",
            "visible": not is_halfwidth(channel),
        }
        for position, (channel, pixels) in enumerate(zip(channels, array, strict=True))
    ]


def scale(pixel_size: float | None) -> Mapping[str, Any]:
    """Return the keywords that scale an image (H, W) to micrometres, if its pixel size is known."""
    return {} if pixel_size is None else {"scale": (pixel_size,) * 2, "units": (UNIT,) * 2}
