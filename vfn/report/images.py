"""Pictures of one field, small enough to embed in a page: input, truth, prediction, error, mask."""

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray
from PIL import Image as PillowImage

from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.ranges import Range
from vfn.evaluation.results import ChannelResult
from vfn.metrics.contrast import PERCENTILES
from vfn.metrics.tolerance import error_mask

Pixels = NDArray[np.uint8]

LONGEST_SIDE = 640  # pixels of an embedded picture of a whole field
DETAIL_SIDE = 256  # pixels of a detail, embedded one to one
WEBP_QUALITIES = (78, 60, 40, 20)  # the first whose file is small enough
HOPELESS = 3  # times the limit: more than any of the qualities can save
# Black in the middle as fluorescence is: blue where signal was lost, red where it was invented.
ERROR_COLOURS = LinearSegmentedColormap.from_list(
    "lost-invented", ["#b5e8ff", "#2f95ff", "#000000", "#ff4a26", "#ffdca8"]
)
# Green over the prediction, as in the paper's figure 6, but at one threshold for all fields, so that they compare.
MASK_COLOUR = (0, 220, 60)
MASK_THRESHOLD = 0.1  # fraction of the signal range


@dataclass(frozen=True)
class Panel:
    """One picture: what it shows and its pixels, (h, w) grey or (h, w, 3)."""

    title: str
    pixels: Pixels

    def data_uri(self, limit: float = math.inf) -> str:
        """The picture as WebP in a `data:` address of at most `limit` characters.

        It is compressed harder, and then halved, until it fits: noise is what needs that.
        """
        picture = PillowImage.fromarray(self.pixels)
        while True:
            for quality in WEBP_QUALITIES:
                buffer = io.BytesIO()
                picture.save(buffer, "WEBP", quality=quality, method=2)
                uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
                if len(uri) <= limit or max(picture.size) == 1:
                    return uri
                if len(uri) > HOPELESS * limit:
                    break
            picture = picture.reduce(2)


@dataclass(frozen=True)
class Strip:
    """Pictures of one region side by side, with the length that a scale bar stands for.

    Attributes:
        panels: the pictures.
        bar_um: length of the scale bar in micrometres, None without a pixel size.
        bar_share: the same as a fraction of the picture's width.
    """

    panels: tuple[Panel, ...]
    bar_um: float | None
    bar_share: float


@dataclass(frozen=True)
class Pictures:
    """Pictures of one region of a field.

    Attributes:
        inputs: each in its own display range.
        truth: on the channel's signal range.
        prediction: on the same range.
        error: prediction minus truth in `ERROR_COLOURS`.
        mask: the prediction with the pixels that are off by more than `MASK_THRESHOLD` in green.
        beyond: share of these pixels.
        top: first row of the region in the field.
        left: first column.
        height: rows of the region, in pixels of the field.
        width: columns.
        bar_um: see `Strip`.
        bar_share: see `Strip`.
    """

    inputs: tuple[Panel, ...]
    truth: Panel
    prediction: Panel
    error: Panel
    mask: Panel
    beyond: float
    top: int
    left: int
    height: int
    width: int
    bar_um: float | None
    bar_share: float

    @property
    def strip(self) -> Strip:
        """All pictures side by side."""
        panels = (*self.inputs, self.truth, self.prediction, self.error, self.mask)
        return Strip(panels, self.bar_um, self.bar_share)


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
    top, left = map(int, np.unravel_index(int(np.argmax(sums)), sums.shape))
    return slice(top, top + side), slice(left, left + side)


def make_pictures(
    pair: FieldPair, result: ChannelResult, region: tuple[slice, slice] = (slice(0, None),) * 2
) -> Pictures:
    """Pictures of a region of the field, the whole of it if not given, reduced to `LONGEST_SIDE`."""
    index = pair.channels.index(result.name)
    truth, prediction = pair.truth[index], pair.prediction[index]
    signal, limit = result.ranges.signal, result.error_scale * result.signal_width
    inputs = []
    if pair.inputs is not None:
        names = pair.input_channels or tuple(f"input {i + 1}" for i in range(len(pair.inputs)))
        for name, plane in zip(names, pair.inputs, strict=True):
            own = Range(*(float(q) for q in np.percentile(plane, PERCENTILES)))
            inputs.append(Panel(f"input: {name}", grey(plane[region], own)))
    if result.coverage is not None:  # a panel in every field, black where one has no intervals
        widths = np.zeros(truth.shape) if pair.halfwidth is None else pair.halfwidth[index]
        white = f"{limit:.0f}" if limit >= 10 else f"{limit:.3g}"
        title = f"half-width of the interval: black 0, white {white} grey levels or more"
        inputs.append(Panel(title, grey(widths[region], Range(0, limit))))
    shown = grey(prediction[region], signal)
    error = prediction[region].astype(np.float32) - truth[region].astype(np.float32)
    mask = error_mask(prediction[region], truth[region], MASK_THRESHOLD, result.signal_width)
    mask |= ~np.isfinite(error)
    (rows, columns), (height, width) = region, error.shape
    return Pictures(
        tuple(inputs),
        Panel("truth", grey(truth[region], signal)),
        Panel("prediction", shown),
        Panel("error", _error(error, limit)),
        Panel(f"off by more than {100 * MASK_THRESHOLD:g} %", _painted(shown, mask)),
        float(mask.mean()),
        rows.start,
        columns.start,
        height,
        width,
        *scale_bar(width, pair.pixel_size),
    )


def grey(image: NDArray[Any], shown: Range, longest: int = LONGEST_SIDE) -> Pixels:
    """Grey values of the range as a picture (h, w), its longest side at most `longest` pixels."""
    scaled = (_shrink(image, longest) - shown.low) / (shown.width or 1.0)
    pixels: Pixels = (np.nan_to_num(scaled).clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


def _error(error: NDArray[np.float32], limit: float) -> Pixels:
    rgba = ERROR_COLOURS(np.nan_to_num(_shrink(error) / (2 * limit) + 0.5).clip(0, 1), bytes=True)
    pixels: Pixels = np.ascontiguousarray(rgba[..., :3], np.uint8)
    return pixels


def _painted(grey: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Green over the picture, as dense as the pixels of the mask lie under each of its own."""
    share = _shrink(mask)[..., None]
    painted: Pixels = (grey[..., None] * (1 - share) + share * MASK_COLOUR).round().astype(np.uint8)
    return painted


def _shrink(image: NDArray[Any], longest: int = LONGEST_SIDE) -> NDArray[np.float32]:
    """Mean over areas, so that the longest side is at most `longest`; never enlarged."""
    height, width = image.shape
    factor = longest / max(height, width)
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
