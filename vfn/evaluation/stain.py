"""All measurements of the predicted stains of one field: pixels, quality, nuclei, intervals.

Pixels are compared for every stain. Nuclei are found in the stains that show them; where the real field
has such a channel, among its inputs or its truth, the amount of any other stain is compared cell by
cell, the cells being grown from the real nuclei on the real stain. Elsewhere blocks stand for cells.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfn.evaluation.columns import BASELINE_COLUMNS, REFOCUSED_COLUMNS
from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.ranges import ChannelRanges
from vfn.evaluation.rows import ImageScores, score_image
from vfn.metrics import objects
from vfn.metrics.agreement import BLOCK, agree, block_intensities, integrated_intensities, share_off
from vfn.metrics.bleeding import Bleeding, bleeding
from vfn.metrics.contrast import ground, smooth
from vfn.metrics.coverage import coverage_reached, mean_width
from vfn.metrics.matching import Found
from vfn.metrics.objects import ObjectScores, is_nuclear, score_objects, segment_cells
from vfn.metrics.quality import quality

Float = NDArray[np.float64]
Labels = NDArray[np.int32]

NAMED = 0.05  # bleed_through from which on the table names the channel


@dataclass(frozen=True)
class Nuclei:
    """Channels in which nuclei are segmented.

    Attributes:
        channels: that show nuclei; empty for those whose names say so (`is_nuclear`).
    """

    channels: tuple[str, ...] = ()

    def shown_by(self, channel: str) -> bool:
        """Return whether a channel shows nuclei."""
        return channel in self.channels if self.channels else is_nuclear(channel)


@dataclass(frozen=True)
class Measured:
    """One predicted stain of one field.

    Attributes:
        row: its figures; columns that were not measured are missing.
        baselines: the figures of simpler predictions, by name.
        found: nuclei that went wrong, with their places; None where the stain shows none.
        truth_amounts: (n,), integrated intensity of every nucleus (cell, block), grey levels.
        predicted_amounts: (n,), over the same pixels.
        over: "nuclei", "cells", or "blocks" without a channel of nuclei; empty where nothing was summed.
        unrefocused: figures of the prediction from blurred inputs as they are; None where nothing was
            refocused.
    """

    row: ImageScores
    baselines: Mapping[str, ImageScores]
    found: tuple[Found, ...] | None
    truth_amounts: Float
    predicted_amounts: Float
    over: str
    unrefocused: ImageScores | None = None


def measure(
    pair: FieldPair, ranges: Mapping[str, ChannelRanges], nuclei: Nuclei
) -> tuple[Measured, ...]:
    """Measure every stain of a field, in the order of its channels. Thread-safe.

    Args:
        pair: the field.
        ranges: of each of its channels.
        nuclei: where they are looked for.
    """
    scores = {
        channel: score_objects(truth, prediction, pair.pixel_size, ranges[channel].signal.width)
        for channel, truth, prediction in zip(
            pair.channels, pair.truth, pair.prediction, strict=True
        )
        if nuclei.shown_by(channel)
    }
    real = _real_nuclei(pair, scores, nuclei)
    return tuple(
        _measure(pair, i, ranges[channel], scores.get(channel), real)
        for i, channel in enumerate(pair.channels)
    )


def _real_nuclei(
    pair: FieldPair, scores: Mapping[str, ObjectScores], nuclei: Nuclei
) -> Labels | None:
    """The nuclei of the real field (H, W); None where no channel shows them."""
    if scores:
        return next(iter(scores.values())).truth_labels.astype(np.int32)
    for channel, image in pair.named_inputs:
        if nuclei.shown_by(channel):
            return objects.segment_nuclei(image, pixel_size=pair.pixel_size)
    return None


def _measure(
    pair: FieldPair, i: int, ranges: ChannelRanges, scores: ObjectScores | None, real: Labels | None
) -> Measured:
    channel, truth, prediction = pair.channels[i], pair.truth[i], pair.prediction[i]
    row = score_image(pair.field, channel, prediction, truth, ranges)
    values, notes = dict(row.values), [row.note]
    signal = ranges.signal
    for who, suffix, image in (("prediction", "", prediction), ("truth", "_truth", truth)):
        found = quality(image, signal.low, signal.high)
        values |= {f"piqe{suffix}": found.piqe, f"brisque{suffix}": found.brisque}
        notes.append(found.note and f"{who}: {found.note}")
    if scores is not None:
        values |= scores.values
        notes.append(scores.note)
    over, amounts = _amounts(truth, prediction, scores, real)
    if over:
        agreement = agree(*amounts)
        values |= {f"amount_{name}": value for name, value in agreement.figures().items()}
        values["amount_off"] = share_off(*amounts)
        notes.append(agreement.reason)
    mixed_in = ""
    if bled := _bleeding(pair, i, signal.width):
        values["bleed_through"] = bled.slope
        mixed_in = bled.channel if abs(bled.slope) >= NAMED else ""
    if pair.halfwidth is not None and np.isfinite(pair.halfwidth[i]).all():
        values["coverage"] = coverage_reached(prediction, truth, pair.halfwidth[i])
        width = signal.width
        values["interval_width"] = mean_width(pair.halfwidth[i], width) if width else math.nan
    baselines = {
        name: _baseline(pair, channel, images[i], truth, ranges)
        for name, images in pair.baselines.items()
    }
    note = "; ".join(filter(None, notes))
    row = replace(row, values=values, note=note, well=pair.well or "", z=pair.z, mixed_in=mixed_in)
    blurred = None
    if pair.unrefocused is not None:
        image = pair.unrefocused[i]
        blurred = score_image(pair.field, channel, image, truth, ranges, BASELINE_COLUMNS)
    faults = None if scores is None else scores.found
    return Measured(row, baselines, faults, *amounts, over, blurred)


def _amounts(
    truth: NDArray[Any], prediction: NDArray[Any], scores: ObjectScores | None, real: Labels | None
) -> tuple[str, tuple[Float, Float]]:
    """Objects that amounts of stain are summed over, and the amounts in truth and prediction."""
    if scores is not None:
        return "nuclei", (scores.truth_intensity, scores.prediction_intensity)
    if np.isfinite(prediction).all():
        if real is not None:
            return "cells", integrated_intensities(segment_cells(real, truth), truth, prediction)
        if min(truth.shape) >= BLOCK:
            return "blocks", block_intensities(truth, prediction, ground(smooth(truth)))
    return "", (np.empty(0), np.empty(0))


def _bleeding(pair: FieldPair, i: int, width: float) -> Bleeding | None:
    """The other channel of the field that is mixed in most; None without any, or where it cannot be told."""
    name, prediction = pair.channels[i], pair.prediction[i]
    if not (width > 0 and np.isfinite(prediction).all()):
        return None
    others = (
        [(n, image) for n, image in group if n != name]
        for group in (pair.named_inputs, pair.named_truth)
    )
    return bleeding(prediction, pair.truth[i], width, *others)


def _baseline(
    pair: FieldPair, channel: str, image: NDArray[Any], truth: NDArray[Any], ranges: ChannelRanges
) -> ImageScores:
    if pair.z is None:
        return score_image(pair.field, channel, image, truth, ranges, BASELINE_COLUMNS)
    row = score_image(pair.field, channel, image, truth, ranges, REFOCUSED_COLUMNS)
    seen = quality(image, ranges.signal.low, ranges.signal.high)
    values = {**row.values, "piqe": seen.piqe, "brisque": seen.brisque}
    return replace(row, values=values, z=pair.z)
