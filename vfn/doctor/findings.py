"""A finding: what is wrong with which fields, in words, and what to do about it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vfn.doctor.reading import FieldStats, Key

FATAL, LOOK, NOTE = "fatal", "look", "note"
SEVERITIES = (FATAL, LOOK, NOTE)
OF_NAMES = ("unpaired", "damaged", "split", "labels")  # follow where names pair no field
REPLACE = "replace the file, or leave the field out"
DAMAGED = 0.5  # share of the fields; with more of them there is nothing to train on


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know.

    Attributes:
        kind: short name; findings of one kind and channel are shown together.
        severity: "fatal" (do not train), "look" (somebody should), "note" (good to know).
        text: the finding in words.
        remedy: what to do, with the setting to type where there is one.
        fields: names of those concerned.
        channel: empty where it is about whole fields or the set.
        exclude: names of the fields that training can do without.
        setting: of `train.py` that mends it, as it is typed.
    """

    kind: str
    severity: str
    text: str
    remedy: str
    fields: tuple[str, ...] = ()
    channel: str = ""
    exclude: tuple[str, ...] = ()
    setting: str = ""


def of_field(kind: str, field: str, text: str, remedy: str, channel: str = "") -> Finding:
    """Return the finding on one field that somebody should look at, or leave out."""
    return Finding(kind, LOOK, text, remedy, (field,), channel, (field,))


def plane_names(fields: Sequence[FieldStats]) -> dict[Key, str]:
    """Name every plane that the task asks of any field, inputs first.

    The name is the channel's, with the depth where the channel has several.
    """
    inputs = dict.fromkeys(key for f in fields for key in f.inputs)
    keys = inputs | dict.fromkeys(key for f in fields for key in f.targets)
    depths = Counter(channel for channel, _ in keys)
    return {(c, z): f"{c} at {z:g} um" if depths[c] > 1 else c for c, z in keys}
