"""Pictures of one field: input, truth, prediction, error, small enough to embed in a page."""

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray
from PIL import Image as PillowImage

from vfn.metrics.pairs import FieldPair
from vfn.metrics.ranges import Range
from vfn.report.results import ChannelResult

Pixels = NDArray[np.uint8]

LONGEST_SIDE = 480  # pixels of an embedded picture of a whole field
DETAIL_SIDE = 256  # pixels of a detail, embedded one to one
WEBP_QUALITY = 78
# Black in the middle as fluorescence is: blue where signal was lost, red where it was invented.
ERROR_COLOURS = LinearSegmentedColormap.from_list(
    "lost-invented", ["#b5e8ff", "#2f95ff", "#000000", "#ff4a26", "#ffdca8"]
)


@dataclass(frozen=True)
class Panel:
    """One picture: what it shows and its pixels, (h, w) grey or (h, w, 3)."""

    title: str
    pixels: Pixels

    def data_uri(self) -> str:
        """The picture as WebP in a `data:` address."""
        buffer = io.BytesIO()
        PillowImage.fromarray(self.pixels).save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
        return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Strip:
    """Pictures of one region side by side, with the length that a scale bar stands for.

    Attributes:
        panels: inputs, truth, prediction, error.
        bar_um: length of the scale bar in micrometres, None without a pixel size.
        bar_share: the same as a fraction of the picture's width.
    """

    panels: tuple[Panel, ...]
    bar_um: float | None
    bar_share: float


def field_strip(pair: FieldPair, result: ChannelResult) -> Strip:
    """The whole field, reduced to `LONGEST_SIDE`."""
    return _strip(pair, result, (slice(None), slice(None)))


def worst_region(pair: FieldPair, channel: str) -> tuple[slice, slice] | None:
    """The square of `DETAIL_SIDE` with the largest mean error; None for fields shown 1:1 anyway."""
    index = pair.channels.index(channel)
    height, width = pair.truth.shape[1:]
    if max(height, width) <= LONGEST_SIDE or min(height, width) < DETAIL_SIDE:
        return None
    error = np.abs(pair.prediction[index].astype(float) - pair.truth[index].astype(float))
    # Summed areas: the sum over every square from four corners.
    corner = np.pad(np.nan_to_num(error).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    side = DETAIL_SIDE
    sums = corner[side:, side:] - corner[:-side, side:] - corner[side:, :-side]
    sums += corner[:-side, :-side]
    top, left = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return slice(int(top), int(top) + DETAIL_SIDE), slice(int(left), int(left) + DETAIL_SIDE)


def detail_strip(pair: FieldPair, result: ChannelResult, region: tuple[slice, slice]) -> Strip:
    """A region of the field, pixel by pixel."""
    return _strip(pair, result, region)


def _strip(pair: FieldPair, result: ChannelResult, region: tuple[slice, slice]) -> Strip:
    index = pair.channels.index(result.name)
    truth = pair.truth[index].astype(np.float32)
    prediction = pair.prediction[index].astype(np.float32)
    shown = Range(result.ranges.signal.low, result.ranges.signal.low + result.signal_width)
    panels = []
    if pair.inputs is not None:
        names = pair.input_channels or tuple(f"input {i + 1}" for i in range(len(pair.inputs)))
        for name, plane in zip(names, pair.inputs, strict=True):
            own = Range(*(float(q) for q in np.percentile(plane, (0.1, 99.9))))
            panels.append(Panel(f"input: {name}", _grey(plane[region], own)))
    panels.append(Panel("truth", _grey(truth[region], shown)))
    panels.append(Panel("prediction", _grey(prediction[region], shown)))
    limit = result.error_scale * result.signal_width
    panels.append(Panel("error", _error((prediction - truth)[region], limit)))
    bar_um, share = scale_bar(truth[region].shape[1], pair.pixel_size)
    return Strip(tuple(panels), bar_um, share)


def _grey(image: NDArray[Any], shown: Range) -> Pixels:
    scaled = (_shrink(image) - shown.low) / (shown.width or 1.0)
    pixels: Pixels = (np.nan_to_num(scaled).clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


def _error(error: NDArray[np.float32], limit: float) -> Pixels:
    rgba = ERROR_COLOURS(np.nan_to_num(_shrink(error) / (2 * limit) + 0.5).clip(0, 1), bytes=True)
    pixels: Pixels = np.ascontiguousarray(rgba[..., :3], np.uint8)
    return pixels


def _shrink(image: NDArray[Any]) -> NDArray[np.float32]:
    """Mean over areas, so that the longest side is at most `LONGEST_SIDE`; never enlarged."""
    height, width = image.shape
    factor = LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return image.astype(np.float32)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = PillowImage.fromarray(image.astype(np.float32))
    return np.asarray(picture.resize(size, PillowImage.Resampling.BOX))


def scale_bar(width: int, pixel_size: float | None) -> tuple[float | None, float]:
    """A round length of about a fifth of the width: (micrometres, fraction of the width)."""
    if not pixel_size:
        return None, 0.0
    field_um = width * pixel_size
    power = 10.0 ** math.floor(math.log10(field_um / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= field_um / 4)
    return length, length / field_um
