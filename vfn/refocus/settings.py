"""Settings of the refocusing step, the keys `data.refocus...`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vfn.data.discovery.layout import split_plane
from vfn.data.names import Names
from vfn.data.samples import Task
from vfn.data.tables import read_table
from vfn.errors import UserError

PREFERRED = ("golgi_actin", "actin")  # channels that the paper refocuses

# What happens to blurred fields, and how that is told.
ACTIONS = {
    "refocus": "refocused", "leave_out": "left out of training", "keep": "kept as they are",
}  # fmt: skip


@dataclass(frozen=True)
class RefocusSettings:
    """Values of the keys `data.refocus...`.

    Attributes:
        beyond: um from focus beyond which a plane is blurred.
        channels: inputs to look at; empty takes golgi_actin, else actin, else the model's own.
        action: "refocus" blurred fields, "leave_out" them of training and validation, or "keep" them as they
            are; `refocus.csv` records them in any case.
        fields: names of the blurred fields; None decides by the score.

    Raises:
        UserError: a setting out of range.
    """

    beyond: float = 3.0
    channels: tuple[str, ...] = ()
    action: str = "refocus"
    fields: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if not self.beyond > 0:
            raise UserError(f"data.refocus_beyond={self.beyond:g}: give micrometres above 0")
        if self.action not in ACTIONS:
            raise UserError(f"data.refocus_action={self.action}: choose {', '.join(ACTIONS)}")

    def is_blurred(self, field: str, um: float) -> bool:
        """Return True for a field that is named, or beyond the limit; never where nothing is shown."""
        return um > self.beyond if self.fields is None else field in self.fields

    def looked_at(self, task: Task, own: str) -> tuple[int, ...]:
        """Return the indices of the inputs to look at.

        Args:
            own: the channel that the model was trained on.

        Raises:
            UserError: the task has none of them.
        """
        names = [split_plane(channel)[0] for channel in task.inputs]
        wanted = self.channels or next(((name,) for name in (*PREFERRED, own) if name in names), ())
        unknown = [name for name in wanted if name not in names]
        if unknown or not wanted:
            raise UserError(
                f"data.refocus_channels={list(self.channels)}: "
                f"{'no input ' + ', '.join(unknown) if unknown else 'which input is to be refocused?'}; "
                f"the inputs are {', '.join(names)}"
            )
        return tuple(i for i, name in enumerate(names) if name in wanted)


def read_fields(path: Path, known: Iterable[str]) -> frozenset[str]:
    """Read the names in the column `field` of a CSV.

    Args:
        known: existing fields.

    Raises:
        UserError: unreadable, without that column, or with a field that is not there.
    """
    key = "data.refocus_fields"
    given = [row["field"] for _, row in read_table(path, key, ["field"])]
    return frozenset(Names(known).pick(given, f"{key}={path}", "field"))
