"""Control against treated cells: how far each field and cell departs from what a control model expects."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vfn.evaluation.expect import FALSE_ALARMS, Expectation, departures, numbers_of
from vfn.evaluation.pairs import FieldPair, PairSource
from vfn.evaluation.ranges import ChannelRanges
from vfn.evaluation.results import finite
from vfn.evaluation.rows import pixel_figures
from vfn.evaluation.stain import Nuclei
from vfn.evaluation.statistics import cliffs_delta, two_groups
from vfn.inference.ome import write_ome
from vfn.metrics.comparison import holm
from vfn.metrics.objects import segment_cells, segment_nuclei
from vfn.system.progress import progress

Labels = NDArray[np.int32]
CONTROL, TREATED = "control", "treated"
TESTED = ("mae_signal", "bias_signal", "pearson", "departure")


@dataclass(frozen=True)
class Cell:
    """One cell of one field, in one channel."""

    label: int
    row: float
    column: float
    area: int
    mae: float
    bias: float
    departure: float

    def departs(self, expected: Expectation) -> bool:
        """Return whether the cell lies beyond the threshold."""
        return self.departure > expected.threshold


@dataclass(frozen=True)
class Field:
    """One field of one condition, in one channel."""

    condition: str
    name: str
    well: str
    channel: str
    figures: Mapping[str, float]
    cells: tuple[Cell, ...]
    alarm: bool
    index: int


def _each(source: PairSource, label: str) -> Iterator[FieldPair]:
    for index in progress(range(len(source)), len(source), label):
        yield source.pair(index)


def expectations(
    reference: PairSource, ranges: Mapping[str, ChannelRanges], nuclei: Nuclei
) -> dict[str, Expectation]:
    """Fit what to expect of each channel on the reference fields: residuals, then the departures of cells."""

    def residuals(channel: str) -> Iterator[tuple[Any, Any, float | None]]:
        for pair in _each(reference, f"what to expect of {channel}"):
            if channel in pair.channels:
                i = pair.channels.index(channel)
                yield pair.prediction[i], pair.truth[i], pair.pixel_size

    expected = {
        channel: Expectation.fit(residuals(channel), one.signal.width or 1.0)
        for channel, one in ranges.items()
    }
    found: dict[str, list[NDArray[np.float64]]] = {channel: [] for channel in expected}
    for pair in _each(reference, "how far control cells depart"):
        labels = _cells(pair, nuclei)
        if labels is None:
            continue
        for (channel, truth), prediction in zip(pair.named_truth, pair.prediction, strict=True):
            z = expected[channel].map(prediction, truth, pair.pixel_size)
            found[channel].append(departures(z, labels))
    for channel, fields in found.items():
        cells = np.concatenate(fields) if fields else np.empty(0)
        if len(cells):
            threshold = float(np.quantile(cells, 1 - FALSE_ALARMS))
            expected[channel] = replace(expected[channel], threshold=threshold)
    return expected


def _cells(pair: FieldPair, nuclei: Nuclei) -> Labels | None:
    """Segment the cells of the real field; None where no channel shows nuclei."""
    named = [*pair.named_inputs, *pair.named_truth]
    nuclear = next((image for name, image in named if nuclei.shown_by(name)), None)
    if nuclear is None:
        return None
    labels = segment_nuclei(nuclear, pixel_size=pair.pixel_size)
    bodies = [image for name, image in named if not nuclei.shown_by(name)]
    # Inputs first: treated and control cells are outlined on what the model saw.
    return segment_cells(labels, bodies[0]) if bodies else labels


def measure_fields(
    condition: str,
    source: PairSource,
    ranges: Mapping[str, ChannelRanges],
    expected: Mapping[str, Expectation],
    nuclei: Nuclei,
    maps: Path,
) -> Iterator[Field]:
    """Measure every field of a condition, and write its maps of departures to the folder `maps`."""
    for index, pair in enumerate(_each(source, condition)):
        labels = _cells(pair, nuclei)
        drawn = []
        for i, channel in enumerate(pair.channels):
            truth, prediction = pair.truth[i], pair.prediction[i]
            width = ranges[channel].signal.width or 1.0
            z = expected[channel].map(prediction, truth, pair.pixel_size)
            drawn.append(z)
            error = (prediction.astype(np.float32) - truth.astype(np.float32)) / np.float32(width)
            columns = ("mae_signal", "pearson", "psnr_signal")
            figures = pixel_figures(prediction, truth, ranges[channel], columns)
            figures["bias_signal"] = float(error.mean())
            figures["departure"] = float(np.median(np.abs(z)))
            cells = () if labels is None else tuple(_measure_cells(labels, error, z))
            well, alarm = pair.well or "", bool(pair.alarms)
            yield Field(condition, pair.field, well, channel, figures, cells, alarm, index)
        path = maps / f"{condition}_{pair.field}.ome.tif"
        names = tuple(f"{channel}_departure" for channel in pair.channels)
        stack = np.stack(drawn)
        shape, title = stack.shape[1:], "departure from the control"
        write_ome(path, [stack], shape, stack.dtype.name, names, pair.pixel_size, title)


def _measure_cells(
    labels: Labels, error: NDArray[np.float32], z: NDArray[np.float32]
) -> Iterator[Cell]:
    numbers = numbers_of(labels)
    rows, columns = np.indices(labels.shape)
    means = [
        ndimage.mean(values, labels, numbers)  # type: ignore[attr-defined]
        for values in (rows, columns, np.abs(error), error)
    ]
    areas = np.bincount(labels.ravel())[numbers]
    found = (numbers, *means[:2], areas, *means[2:], departures(z, labels))
    yield from map(Cell, *(np.asarray(values).tolist() for values in found))


def _units(fields: Sequence[Field], column: str, by_well: bool) -> list[float]:
    """Return a figure for each well, or for each field."""
    if not by_well:
        return [field.figures[column] for field in fields]
    wells: dict[str, list[float]] = {}
    for field in fields:
        wells.setdefault(field.well, []).append(field.figures[column])
    return [float(np.mean(values)) for values in wells.values()]


def summarise_conditions(
    fields: Sequence[Field], expected: Mapping[str, Expectation]
) -> dict[str, Any]:
    """Compare the conditions channel by channel; p-values after Holm's correction over all tests."""
    channels = {
        channel: _summarise_channel([f for f in fields if f.channel == channel], expectation)
        for channel, expectation in expected.items()
    }
    tests = [one for entry in channels.values() for one in entry["figures"].values()]
    p_values = [math.nan if one["p"] is None else one["p"] for one in tests]
    for one, p in zip(tests, holm(p_values), strict=True):
        one["p_holm"] = finite(float(p))
    return channels


