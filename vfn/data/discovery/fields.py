"""Fields of view and their image sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from vfn.data.images import content_key, read_image
from vfn.data.names import Names
from vfn.data.tables import read_table
from vfn.errors import UserError


class ImageSource(Protocol):
    """One channel of one field at one z plane."""

    def read(self) -> np.ndarray:
        """Read the pixels (H, W)."""
        ...

    @property
    def pixel_size(self) -> float | None:
        """Micrometres per pixel, if known."""
        ...

    @property
    def key(self) -> str:
        """Identity of the pixels; a changed file has another key."""
        ...


@dataclass(frozen=True)
class FilePlane:
    """Channel `index` of an image file; None where the file must hold no other."""

    path: Path
    index: int | None = None

    def read(self) -> np.ndarray:
        """Read the pixels (H, W).

        Raises:
            UserError: see `read_image`; or the file has fewer channels than asked for, or several
                (a stack?) where its name promises one.
        """
        array = read_image(self.path, colour=self.index is not None).array
        if self.index is None and len(array) > 1:
            raise UserError(
                f"{self.path}: holds {len(array)} planes where one is expected; split it, or say which "
                "plane is which channel by channels={CHANNEL: POSITION} (in training data.channels)"
            )
        index = self.index or 0
        if not 0 <= index < len(array):
            raise UserError(
                f"{self.path}: channel {index} is asked for, it has {len(array)} (the first is 0); "
                "correct its position in channels (in training data.channels)"
            )
        return array[index]

    @property
    def pixel_size(self) -> float | None:
        """Micrometres per pixel, if the file states it."""
        return read_image(self.path, colour=True).pixel_size

    @property
    def key(self) -> str:
        """Path, size and time of change of the file, position in it, version of the reader.

        Raises:
            UserError: the file is not there.
        """
        return f"{content_key(self.path)}|{self.index}"

    def __str__(self) -> str:
        return f"{self.path}" + ("" if self.index is None else f" (channel {self.index})")


@dataclass(frozen=True)
class Time:
    """A field's place in a time lapse.

    Attributes:
        position: name of the field without the time point.
        movie: name of the field's file if it holds several time points; else empty.
        step: seconds between time points, if the file states it.
    """

    position: str
    movie: str = ""
    step: float | None = None


@dataclass(frozen=True)
class Field:
    """One field of view: its planes by (channel, z in um), its place on a plate and its time point.

    Each time point is a field of its own.

    Attributes:
        well_from_name: the well was read from the field's name; see `vfn.data.wells`.
    """

    name: str
    planes: Mapping[tuple[str, float], ImageSource]
    plate: str = ""
    well: str = ""
    site: str = ""
    time: Time | None = None
    well_from_name: bool = False


class NothingMatches(UserError):  # noqa: N818
    """No file matches the layout; the images may have other names."""


def left_out(fields: Sequence[Field], table: Path) -> list[Field]:
    """Return `fields` without those that `table` excludes.

    The table is a CSV with the columns field and, optionally, channel; a line without channel excludes the
    whole field.

    Raises:
        UserError: an unreadable table; a field that is not there, which may be a misspelt one; no field
            is left.
    """
    rows = read_table(table, "data.exclude", ("field",))
    names = Names(entry.name for entry in fields)
    out = set()  # (field, channel), without channel for the whole field
    for number, row in rows:
        name = names.find(row["field"])
        if name is None:
            raise UserError(
                f"{table}: line {number} excludes field {row['field']!r}, which is not there; "
                f"correct the line or remove it (fields are named like {min(names.there, default='-')})"
            )
        out.add((name, row.get("channel", "").casefold()))
    kept = []
    for entry in fields:
        if (entry.name, "") not in out:
            planes = {
                (channel, z): plane
                for (channel, z), plane in entry.planes.items()
                if (entry.name, channel.casefold()) not in out
            }
            kept.append(replace(entry, planes=planes))
    if not any(entry.planes for entry in kept):
        raise UserError(
            f"data.exclude={table}: leaves out all {len(fields)} field(s); remove the lines of those that "
            "are to be used"
        )
    return kept
