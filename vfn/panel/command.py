"""From a config to a trained panel and its page."""

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vfn.cli.entry import plain, set_up_logging
from vfn.commands.predict import required
from vfn.data.base import StainData
from vfn.data.samples import Task
from vfn.data.sets import DATA_SETS
from vfn.errors import UserError
from vfn.panel.findings import Grades, collect
from vfn.panel.plan import Cell, Question, Row, plan
from vfn.panel.refocus import across
from vfn.panel.results import write
from vfn.panel.run import Cells
from vfn.system.files import clear_leftovers, make_folder
from vfn.training.build import stain_data

log = logging.getLogger(__name__)


def make_panel(config: DictConfig) -> None:
    """Train what is missing of a panel, then write its results; a job of a sweep leaves that to the
    last call.

    Raises:
        UserError: anything wrong in the config or the data.
    """
    set_up_logging()
    output = required(config, "output", "DIR")
    question = ask(config)
    part, parts = int(config.part), int(config.parts)
    if not 0 <= part < parts:
        raise UserError(f"part={part} parts={parts}: give a part from 0 to parts - 1")
    swept = HydraConfig.get().mode == RunMode.MULTIRUN
    first, *others = question.channels
    if not others:
        raise UserError(f"channels={list(question.channels)}: a panel takes two channels or more")
    # All channels, which no network sees at once: to look the images over.
    data = stain_data(config, Task("panel", (first,), tuple(others)))
    cells = Cells(config, make_folder(output), _digest(data))
    results = _train(cells, question.cells[part::parts])
    if swept or parts > 1:
        log.info(
            "part %d of %d is trained; the same command without -m, part and parts writes the panel",
            part, parts,
        )  # fmt: skip
        return
    findings = collect(results, question.grades)
    refocused = across(config, question, Path(str(config.refocus))) if config.refocus else []
    with FileLock(output / ".write.lock"):  # of several processes that end together
        clear_leftovers(output)
        write(output, question, findings, results, config, refocused)


def ask(config: DictConfig) -> Question:
    """Read the question of a panel from its config.

    Raises:
        UserError: channels that are not there, numbers out of range.
    """
    for key in ("inputs_up_to", "repeats", "steps", "parts"):
        if config[key] < 1:
            raise UserError(f"{key}={config[key]}: give 1 or more")
    if not 0 < config.wanted < 1:
        raise UserError(f"wanted={config.wanted}: give a correlation between 0 and 1")
    if config.keep not in ("none", "best"):
        raise UserError(f"keep={config.keep}: choose none or best")
    rows = tuple(Row.from_dict(row) for row in plain(config.rows))
    free = tuple(map(str, config.free))
    channels, targets = _asked(config, rows, free)
    cells = plan(
        channels, targets, int(config.inputs_up_to), int(config.repeats), bool(config.joint), rows
    )
    grades = Grades(float(config.grades.high), float(config.grades.average))
    named = tuple(dict.fromkeys((*channels, *targets)))
    return Question(named, tuple(cells), rows, free, grades, float(config.wanted))


def _asked(
    config: DictConfig, rows: Sequence[Row], free: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the channels that may be inputs, and those to be predicted; the latter empty with `rows`.

    Raises:
        UserError: none is named, or one that the data set lacks.
    """
    have = _channels(config)
    targets: tuple[str, ...] = ()
    if rows:
        channels = tuple(dict.fromkeys(c for row in rows for c in (*row.inputs, row.target)))
    else:
        channels = tuple(map(str, config.channels)) or have
        targets = tuple(map(str, config.targets)) or tuple(c for c in channels if c not in free)
    named = dict.fromkeys((*channels, *targets))
    unknown = [c for c in named if have and c not in have]
    if unknown:
        raise UserError(
            f"{', '.join(unknown)}: no channel of data={config.data.name}; it has {', '.join(have)}"
        )
    if not named:
        raise UserError(
            "channels: which are there? give channels=[dna,er,...], or name their files by "
            "'data.channels={dna: TOKEN, er: TOKEN}'"
        )
    return channels, targets


def _channels(config: DictConfig) -> tuple[str, ...]:
    """Return the channels of the data set; empty where only the files could tell."""
    kind = DATA_SETS.get(str(config.data.name))
    return tuple(map(str, plain(config.data).get("channels") or (kind and kind.CHANNELS) or ()))


def _digest(data: StainData) -> str:
    """Digest of the images: paths, sizes and dates, or the seeds that they are drawn from."""
    digest = hashlib.blake2b(digest_size=12)
    for field in data.find():
        for (channel, z), plane in sorted(field.planes.items(), key=lambda item: item[0]):
            digest.update(f"{field.name} {channel} {z:g} {plane.key}\n".encode(errors="replace"))
    return digest.hexdigest()


def _train(cells: Cells, mine: Sequence[Cell]) -> list[dict[str, Any]]:
    """Figures of all cells of `mine`, in their order; trains those that have none."""
    known = {cell: cells.read(cell) for cell in mine}
    missing = [cell for cell in mine if known[cell] is None]
    if len(missing) < len(mine):
        log.info("%d of %d trainings are there already", len(mine) - len(missing), len(mine))
    start, done = time.monotonic(), 0
    # What another process is at comes last, when it is done there.
    for wait in (False, True):
        for cell in missing:
            if known[cell] is None and (result := cells.train(cell, wait)):
                known[cell] = result
                done += 1
                left = (time.monotonic() - start) / done * (len(missing) - done)
                log.info("%d of %d: %s; %s left", done, len(missing), _line(result), _minutes(left))
    return [result for cell in mine if (result := known[cell]) is not None]


def _line(result: Any) -> str:
    figures = ", ".join(
        f"{target} {scores['prediction']['pearson']:.3f}"
        for target, scores in result["targets"].items()
        if scores["prediction"]["pearson"] is not None
    )
    return f"{' + '.join(result['inputs'])}, repeat {result['repeat']}: r of {figures}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
