"""A prepared data set in words for the user, and as plain data for the checkpoint."""

from collections.abc import Sequence
from typing import Any

from vfn.data.base import StainData
from vfn.data.images import EXACT
from vfn.data.samples import Sample
from vfn.data.splits import stored_region

EACH_FIELD = "spreads from the median of each field"
SHOWN_WELLS = 4  # in the summary
PARTS = ("train", "val", "test")


def summary(data: StainData) -> str:
    """Return one line: the number of samples in each part, the grey values that become -1 and 1, the steps."""
    counts = ", ".join(f"{len(getattr(data.split, part))} {part}" for part in PARTS)
    fitted = zip(data.channels, [*data.inputs, *data.targets], strict=True)
    ranges = ", ".join(
        f"{channel} {one.low:.4g} to {one.high:.4g} {EACH_FIELD}"
        if one.per_field
        else f"{channel} {one.low:g} to {one.high:g}"
        for channel, one in fitted
    )
    parts = [
        f"data: {data.config.name}, {counts} samples, split by {_split_by(data)}",
        f"grey values: {ranges}",
    ]
    if min(data.measured.fields) < len(data.split.train):
        have = zip(data.task.targets, data.measured.fields, strict=True)
        parts.append("training samples with " + ", ".join(f"{c}: {n}" for c, n in have))
    if data.measured.fitted < len(data.split.train):
        parts.append(
            f"linear baselines fitted on {data.measured.fitted:,} of {len(data.split.train):,} training samples"
        )
    parts += [data.registration.summary(), *(step.summary() for step in data.steps)]
    return "; ".join(filter(None, parts))


def _split_by(data: StainData) -> str:
    """Return the unit that the split keeps together; wells by name if only names tell them."""
    samples = [*data.split.train, *data.split.val, *data.split.test]
    wells = sorted({sample.well for sample in samples if sample.well_from_name})
    if data.split.by != "well" or not wells:
        return data.split.by
    shown = ", ".join(wells[:SHOWN_WELLS]) + (", ..." if len(wells) > SHOWN_WELLS else "")
    return f"well ({shown})"


def remarks(data: StainData) -> list[str]:
    """Return one line for each channel whose grey values the network sees rounded or cut off."""
    said = []
    channels = zip(
        data.channels, [*data.inputs, *data.targets], data.measured.histograms, strict=True
    )
    for number, (channel, fitted, histogram) in enumerate(channels):
        if histogram.dtype.kind != "f" and histogram.above(EXACT):
            said.append(
                f"{channel} has whole numbers beyond {EXACT:,}, which networks see rounded to 24 bits"
            )
        cut = fitted.cut_off(histogram)
        if cut is None or number < len(data.inputs) or data.config.range != "percentile":
            continue
        share, top = cut
        said.append(
            f"{100 * share:.2g} % of {channel} lie up to {top:g}, above the range of the model "
            f"({fitted.high:g}): no prediction gets brighter than that; "
            f"data.percentiles=[{data.config.percentiles[0]:g},100] keeps them"
        )
    return said


def counts(data: StainData) -> dict[str, dict[str, int]]:
    """Return the number of samples, fields, wells and plates (0 if unknown) in each part."""
    return {part: count(getattr(data.split, part)) for part in PARTS}


def count(samples: Sequence[Sample]) -> dict[str, int]:
    """Return the number of samples ("views"), fields, wells and plates (0 if unknown)."""
    return {
        "views": len(samples),
        "fields": len({sample.field for sample in samples}),
        "wells": len({(sample.plate, sample.well) for sample in samples if sample.well}),
        "plates": len({sample.plate for sample in samples if sample.plate}),
    }


def recipe(data: StainData) -> dict[str, Any]:
    """Return what prediction and evaluation need of the data, as plain data."""
    found: dict[str, Any] = {
        "task": data.task.to_dict(),
        "data": data.config.to_dict(),
        "layout": data.layout.to_dict(),
        "inputs": [m.to_dict() for m in data.inputs],
        "targets": [m.to_dict() for m in data.targets],
        "envelopes": [seen.to_dict() for seen in data.measured.envelopes],
        "baselines": data.measured.baselines.to_dict(),
        "pixel_size": data.measured.pixel_size,
        "split": {
            "by": data.split.by,
            **{part: [stored_region(s) for s in getattr(data.split, part)] for part in PARTS},
        },
        **data.registration.recipe(),
    }
    for step in data.steps:
        found |= step.recipe()
    return found
