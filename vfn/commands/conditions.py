"""`evaluate.py ckpt=CKPT data2...`: how much worse a model of the control predicts treated cells, and where."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfn.errors import UserError
from vfn.evaluation.expect import FALSE_ALARMS, Expectation, departures
from vfn.evaluation.pairs import FieldPair, PairSource
from vfn.evaluation.ranges import ChannelRanges, channel_ranges
from vfn.evaluation.rows import pixel_figures
from vfn.evaluation.stain import Nuclei
from vfn.evaluation.statistics import TwoGroups, cliffs_delta, two_groups
from vfn.inference.ome import write_ome
from vfn.metrics.comparison import ALPHA, holm
from vfn.metrics.objects import segment_cells, segment_nuclei
from vfn.report.conditions_page import NAMES, Shown, render
from vfn.report.figures import png_bytes
from vfn.report.results import finite
from vfn.system.csv_files import write_csv
from vfn.system.files import make_folder, replacing, write_text
from vfn.system.progress import progress

log = logging.getLogger(__name__)
Labels = NDArray[np.int32]

CONTROL, TREATED = "control", "treated"
TESTED = ("mae_signal", "bias_signal", "pearson", "departure")
COLUMNS = (*TESTED, "psnr_signal")
FIELDS_HEADER = ("condition", "field", "well", "channel", *COLUMNS, "cells", "departing", "alarms")
CELLS_HEADER = (
    "condition", "field", "channel", "label", "row", "column", "area", "mae_signal", "bias_signal",
    "departure", "departs",
)  # fmt: skip
SHOWN = 3  # fields with pictures, of each channel


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


def compare_conditions(
    reference: PairSource,
    control: PairSource,
    treated: PairSource,
    nuclei: Nuclei,
    output: Path,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare the prediction errors of a control model in two conditions and write what was found.

    Writes `conditions.csv` (a row a field and channel), `cells.csv`, `conditions.json`, `conditions.html`,
    `figures/` and `maps/CONDITION_FIELD.ome.tif`: departures in standard deviations of the control.

    Args:
        reference: control fields that say what to expect: those of validation.
        control: control fields that the model was not fitted on, other than those of `reference`.
        treated: the others.
        nuclei: in which channels nuclei are looked for.
        output: folder.
        provenance: how it came about, for the page.

    Returns:
        What `conditions.json` holds.

    Raises:
        UserError: a condition without fields.
    """
    for name, source in ((CONTROL, control), (TREATED, treated)):
        if not len(source):
            raise UserError(f"{name}: no field to compare; check match, data2.root and data2.match")
    ranges = channel_ranges(control)
    expected = _expectations(reference, ranges, nuclei)
    maps = make_folder(make_folder(output) / "maps")
    fields = [
        field
        for condition, source in ((CONTROL, control), (TREATED, treated))
        for field in _fields(condition, source, ranges, expected, nuclei, maps)
    ]
    summary = _summary(fields, expected)
    write_csv(output / "conditions.csv", FIELDS_HEADER, [_field_line(f, expected) for f in fields])
    write_csv(output / "cells.csv", CELLS_HEADER, _cell_lines(fields, expected))
    text = json.dumps({**summary, "provenance": dict(provenance)}, indent=1, allow_nan=False)
    write_text(output / "conditions.json", text + "\n")
    shown = {c: _shown(c, fields, treated, control, ranges[c], expected[c]) for c in ranges}
    figures = make_folder(output / "figures")
    for channel, one in shown.items():
        with replacing(figures / f"{channel}_departures.png") as temporary:
            temporary.write_bytes(png_bytes(one.picture()))
    page = output / "conditions.html"
    write_text(page, render(summary, shown, provenance))
    for sentence in summary["sentences"]:
        print(sentence)
    print(f"report: {page}")
    return summary


def _each(source: PairSource, label: str) -> Iterator[FieldPair]:
    for index in progress(range(len(source)), len(source), label):
        yield source.pair(index)


def _expectations(
    reference: PairSource, ranges: Mapping[str, ChannelRanges], nuclei: Nuclei
) -> dict[str, Expectation]:
    """Of each channel, fitted on the reference fields: residuals, then the departures of cells."""

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
        for channel, prediction, truth in zip(
            pair.channels, pair.prediction, pair.truth, strict=True
        ):
            z = expected[channel].map(prediction, truth, pair.pixel_size)
            found[channel].append(departures(z, labels))
    for channel, fields in found.items():
        cells = np.concatenate(fields) if fields else np.empty(0)
        if len(cells):
            threshold = float(np.quantile(cells, 1 - FALSE_ALARMS))
            expected[channel] = replace(expected[channel], threshold=threshold)
    return expected


def _cells(pair: FieldPair, nuclei: Nuclei) -> Labels | None:
    """Cells of the real field; None where no channel shows nuclei."""
    inputs = () if pair.inputs is None else tuple(pair.inputs)
    named = [
        *zip(pair.input_channels, inputs, strict=False),
        *zip(pair.channels, pair.truth, strict=True),
    ]
    nuclear = next((image for name, image in named if nuclei.shown_by(name)), None)
    if nuclear is None:
        return None
    labels = segment_nuclei(nuclear, pixel_size=pair.pixel_size)
    bodies = [image for name, image in named if not nuclei.shown_by(name)]
    # Inputs first: treated and control cells are outlined on what the model saw.
    return segment_cells(labels, bodies[0]) if bodies else labels


