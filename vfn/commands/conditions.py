"""`evaluate.py ckpt=CKPT data2...`: how much worse a model of the control predicts treated cells, and where."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vfn.cli.entry import known_tasks, plain
from vfn.commands.checkpoint_pairs import CheckpointPairs
from vfn.commands.held_out import HeldOutData, recorded, test_samples
from vfn.commands.predict import make_predictor
from vfn.commands.score import Settings
from vfn.data.base import StainData
from vfn.data.config import DataConfig
from vfn.data.matching import search_all
from vfn.data.samples import Sample
from vfn.data.sets import make_data
from vfn.data.splits import overlap
from vfn.errors import UserError
from vfn.evaluation.conditions import (
    CONTROL,
    TESTED,
    TREATED,
    Field,
    expectations,
    measure_fields,
    summarise_conditions,
)
from vfn.evaluation.expect import FALSE_ALARMS, Expectation
from vfn.evaluation.pairs import PairSource
from vfn.evaluation.ranges import channel_ranges
from vfn.evaluation.stain import Nuclei
from vfn.models.checkpoint import Checkpoint, load_checkpoint
from vfn.refocus.step import refocused
from vfn.report.conditions_figures import shown_channel
from vfn.report.conditions_page import render, sentences
from vfn.report.figures import write_png
from vfn.system.csv_files import write_csv
from vfn.system.dotted import trusted
from vfn.system.files import make_folder, write_text

log = logging.getLogger(__name__)

COLUMNS = (*TESTED, "psnr_signal")
FIELDS_HEADER = ("condition", "field", "well", "channel", *COLUMNS, "cells", "departing", "alarms")
CELLS_HEADER = (
    "condition", "field", "channel", "label", "row", "column", "area", "mae_signal", "bias_signal",
    "departure", "departs",
)  # fmt: skip


def conditions(config: DictConfig, output: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Compare the prediction errors of a model of control cells in control and treated fields."""
    second = treated_keys(config)
    checkpoint = load_checkpoint(Path(str(config.ckpt)), trusted(config.trust))
    predictor = make_predictor(config, checkpoint)
    trained, samples = test_samples(config, checkpoint)
    data, samples = trained.data, _matching(samples, config.match, "match")
    known, samples = _control(trained, checkpoint, samples)
    treated, others = _treated_samples(data, checkpoint, second)
    make_folder(output)
    # Each group is read more than once, and predicted once: the predictions are kept.
    groups = {"reference": (data, known), "control": (data, samples), "treated": (treated, others)}
    pairs = {
        name: CheckpointPairs(predictor, one, some, make_folder(output / "predictions" / name))
        for name, (one, some) in groups.items()
    }
    provenance |= {
        "model": f"{checkpoint.recipe['model']} {checkpoint.identity}",
        "control": f"{len(samples)} test fields of {data.config.name}",
        "expectation": f"{len(known)} control fields that the weights were not fitted on",
        "treated": f"{len(others)} fields of {treated.root or treated.config.name}",
    }
    return compare_conditions(
        **pairs, nuclei=Settings.from_config(config).nuclei, output=output, provenance=provenance
    )


def treated_keys(config: DictConfig) -> dict[str, Any]:
    """Return the keys `data2`; empty where none is given.

    Raises:
        UserError: neither a folder nor keys.
    """
    if isinstance(config.data2, str):
        return {"root": config.data2}
    if not isinstance(config.data2, DictConfig):
        raise UserError(
            f"data2={config.data2}: give a folder, or data2.root=DIR, data2.match=REGEX"
        )
    return {key: value for key, value in plain(config.data2).items() if value is not None}


def _control(
    trained: HeldOutData, checkpoint: Checkpoint, samples: list[Sample]
) -> tuple[list[Sample], list[Sample]]:
    """Return the control samples that say what to expect, and those that are compared."""
    known = recorded(trained.data, checkpoint, "val") if trained.same_images else []
    if not known:
        # The fields that say what to expect may not be those whose false alarms are counted.
        known, samples = samples[::2], samples[1::2]
        log.warning(
            "the model's validation fields are not here: every other control field says what to expect"
        )
    if not samples:
        raise UserError(
            "control: one field alone is there; two are needed, or the validation fields"
        )
    return known, samples


