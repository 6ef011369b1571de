"""The naming scheme of a data set's files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vfn.errors import UserError

PATTERN_GROUPS = ("field", "channel", "plate", "well", "site", "z", "time")

Words = str | int | Sequence[str | int]


@dataclass(frozen=True)
class Layout:
    """Naming scheme of files; plain data, stored in the checkpoint for `predict.py`.

    Attributes:
        channels: channel -> its token in the path or its name inside the file (a string, or several
            of which each means the channel), or its position inside multi-channel files (an integer).
            A channel that is not listed is its own token. Of a file that holds a stack, each plane
            has a position: "phase@-4" is `phase` 4 um below focus.
        pattern: regular expression with the named groups of `PATTERN_GROUPS`, searched in the path
            relative to the root; the group `channel` holds the token of the channel.
        manifest: CSV with the columns field, channel, path and, if wanted, plate, well, site, time, z
            (um) and index (position inside a multi-channel file, from 0; beside z that of the plane in
            a stack). Paths are relative to the CSV.
        z_zero: value of the group `z` at the focal plane; number of that plane in a stack that lies in
            one file, from 0. None takes 0 in names, or the only value that there is; in a file the
            middle plane.
        z_step: micrometres by which z grows when the group `z`, or the number, grows by 1; None takes
            1 in names, and in a file what it says.
        prefix: of the settings in messages: "data." in training, "" in `predict.py`; not stored.
    """

    channels: Mapping[str, Words] = field(default_factory=dict)
    pattern: str | None = None
    manifest: str | None = None
    z_zero: float | None = None
    z_step: float | None = None
    prefix: str = field(default="data.", compare=False)

    def words(self, channel: str) -> tuple[str, ...]:
        """Return the words that mean a channel in a path, in a file or in a manifest."""
        return listed(self.channels.get(channel, channel))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for the checkpoint."""
        stored = asdict(replace(self, channels=dict(self.channels)))
        return {key: value for key, value in stored.items() if key != "prefix"}


def listed(given: Any) -> tuple[str, ...]:
    """Return the words that a setting lists: null means none, and one needs no brackets."""
    if given is None:
        return ()
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return tuple(map(str, given)) if several else (str(given),)


def check_channels(channels: Any, setting: str) -> None:
    """Refuse an invalid `Layout.channels`.

    Args:
        setting: its name, for the message.

    Raises:
        UserError: no mapping, or a channel without a word or position.
    """
    if not isinstance(channels, Mapping):
        raise UserError(
            f"{setting}={channels}: give a mapping, in quotes as the shell takes braces apart: "
            f"'{setting}={{CHANNEL: TOKEN}}'"
        )
    for channel, given in channels.items():
        words = [given] if isinstance(given, str | int) else given
        if not isinstance(words, Sequence) or not words or not all(map(_is_word, words)):
            raise UserError(
                f"{setting}: {channel} is {given!r}; give a word, several as [WORD, WORD], or a "
                "position inside of files, 0 or more"
            )


def check_z(zero: Any, step: Any, prefix: str) -> None:
    """Refuse an invalid `Layout.z_zero` or `Layout.z_step`.

    Raises:
        UserError: no number; a step of 0.
    """
    for key, number in (("z_zero", zero), ("z_step", step)):
        if number is not None and not is_number(number):
            raise UserError(f"{prefix}{key}={number}: give a number, or null")
    if step == 0:
        raise UserError(f"{prefix}z_step=0: give the micrometres from one plane to the next")


def is_number(given: Any) -> bool:
    """Return True for a finite number."""
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def _is_word(given: Any) -> bool:
    return isinstance(given, str | int) and not isinstance(given, bool) and bool(str(given).strip())


def split_plane(channel: str) -> tuple[str, float | None]:
    """Split a channel into its name and plane (um); None if no plane is named.

    >>> split_plane("phase@-4")
    ('phase', -4.0)

    Raises:
        UserError: the plane is no number.
    """
    name, at, plane = channel.partition("@")
    if not at:
        return channel, None
    try:
        return name, float(plane)
    except ValueError as exc:
        raise UserError(
            f"channel {channel}: {plane!r} is no plane; give micrometres from focus, as phase@-4"
        ) from exc