def _fields(
    condition: str,
    source: PairSource,
    ranges: Mapping[str, ChannelRanges],
    expected: Mapping[str, Expectation],
    nuclei: Nuclei,
    maps: Path,
) -> Iterator[Field]:
    for index, pair in enumerate(_each(source, condition)):
        labels = _cells(pair, nuclei)
        drawn = []
        for i, channel in enumerate(pair.channels):
            truth, prediction = pair.truth[i], pair.prediction[i]
            width = ranges[channel].signal.width or 1.0
            z = expected[channel].map(prediction, truth, pair.pixel_size)
            drawn.append(z)
            error = (prediction.astype(np.float32) - truth.astype(np.float32)) / np.float32(width)
            figures = pixel_figures(
                prediction, truth, ranges[channel], ("mae_signal", "pearson", "psnr_signal")
            )
            figures = {
                **figures,
                "bias_signal": float(error.mean()),
                "departure": float(np.median(np.abs(z))),
            }
            cells = () if labels is None else tuple(_measure_cells(labels, error, z))
            yield Field(
                condition, pair.field, pair.well or "", channel, figures, cells,
                bool(pair.alarms), index,
            )  # fmt: skip
        path = maps / f"{condition}_{pair.field}.ome.tif"
        names = tuple(f"{channel}_departure" for channel in pair.channels)
        maps_of = np.stack(drawn)
        write_ome(
            path, [maps_of], maps_of.shape[1:], maps_of.dtype.name, names, pair.pixel_size,
            "departure from the control",
        )  # fmt: skip


def _measure_cells(
    labels: Labels, error: NDArray[np.float32], z: NDArray[np.float32]
) -> Iterator[Cell]:
    flat = labels.ravel()
    count = np.bincount(flat)
    there = np.flatnonzero(count)
    there = there[there > 0]
    rows, columns = np.indices(labels.shape)
    sums = {
        name: np.bincount(flat, np.asarray(values, np.float64).ravel())
        for name, values in (
            ("row", rows), ("column", columns), ("mae", np.abs(error)), ("bias", error),
        )
    }  # fmt: skip
    for number, departure in zip(there.tolist(), departures(z, labels).tolist(), strict=True):
        means = {name: float(total[number] / count[number]) for name, total in sums.items()}
        yield Cell(
            number,
            means["row"],
            means["column"],
            int(count[number]),
            means["mae"],
            means["bias"],
            departure,
        )


def _departs(cell: Cell, expected: Expectation) -> bool:
    return cell.departure > expected.threshold


def _field_line(field: Field, expected: Mapping[str, Expectation]) -> list[str]:
    departing = sum(_departs(cell, expected[field.channel]) for cell in field.cells)
    return [
        field.condition, field.name, field.well, field.channel,
        *(f"{field.figures[c]:.9g}" for c in COLUMNS),
        str(len(field.cells)), str(departing), str(field.alarm).lower(),
    ]  # fmt: skip


def _cell_lines(fields: Sequence[Field], expected: Mapping[str, Expectation]) -> list[list[str]]:
    return [
        [
            field.condition, field.name, field.channel, str(cell.label), f"{cell.row:.1f}",
            f"{cell.column:.1f}", str(cell.area), f"{cell.mae:.6g}", f"{cell.bias:.6g}",
            f"{cell.departure:.6g}", str(_departs(cell, expected[field.channel])).lower(),
        ]
        for field in fields
        for cell in field.cells
    ]  # fmt: skip


def _units(fields: Sequence[Field], column: str) -> list[float]:
    """A figure for each well, where all wells are known, else for each field."""
    if not all(field.well for field in fields):
        return [field.figures[column] for field in fields]
    wells: dict[str, list[float]] = {}
    for field in fields:
        wells.setdefault(field.well, []).append(field.figures[column])
    return [float(np.mean(values)) for values in wells.values()]