def _treated_samples(
    control: StainData, checkpoint: Checkpoint, second: dict[str, Any]
) -> tuple[StainData, list[Sample]]:
    """Return the treated data set and its samples, none of which the model was trained on."""
    match = second.pop("match", None)
    treated = make_data(checkpoint.task, _treated(control.config, second), known_tasks())
    others = _matching(treated.aligned(treated.samples()), match, "data2.match")
    if not {"root", "manifest", "first_seed"} & set(second):
        split = checkpoint.recipe["split"]
        seen = overlap(others, [*split["train"], *split["val"]])
        if seen:
            raise UserError(
                f"data2: {len(seen)} of {len(others)} fields (first {seen[0]}) were trained on; give another "
                "folder by data2.root, or pick the treated fields by data2.match"
            )
    return treated, refocused(checkpoint, others, treated.store)


def _matching(samples: list[Sample], pattern: str | None, key: str) -> list[Sample]:
    """Return the samples of fields whose names match `pattern`.

    Raises:
        UserError: no regular expression, or it picks nothing.
    """
    if pattern is None:
        return samples
    matches = search_all(pattern, [sample.name for sample in samples], key)
    found = [sample for sample, match in zip(samples, matches, strict=True) if match is not None]
    if not found:
        raise UserError(
            f"{key}={pattern}: matches none of {len(samples)} fields (as {samples[0].name})"
        )
    return found


def _treated(control: DataConfig, second: Mapping[str, Any]) -> DataConfig:
    """The config of the control fields with the keys `data2` on top.

    Raises:
        UserError: a key that the data set does not have.
    """
    unknown = set(second) - set(control.to_dict()) - set(control.extra)
    if unknown:
        raise UserError(
            f"data2.{min(unknown)}: data={control.name} has no such setting; see conf/data"
        )
    # A manifest lists the files of one folder: whoever names the one does not mean the other's.
    moved = {"root": None, "manifest": None} if {"root", "manifest"} & set(second) else {}
    node = {**control.to_dict(), **control.extra, **moved, **second}
    return DataConfig.from_dict({**node, "extra": {key: node[key] for key in control.extra}})


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
        The content of `conditions.json`.

    Raises:
        UserError: a condition without fields.
    """
    for name, source in ((CONTROL, control), (TREATED, treated)):
        if not len(source):
            raise UserError(f"{name}: no field to compare; check match, data2.root and data2.match")
    ranges = channel_ranges(control)
    expected = expectations(reference, ranges, nuclei)
    maps = make_folder(make_folder(output) / "maps")
    fields = [
        field
        for condition, source in ((CONTROL, control), (TREATED, treated))
        for field in measure_fields(condition, source, ranges, expected, nuclei, maps)
    ]
    channels = summarise_conditions(fields, expected)
    said = [s for channel, entry in channels.items() for s in sentences(channel, entry)]
    summary = {"sentences": said, "channels": channels, "false_alarms_stated": FALSE_ALARMS}
    write_csv(output / "conditions.csv", FIELDS_HEADER, [_field_line(f, expected) for f in fields])
    write_csv(output / "cells.csv", CELLS_HEADER, _cell_lines(fields, expected))
    text = json.dumps({**summary, "provenance": dict(provenance)}, indent=1, allow_nan=False)
    write_text(output / "conditions.json", text + "\n")
    shown = {c: shown_channel(c, fields, treated, control, ranges[c], expected[c]) for c in ranges}
    figures = make_folder(output / "figures")
    for channel, one in shown.items():
        write_png(figures / f"{channel}_departures.png", one.picture())
    page = output / "conditions.html"
    write_text(page, render(summary, shown, provenance))
    for sentence in said:
        print(sentence)
    print(f"report: {page}")
    return summary


def _field_line(field: Field, expected: Mapping[str, Expectation]) -> list[str]:
    departing = sum(cell.departs(expected[field.channel]) for cell in field.cells)
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
            f"{cell.departure:.6g}", str(cell.departs(expected[field.channel])).lower(),
        ]
        for field in fields
        for cell in field.cells
    ]  # fmt: skip
