"""From a config to `doctor.csv`, `exclude.csv`, `doctor.html` and a verdict."""

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vfn.cli.entry import known_tasks, plain, set_up_logging, trainable_task
from vfn.data.base import DataConfig, StainData
from vfn.data.discovery import Field
from vfn.data.proposal import Proposal
from vfn.data.samples import Task
from vfn.data.sets import make_data
from vfn.doctor import tables
from vfn.doctor.case import Case
from vfn.doctor.examine import examine
from vfn.doctor.files import unpaired
from vfn.doctor.findings import FATAL, LOOK, OF_NAMES, REPLACE, Finding, in_order
from vfn.doctor.leakage import divide, leaks, parts_of
from vfn.doctor.page import render
from vfn.doctor.reading import FieldStats, read_fields
from vfn.errors import UserError
from vfn.system.files import write_text
from vfn.system.locks import claimed

DO_NOT_TRAIN = 1  # exit code: the files were written, but a script should not go on to training

log = logging.getLogger(__name__)


def check(config: DictConfig) -> None:
    """Run the command; a fatal finding becomes its exit code."""
    if diagnose(config).of_severity(FATAL):
        sys.exit(DO_NOT_TRAIN)


def diagnose(config: DictConfig) -> Case:
    """Look the data set of `config` over; a bad verdict is no error.

    Returns:
        What was found; it is in the files of `config.output`, too.

    Raises:
        UserError: no output folder, no such data set or channel; nothing is written then.
    """
    set_up_logging()
    if not config.output:
        raise UserError("output: where shall the results go? give output=DIR")
    task = trainable_task(config.task)
    data_config = DataConfig.from_dict(plain(config.data))
    data = make_data(task, data_config, known_tasks())
    folder = Path(config.output)
    damaged: list[UserError] = []
    fields = data.find(damaged)
    with claimed(folder):
        return _diagnose(data, fields, damaged, folder)


def _diagnose(
    data: StainData, fields: Sequence[Field], damaged: Sequence[UserError], folder: Path
) -> Case:
    stats = list(read_fields(fields, data.task))
    proposal = None if any(f.samples for f in stats) else data.proposal(fields)
    case = judge(stats, data.task, data.config, damaged, _overrides(), proposal)
    exclude = folder / "exclude.csv"
    tables.write_doctor(folder / "doctor.csv", case)
    tables.write_exclude(exclude, case)
    page = folder / "doctor.html"
    write_text(page, render(case, {f.name: f for f in fields}, exclude))
    print(case.verdict)
    print(f"report: {page}")
    if any(f.exclude for f in case.findings):
        print(f"fields to leave out: data.exclude={exclude}")
    return case


def judge(
    stats: Sequence[FieldStats],
    task: Task,
    config: DataConfig,
    damaged: Sequence[UserError] = (),
    overrides: Sequence[str] = (),
    proposal: Proposal | None = None,
) -> Case:
    """All that is known of a data set once its images were read.

    Args:
        damaged: files that could not be read when fields were looked for.
        proposal: pattern that pairs the files, where their names pair no field.
    """
    split, refused = divide(stats, config)
    lost = [Finding("unreadable", LOOK, str(exc), REPLACE) for exc in damaged]
    found = [*refused, *lost, *examine(stats, task, config), *leaks(stats, split, config)]
    if proposal is not None:
        found = [unpaired(proposal, task), *(f for f in found if f.kind not in OF_NAMES)]
    return Case(stats, task, config, in_order(found), parts_of(split), tuple(overrides))


def _overrides() -> list[str]:
    """Return the overrides that the user typed, without the output folder."""
    typed = HydraConfig.get().overrides.task
    return [shlex.quote(o) for o in typed if not o.lstrip("+").startswith("output=")]
