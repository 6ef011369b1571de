"""The trainings of a panel."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from vfn.data.samples import Task
from vfn.errors import UserError
from vfn.panel.findings import Grades


@dataclass(frozen=True)
class Row:
    """A line of the paper's Table 1.

    Attributes:
        inputs, target: channels.
        name: the paper's, as "Fluo-Fluo 1".
        grade: the paper's words, as "average-high".
    """

    inputs: tuple[str, ...]
    target: str
    name: str = ""
    grade: str = ""

    @classmethod
    def from_dict(cls, data: Any) -> "Row":
        """From a line of `conf/panel/*.yaml`."""
        return cls(
            tuple(str(c) for c in data["inputs"]), str(data["target"]), str(data["name"]),
            str(data["grade"]),
        )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training: an input set, the channels that one network predicts from it, a repeat."""

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    repeat: int

    @property
    def task(self) -> Task:
        """Task of the data set and the network."""
        return Task(
            f"{'_'.join(self.targets)}_from_{'_'.join(self.inputs)}", self.inputs, self.targets
        )

    @property
    def name(self) -> str:
        """Stem of the cell's files."""
        return f"{'+'.join(self.inputs)}_to_{'+'.join(self.targets)}_{self.repeat}"


@dataclass(frozen=True)
class Question:
    """Channels, trainings and limits of a panel.

    Attributes:
        channels: all that are named, inputs first.
        cells: the trainings.
    """

    channels: tuple[str, ...]
    cells: tuple[Cell, ...]
    rows: tuple[Row, ...]
    free: tuple[str, ...]
    grades: Grades
    wanted: float


def plan(
    channels: Sequence[str],
    targets: Sequence[str],
    inputs_up_to: int,
    repeats: int,
    joint: bool,
    rows: Sequence[Row] = (),
) -> list[Cell]:
    """All trainings, the small input sets first, one repeat of all before the next.

    Args:
        channels: that may be inputs.
        targets: that are predicted, each where it is no input.
        inputs_up_to: channels in an input set.
        repeats: of each, over splits.
        joint: one network for all targets of an input set; else one for each.
        rows: these pairs instead of all input sets.

    Raises:
        UserError: nothing to train.
    """
    if rows:
        asked: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            asked.setdefault(row.inputs, []).append(row.target)
    else:
        asked = {
            inputs: [target for target in targets if target not in inputs]
            for size in range(1, inputs_up_to + 1)
            for inputs in combinations(channels, size)
        }
    pairs = [(inputs, tuple(wanted)) for inputs, wanted in asked.items() if wanted]
    if not joint:
        pairs = [(inputs, (target,)) for inputs, wanted in pairs for target in wanted]
    if not pairs:
        raise UserError(
            f"channels={list(channels)}, targets={list(targets)}: no channel is left to predict; "
            "name two channels or more"
        )
    return [Cell(*pair, repeat) for repeat in range(repeats) for pair in pairs]