def _summary(fields: Sequence[Field], expected: Mapping[str, Expectation]) -> dict[str, Any]:
    channels: dict[str, Any] = {}
    tests: list[TwoGroups] = []
    places: list[tuple[str, str]] = []
    for channel, expectation in expected.items():
        own = {
            name: [f for f in fields if f.channel == channel and f.condition == name]
            for name in (CONTROL, TREATED)
        }
        wells = all(f.well for group in own.values() for f in group)
        entry: dict[str, Any] = {"unit": "well" if wells else "field", "figures": {}, "cells": {}}
        for column in TESTED:
            found = two_groups(*(_units(group, column) for group in own.values()))
            entry["figures"][column] = {k: finite(v) for k, v in found.__dict__.items()}
            tests.append(found)
            places.append((channel, column))
        for name, group in own.items():
            cells = [cell for field in group for cell in field.cells]
            departing = sum(_departs(cell, expectation) for cell in cells)
            entry["cells"][name] = {
                "n": len(cells),
                "departing": departing,
                "share": departing / len(cells) if cells else None,
            }
            entry["cells"][name]["fields_with_input_alarms"] = sum(f.alarm for f in group)
            entry["cells"][name]["fields"] = len(group)
        of_cells = [
            np.array([cell.departure for field in group for cell in field.cells])
            for group in own.values()
        ]
        entry["cells"]["delta"] = cliffs_delta(*of_cells) if all(map(len, of_cells)) else None
        entry["threshold"] = finite(expectation.threshold)
        channels[channel] = entry
    for (channel, column), p in zip(places, holm([t.p for t in tests]), strict=True):
        channels[channel]["figures"][column]["p_holm"] = finite(float(p))
    said = [s for channel, entry in channels.items() for s in sentences(channel, entry)]
    return {"sentences": said, "channels": channels, "false_alarms_stated": FALSE_ALARMS}


def sentences(channel: str, entry: Mapping[str, Any]) -> list[str]:
    """What can be said of a channel, the caution last."""
    found, unit = entry["figures"]["departure"], entry["unit"]
    mae = entry["figures"]["mae_signal"]
    control, treated = entry["cells"][CONTROL], entry["cells"][TREATED]
    said = []
    head = (
        f"{channel}: departure from what the control model expects {found['treated']:.2g} SD in treated, "
        f"{found['control']:.2g} SD in control {unit}s (n = {found['n_treated']} and {found['n_control']}; mean error "
        f"{100 * mae['treated']:.2g} and {100 * mae['control']:.2g} % of the signal range"
    )
    if found["p"] is None:
        said.append(f"{head}); too few {unit}s for a test.")
    else:
        shown = [
            f"{NAMES[column]} (p = {p:.2g})"
            for column, one in entry["figures"].items()
            if (p := one["p_holm"]) is not None and p < ALPHA
        ]
        better = mae["delta"] < 0 and found["delta"] < 0
        where = f"shown in {', '.join(shown)}"
        verdict = (
            f"treated cells are predicted BETTER than control ones, {where}: look at the control"
            if shown and better
            else f"the treatment changes the stain beyond what the inputs tell, {where}"
            if shown
            else "no difference can be shown in any figure"
        )
        g = (
            ""
            if found["g"] is None
            else f", Hedges' g = {found['g']:+.2f} ({found['g_low']:+.2f} to {found['g_high']:+.2f})"
        )
        said.append(f"{head}; Cliff's delta = {found['delta']:+.2f}{g}): {verdict}.")
    if control["n"] and treated["n"]:
        said.append(
            f"{channel}: {treated['departing']} of {treated['n']} treated cells ({treated['share']:.0%}) depart from "
            f"what the control model expects; of the control cells {control['share']:.1%} do "
            f"({FALSE_ALARMS:.0%} were meant to). Cells of one field are not independent: no test is made of them."
        )
    elif entry["threshold"] is None:
        said.append(f"{channel}: no channel shows nuclei, so there is no figure for each cell.")
    share_c = control["fields_with_input_alarms"] / control["fields"]
    share_t = treated["fields_with_input_alarms"] / treated["fields"]
    if share_t > share_c:
        said.append(
            f"CAUTION: the inputs of {treated['fields_with_input_alarms']} of {treated['fields']} treated fields lie "
            f"outside what the model was trained on ({control['fields_with_input_alarms']} of {control['fields']} control "
            "fields): part of the error may be the model's, not the cells'."
        )
    return said


def _shown(
    channel: str,
    fields: Sequence[Field],
    treated: PairSource,
    control: PairSource,
    ranges: ChannelRanges,
    expected: Expectation,
) -> Shown:
    """The most departing treated fields, and the median control field beside them."""

    def ranked(condition: str) -> list[Field]:
        own = [f for f in fields if f.channel == channel and f.condition == condition]
        return sorted(own, key=lambda f: -f.figures["departure"])

    most, quiet = ranked(TREATED)[:SHOWN], ranked(CONTROL)
    chosen = [(TREATED, f, treated) for f in most] + [(CONTROL, quiet[len(quiet) // 2], control)]
    pictures = []
    for condition, field, source in chosen:
        pair = source.pair(field.index)
        i = pair.channels.index(channel)
        z = expected.map(pair.prediction[i], pair.truth[i], pair.pixel_size)
        first = pair.truth[i] if pair.inputs is None else pair.inputs[0]
        pictures.append((f"{condition}: {field.name}", first, pair.truth[i], pair.prediction[i], z))
    values = {
        condition: [f.figures for f in fields if f.channel == channel and f.condition == condition]
        for condition in (CONTROL, TREATED)
    }
    cells = {
        condition: np.array(
            [
                c.departure
                for f in fields
                if f.channel == channel and f.condition == condition
                for c in f.cells
            ]
        )
        for condition in (CONTROL, TREATED)
    }
    low, high = ranges.signal.low, ranges.signal.high
    return Shown(channel, pictures, (low, high), values, cells, expected.threshold)