def _summarise_channel(fields: Sequence[Field], expectation: Expectation) -> dict[str, Any]:
    groups = {name: [f for f in fields if f.condition == name] for name in (CONTROL, TREATED)}
    wells = all(f.well for group in groups.values() for f in group)
    figures = {}
    for column in TESTED:
        found = two_groups(*(_units(group, column, wells) for group in groups.values()))
        figures[column] = {key: finite(value) for key, value in found.__dict__.items()}
    return {
        "unit": "well" if wells else "field",
        "figures": figures,
        "cells": _count_cells(groups, expectation),
        "threshold": finite(expectation.threshold),
    }


def _count_cells(groups: Mapping[str, Sequence[Field]], expectation: Expectation) -> dict[str, Any]:
    """Departing cells of each condition, and the effect over cells."""
    found: dict[str, Any] = {}
    values = []
    for name, group in groups.items():
        cells = [cell for field in group for cell in field.cells]
        departing = sum(cell.departs(expectation) for cell in cells)
        found[name] = {
            "n": len(cells),
            "departing": departing,
            "share": departing / len(cells) if cells else None,
            "fields_with_input_alarms": sum(f.alarm for f in group),
            "fields": len(group),
        }
        values.append(np.array([cell.departure for cell in cells]))
    found["delta"] = cliffs_delta(*values) if all(map(len, values)) else None
    return found
