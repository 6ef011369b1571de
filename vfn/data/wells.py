"""Wells and sites in the names of fields, for where nothing else tells them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from vfn.data.discovery.fields import Field

NAMED_WELLS = 0.8  # share of the field names that must hold a well
COLUMNS = 48  # of the largest plate, which has 1536 wells
# r03c05, A01, A-01, a1, AF48, WellA1; not behind or before a letter or digit, but A01f03 and A01s1 hold a site.
_ROW_COLUMN = re.compile(r"(?<![a-z0-9])r(\d{1,2})c(\d{1,2})(?=f\d|p\d|\W|_|$)", re.IGNORECASE)
_LETTER_NUMBER = re.compile(
    r"(?<![A-Za-z0-9])(?:[Ww]ell)?([A-Pa-p]|A[A-F])[-_]?(\d{1,2})(?=[fs]\d|[^A-Za-z0-9]|$)"
)
_SITE = re.compile(r"(?<![a-z])(?:s|f|site|field|fov|xy)[-_]?(\d+)", re.IGNORECASE)
_PLATE = re.compile(r"(?<![a-z0-9])(?:plate[-_]?([a-z0-9]+)|pl?(\d+))(?![a-z0-9])", re.IGNORECASE)


def wells_from_names(names: Sequence[str]) -> dict[str, str]:
    """Map each field to its well, where most names hold something that reads as one and there are several.

    Wells of several plates are told apart where every name says its plate before the well.

    >>> wells_from_names(["A01_s1", "A01_s2", "B02_s1"])
    {'A01_s1': 'A01', 'A01_s2': 'A01', 'B02_s1': 'B02'}
    >>> wells_from_names(["plate_1_A1", "plate_2_A1"])
    {'plate_1_A1': '1/A01', 'plate_2_A1': '2/A01'}
    """
    rows = {n: m for n in names if (m := _ROW_COLUMN.search(n))}
    wells = _on_plates(rows, lambda m: f"r{int(m[1]):02d}c{int(m[2]):02d}")
    if _tells(wells, names):
        return wells
    matches = {n: _letters_numbers(n) for n in names}
    fallback: dict[str, str] = {}
    for position in range(max(map(len, matches.values()), default=0)):
        found = {n: m[position] for n, m in matches.items() if len(m) > position}
        wells = _on_plates(found, lambda m: f"{m[1].upper()}{int(m[2]):02d}")
        # "f01, f02" and "p01" number something else: wells lie in more than one row, or are
        # written with a capital letter. P1 and P2 alone may be plates, if a well follows.
        letters = {m[1] for m in found.values()}
        if _tells(wells, names) and (len(letters) > 1 or "".join(letters).isupper()):
            if letters != {"P"}:
                return wells
            fallback = fallback or wells
    return fallback


def _letters_numbers(name: str) -> list[re.Match[str]]:
    return [m for m in _LETTER_NUMBER.finditer(name) if 1 <= int(m[2]) <= COLUMNS]


def with_wells(fields: Sequence[Field]) -> list[Field]:
    """Return `fields` with the wells and sites that their names tell, where no field has a well otherwise."""
    if any(entry.well for entry in fields):
        return list(fields)
    wells = wells_from_names([entry.name for entry in fields])
    return [
        replace(
            entry, well=wells[entry.name], site=entry.site or _site(entry.name), well_from_name=True
        )
        if entry.name in wells
        else entry
        for entry in fields
    ]


def _on_plates(
    found: Mapping[str, re.Match[str]], named: Callable[[re.Match[str]], str]
) -> dict[str, str]:
    """Return the wells, with their plates where every name says it before and there are several."""
    wells = {n: named(match) for n, match in found.items()}
    told = {n: list(_PLATE.finditer(n[: match.start()])) for n, match in found.items()}
    if not all(told.values()):
        return wells
    plates = {n: m[-1][1] or m[-1][2] for n, m in told.items()}
    several = len(set(plates.values())) > 1
    return {n: f"{plates[n]}/{well}" for n, well in wells.items()} if several else wells


def _tells(wells: Mapping[str, str], names: Sequence[str]) -> bool:
    return len(wells) >= NAMED_WELLS * len(names) and len(set(wells.values())) > 1


def _site(name: str) -> str:
    found = _SITE.search(name)
    return found[1] if found else ""
