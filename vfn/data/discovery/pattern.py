"""Find channels by a regular expression over the path."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vfn.data.discovery.containers import planes_in_file
from vfn.data.discovery.layout import PATTERN_GROUPS, Layout
from vfn.data.discovery.naming import Found, Where, channel_by_word, path_below, timed
from vfn.data.images import is_image
from vfn.data.matching import search_all
from vfn.data.walk import find_sources, tokenize
from vfn.errors import UserError


def _matches(layout: Layout, paths: Sequence[str]) -> list[dict[str, str] | None]:
    """Match the layout's pattern in each of `paths`: its groups, or None.

    Raises:
        UserError: see `search_all`; or the pattern lacks a group that it needs.
    """
    text, key = layout.pattern or "", f"{layout.prefix}pattern"
    found = search_all(text, paths, key)
    given, named = f"{key}={text}", set(re.compile(text).groupindex)
    unknown = sorted(named - set(PATTERN_GROUPS))
    if unknown:
        raise UserError(
            f"{given}: the group {', '.join(unknown)} is not known; there are {', '.join(PATTERN_GROUPS)}"
        )
    if "channel" not in named or not named & {"field", "well", "site"}:
        raise UserError(
            f"{given}: needs the named groups channel and field (or well, "
            f"site); others allowed are {', '.join(PATTERN_GROUPS)}; found {sorted(named)}"
        )
    return found


def from_pattern(root: Path, layout: Layout, wanted: Sequence[str]) -> Iterable[Found]:
    """Yield the planes whose paths match the layout's pattern."""
    by_word, paths = channel_by_word(layout, wanted), list(filter(is_image, find_sources(root)))
    found = _matches(layout, [path_below(path, root) for path in paths])
    matched: list[tuple[Path, dict[str, str], str]] = []
    for path, groups in zip(paths, found, strict=True):
        if groups is None:
            continue
        channel = by_word.get(groups.pop("channel").casefold())
        if channel is None:
            continue
        matched.append((path, groups, channel))
    zero, step = _focus(layout, [(path, groups.get("z", "")) for path, groups, _ in matched])
    for path, groups, channel in matched:
        z = groups.pop("z", "")
        z_um = (
            round((float(z) - zero) * step, 6) if z else 0.0
        )  # so that 1.1 - 0.9 is the 0.2 of a task
        name = "_".join(tokenize(groups.pop("field", "")))
        where: Where = {key: groups[key] for key in ("plate", "well", "site") if groups.get(key)}
        site = f"s{where['site']}" if "site" in where else ""
        place = "_".join(part for part in (where.get("plate"), where.get("well"), site) if part)
        name, where = timed(name or place, where, groups.get("time", ""))
        for at, depth, plane, when in planes_in_file(path, layout, name, where):
            yield at, channel, z_um + depth, plane, when


def _focus(layout: Layout, found: Sequence[tuple[Path, str]]) -> tuple[float, float]:
    """Return the number of the focal plane and the um between planes, for planes numbered in names.

    Raises:
        UserError: a plane that is no number.
    """
    numbers = set()
    for path, z in found:
        try:
            numbers |= {float(z)} if z else set()
        except ValueError as exc:
            raise UserError(
                f"{path}: z is {z!r} by {layout.prefix}pattern, a number is expected"
            ) from exc
    zero = layout.z_zero
    if zero is None:  # one plane throughout is in focus, whatever its number
        zero = numbers.pop() if len(numbers) == 1 else 0.0
    return zero, 1.0 if layout.z_step is None else layout.z_step
