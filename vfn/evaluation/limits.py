"""The limits of the verdict, as a config gives them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfn.errors import UserError
from vfn.evaluation.criteria import CRITERIA, Band, Criterion


@dataclass(frozen=True)
class Limits:
    """Values of a criterion that pass for "use", and at least for "care"."""

    use: Band
    care: Band


def read_limits(node: Mapping[str, Any]) -> dict[str, Limits]:
    """Limits of every criterion from the `verdict` part of a config.

    Args:
        node: criterion -> {use: limit, care: limit}, a limit being a number, or [low, high] for
            criteria that want a figure within two ends.

    Raises:
        UserError: a criterion that is missing or unknown, a limit of the wrong kind, a "care" that
            is stricter than "use".
    """
    known = {criterion.key: criterion for criterion in CRITERIA}
    for key in (*node, *known):
        if (key in node) != (key in known):
            what = "unknown" if key in node else "missing"
            raise UserError(f"verdict.{key}: {what}; the criteria are {', '.join(known)}")
    return {key: _read_pair(known[key], node[key]) for key in known}


def _read_pair(criterion: Criterion, node: Any) -> Limits:
    name = f"verdict.{criterion.key}"
    if not isinstance(node, Mapping) or set(node) != {"use", "care"}:
        raise UserError(f"{name}={node}: give two limits, {name}.use and {name}.care")
    use, care = (_read_band(criterion, f"{name}.{key}", node[key]) for key in ("use", "care"))
    if use.low < care.low or use.high > care.high:
        raise UserError(
            f"{name}: use={node['use']} lets through what care={node['care']} does not; "
            "care must be the wider of the two"
        )
    return Limits(use, care)


def _read_band(criterion: Criterion, name: str, value: Any) -> Band:
    wanted, form = (2, "[lower,upper]") if criterion.kind == "within" else (1, "a number")
    numbers = value if wanted == 2 and isinstance(value, Sequence) else [value]
    right = all(type(n) in (int, float) and math.isfinite(n) for n in numbers)
    if not right or len(numbers) != wanted or list(numbers) != sorted(numbers):
        raise UserError(f"{name}={value}: give {form}")
    low, high = float(numbers[0]), float(numbers[-1])
    return Band(
        -math.inf if criterion.kind == "most" else low,
        math.inf if criterion.kind == "least" else high,
    )
