"""The recipe in a checkpoint: whether its parts have the types that all who read it rely on."""

import math
from collections.abc import Callable, Mapping
from typing import Any

RECIPE = "vfn"  # the key of our part of a checkpoint
Check = Callable[[Any], bool]
PARTS = ("train", "val", "test")
# Parts that a command asks for long after the checkpoint was loaded.
_ASKED_LATE = (
    "version", "model", "data.name", "data.root", "data.patch_size", "shifts.by_view", "shifts.usual",
    "split.by", *(f"split.{part}" for part in PARTS),
)  # fmt: skip


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Raise for a part of another type than training writes, or a missing one that is asked for late.

    Raises:
        ValueError: names the part.
    """
    for where, check in _CHECKS.items():
        value: Any = recipe
        for key in where.split("."):
            if not isinstance(value, Mapping):
                break
            value = value.get(key, _MISSING)
        if value is _MISSING and where in _ASKED_LATE:
            raise ValueError(f"it lacks {where}")
        if value is not _MISSING and not check(value):
            raise ValueError(f"{where} is {str(value)[:80]!r}")
    for part in ("data", "generator"):  # OmegaConf would fill in what these name
        if "${" in str(recipe.get(part)):
            raise ValueError(f"{part} holds an interpolation")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**31


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check, least: int = 0, most: float = math.inf) -> Check:
    return lambda value: (
        isinstance(value, list | tuple) and least <= len(value) <= most and all(map(check, value))
    )


def _mapping_of(check: Check) -> Check:
    return lambda value: _is_mapping(value) and all(map(check, value.values()))


def _is_sample(value: Any) -> bool:
    """Name, and rows and columns or None."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and _is_text(value[0])
        and _or_none(_list_of(_list_of(_is_whole, 2, 2), 2, 2))(value[1])
    )


def _is_word(value: Any) -> bool:
    return (
        _is_text(value)
        or _is_whole(value)
        or _list_of(lambda v: _is_text(v) or _is_whole(v))(value)
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


_MISSING: Any = object()
_offset = _list_of(_is_number, 2, 2)
_CHECKS: dict[str, Check] = {
    "version": _is_text,
    "model": _is_text,
    "generator": _is_mapping,
    "data": _is_mapping,
    "data.name": _is_text,
    "data.root": _or_none(_is_text),
    "data.patch_size": lambda value: _is_whole(value) and value > 0,
    "task": _is_mapping,
    "task.name": _is_text,
    "task.inputs": _list_of(_is_text, 1),
    "task.targets": _list_of(_is_text, 1),
    "task.input_z": _list_of(_is_number),
    "layout": _is_mapping,
    "layout.channels": _mapping_of(_is_word),
    "layout.pattern": _or_none(_is_text),
    "layout.manifest": _or_none(_is_text),
    "layout.z_zero": _or_none(_is_number),
    "layout.z_step": _or_none(_is_number),
    "inputs": _list_of(_is_mapping),
    "targets": _list_of(_is_mapping),
    "flats": _list_of(_or_none(_is_mapping)),
    "envelopes": _list_of(_is_mapping),
    "baselines": _is_mapping,
    "shifts": _is_mapping,
    "shifts.by_view": _mapping_of(_list_of(_or_none(_offset))),
    "shifts.usual": _list_of(_offset),
    "pixel_size": _or_none(lambda value: _is_number(value) and value > 0),
    "split": _is_mapping,
    "split.by": _is_text,
    **{f"split.{part}": _list_of(_is_sample) for part in PARTS},
    "card": _or_none(lambda value: _is_mapping(value) and _is_plain(value)),
    **dict.fromkeys(("uncertainty", "focus", "refocus", "deconvolution"), _or_none(_is_mapping)),
}
