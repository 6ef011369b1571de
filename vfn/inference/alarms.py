"""Inputs that lie outside of what a model was trained on: found, written and reported."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vfn.data.input_shift import field_statistics, judge_pixel_size
from vfn.models.checkpoint import Checkpoint
from vfn.system.csv_files import write_csv

log = logging.getLogger(__name__)
SHOWN = 5  # lines on the console; the table holds them all


def input_alarms(
    checkpoint: Checkpoint, inputs: Sequence[np.ndarray], pixel_size: float | None = None
) -> dict[str, list[str]]:
    """Say how the inputs (H, W) of a field differ from those of the training.

    Args:
        pixel_size: um, of the field; None where it is not known.

    Returns:
        Phrases by channel; empty where nothing lies outside the training distribution.
    """
    size = judge_pixel_size(pixel_size, checkpoint.pixel_size)
    levels = checkpoint.levels(inputs)
    judged = {
        channel: size + envelope.judge(field_statistics(array, level))
        for channel, envelope, array, level in zip(
            checkpoint.task.inputs, checkpoint.envelopes, inputs, levels, strict=True
        )
    }
    return {channel: phrases for channel, phrases in judged.items() if phrases}


def report_alarms(alarms: Mapping[str, Mapping[str, list[str]]], fields: int, path: Path) -> None:
    """Write every alarm to the table at `path` and log the first few; without any there is no table.

    Args:
        alarms: of each field, as `input_alarms` gives them.
        fields: number of fields that were looked at.
    """
    if not alarms:
        path.unlink(missing_ok=True)  # of a run over other fields
        return
    rows = [
        (field, channel, phrase)
        for field, channels in alarms.items()
        for channel, phrases in channels.items()
        for phrase in phrases
    ]
    write_csv(path, ("field", "channel", "finding"), rows)
    log.warning(
        "input shift: %d of %d field(s) lie outside what the model was trained on, where a predicted "
        "stain deserves less trust; all in %s",
        len(alarms), fields, path,
    )  # fmt: skip
    for field, channel, phrase in rows[:SHOWN]:
        log.warning("  field %s, %s: %s", field, channel, phrase)
