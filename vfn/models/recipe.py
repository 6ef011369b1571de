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
    for where, spec in _SPECS.items():
        value: Any = recipe
        for key in where.split("."):
            if not isinstance(value, Mapping):
                break
            value = value.get(key, _MISSING)
        if value is _MISSING and where in _ASKED_LATE:
            raise ValueError(f"it lacks {where}")
        if value is not _MISSING and not _fits(value, spec):
            raise ValueError(f"{where} is {str(value)[:80]!r}")
    for part in ("data", "generator"):  # OmegaConf would fill in what these name
        if "${" in str(recipe.get(part)):
            raise ValueError(f"{part} holds an interpolation")


def _fits(value: Any, spec: Any) -> bool:
    """Return True if `value` is as `spec` says.

    Args:
        spec: a function; None; a list or dictionary that holds the spec of its values; a tuple of specs of
            which one must fit.
    """
    if isinstance(spec, tuple):
        return any(_fits(value, one) for one in spec)
    if isinstance(spec, list):
        return isinstance(value, list | tuple) and all(_fits(part, spec[0]) for part in value)
    if isinstance(spec, dict):
        return _is_mapping(value) and all(_fits(part, spec[str]) for part in value.values())
    return value is None if spec is None else bool(spec(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**31


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float) or _fits(
        value, (None, _is_text, [_is_plain], {str: _is_plain})
    )


def _pair_of(first: Any, second: Any) -> Check:
    return lambda value: (
        isinstance(value, list | tuple)
        and len(value) == 2
        and _fits(value[0], first)
        and _fits(value[1], second)
    )


_MISSING: Any = object()
_OFFSET = _pair_of(_is_number, _is_number)
_RANGE = _pair_of(_is_whole, _is_whole)
_SPECS: dict[str, Any] = {
    **dict.fromkeys(("generator", "data", "task", "layout", "baselines", "shifts", "split"), _is_mapping),
    **dict.fromkeys(("version", "model", "data.name", "task.name", "split.by"), _is_text),
    **dict.fromkeys(("uncertainty", "focus", "refocus", "deconvolution"), (None, _is_mapping)),
    **{part: [_is_mapping] for part in ("inputs", "targets", "envelopes")},
    **dict.fromkeys(("data.root", "layout.pattern", "layout.manifest"), (None, _is_text)),
    **dict.fromkeys(("layout.z_zero", "layout.z_step"), (None, _is_number)),
    **dict.fromkeys(("task.inputs", "task.targets"), lambda names: bool(names) and _fits(names, [_is_text])),
    "data.patch_size": lambda value: _is_whole(value) and value > 0,
    "task.input_z": [_is_number],
    "layout.channels": {str: (_is_text, _is_whole, [(_is_text, _is_whole)])},
    "flats": [(None, _is_mapping)],
    "shifts.by_view": {str: [(None, _OFFSET)]},
    "shifts.usual": [_OFFSET],
    "pixel_size": (None, lambda value: _is_number(value) and value > 0),
    # Names, and rows and columns or None.
    **{f"split.{part}": [_pair_of(_is_text, (None, _pair_of(_RANGE, _RANGE)))] for part in PARTS},
    "card": (None, {str: _is_plain}),
}  # fmt: skip
