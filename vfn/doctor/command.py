"""From a config to `doctor.csv`, `exclude.csv`, `doctor.html` and a verdict."""

import shlex
import sys
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vfn.cli.entry import known_tasks, plain, set_up_logging, trainable_task
from vfn.commands.predict import required
from vfn.data.config import DataConfig
from vfn.data.proposal import Proposal
from vfn.data.samples import Task
from vfn.data.sets import make_data
from vfn.doctor.case import Case
from vfn.doctor.examine import examine
from vfn.doctor.files import unpaired
from vfn.doctor.findings import FATAL, LOOK, OF_NAMES, REPLACE, SEVERITIES, Finding
from vfn.doctor.leakage import divide, leaks, parts_of
from vfn.doctor.page import render
from vfn.doctor.reading import FieldStats, read_fields
from vfn.doctor.tables import EXCLUDE_HEADER, HEADER, rows
from vfn.errors import UserError
from vfn.system.csv_files import write_csv
from vfn.system.files import write_text
from vfn.system.locks import claimed

DO_NOT_TRAIN = 1  # exit code: the files were written, but a script should not go on to training


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
    folder = required(config, "output", "DIR")
    task = trainable_task(config.task)
    data = make_data(task, DataConfig.from_dict(plain(config.data)), known_tasks())
    damaged: list[UserError] = []
    fields = data.find(damaged)
    typed = HydraConfig.get().overrides.task
    overrides = [shlex.quote(o) for o in typed if not o.lstrip("+").startswith("output=")]
    with claimed(folder):
        stats = list(read_fields(fields, task))
        proposal = None if any(f.samples for f in stats) else data.proposal(fields)
        case = judge(stats, task, data.config, damaged, overrides, proposal)
        exclude, page = folder / "exclude.csv", folder / "doctor.html"
        write_csv(folder / "doctor.csv", HEADER, rows(case))
        lines = [[*key, " ".join(reasons)] for key, reasons in case.excluded.items()]
        write_csv(exclude, EXCLUDE_HEADER, lines)
        write_text(page, render(case, exclude))
    print(case.verdict)
    print(f"report: {page}")
    if case.excluded:
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
        overrides: see `Case`.
        proposal: pattern that pairs the files, where their names pair no field.
    """
    split, refused = divide(stats, config)
    lost = [Finding("unreadable", LOOK, str(exc), REPLACE) for exc in damaged]
    found = [*refused, *lost, *examine(stats, task, config), *leaks(stats, split, config)]
    if proposal is not None:
        found = [unpaired(proposal, task), *(f for f in found if f.kind not in OF_NAMES)]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Case(stats, task, config, found, parts_of(split), overrides)
