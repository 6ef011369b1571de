"""`doctor.html`: the verdict, what to do, and the fields that need an eye."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vfn.data.discovery import Field, ImageSource
from vfn.doctor.case import Case
from vfn.doctor.findings import FATAL, LOOK, NOTE, SEVERITIES, Finding, corner_ratio
from vfn.doctor.leakage import PARTS
from vfn.doctor.measure import PlaneStats
from vfn.doctor.reading import FieldStats, Key
from vfn.doctor.tables import number, role, status
from vfn.errors import UserError
from vfn.report.html import environment, today, versions
from vfn.report.images import Panel, Strip, scale_bar

SHOWN_FIELDS = 12  # with pictures, the worst first
SHOWN_PLANES = 6  # pictures a field
SAMPLES = 3  # fields that are shown where none is bad
PICTURE = 320  # pixels, the longer side
DETAIL = 160  # pixels of the middle that the overlay shows
TABLE_ROWS = 400  # of the folded table; doctor.csv has all
SENTENCES = 4  # of one kind before "and N more"
WORDS = {FATAL: "do not train", LOOK: "look", NOTE: "note"}
TITLES = {
    "unreadable": "Files that cannot be read",
    "names": "Names that pair no field",
    "unpaired": "Fields that lack a channel",
    "labels": "Targets that some fields lack",
    "size": "Sizes that differ",
    "dtype": "Pixel types that differ",
    "depth": "Bit depths that differ",
    "bits": "Fewer bits than the file has room for",
    "saturated": "Saturated pixels",
    "empty": "Empty images",
    "illumination": "Uneven illumination",
    "focus": "Out of focus",
    "noise": "Noise",
    "shift": "Channels shifted against each other",
    "swap": "Channels that look exchanged",
    "duplicate": "The same picture twice",
    "leak": "Training and testing share cells",
    "plate": "Training and testing share plates",
    "split": "No split into training, validation and testing",
    "damaged": "Most fields are damaged",
}


@dataclass(frozen=True)
class Group:
    """Findings of one kind, severity and remedy, shown as one."""

    severity: str
    title: str
    sentences: tuple[str, ...]
    more: int
    remedy: str


@dataclass(frozen=True)
class ShownField:
    """A field with pictures, what is wrong with it, and planes that cannot be shown."""

    name: str
    findings: tuple[Finding, ...]
    strip: Strip
    absent: tuple[str, ...]


def render(case: Case, fields: Mapping[str, Field], exclude: Path) -> str:
    """The page as text.

    Args:
        fields: name -> where its planes are; those that are shown are read again.
        exclude: path of `exclude.csv`.
    """
    worst = _worst(case)
    chosen = worst[:SHOWN_FIELDS] or [f.name for f in _spread(case.fields)]
    by_name = {f.name: f for f in case.fields}
    lines = _rows(case)
    return environment().get_template("doctor/doctor.html.j2").render(
        verdict=case.verdict,
        severity=case.findings[0].severity if case.findings else "",
        case=case,
        groups=_groups(case.findings),
        words=WORDS,
        commands=_commands(case, exclude),
        excluded=len({name for name, _ in case.excluded}),
        channels=[_channel(case, key) for key in case.names],
        shown=[_shown(case, by_name[name], fields[name]) for name in chosen],
        bad=len(worst),
        rows=lines[:TABLE_ROWS],
        left_out=max(0, len(lines) - TABLE_ROWS),
        parts=Counter(in_words(p) for p in case.parts.values()),
        in_words=in_words,
        versions=versions(),
        date=today(),
    )  # fmt: skip


def _groups(findings: Sequence[Finding]) -> list[Group]:
    """Findings of one kind together, in the order of severity and then of size."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind, finding.remedy), []).append(finding)
    return [
        Group(
            severity,
            TITLES[kind],
            tuple(f.text for f in some[:SENTENCES]),
            max(0, len(some) - SENTENCES),
            remedy,
        )
        for (severity, kind, remedy), some in groups.items()
    ]


def _worst(case: Case) -> list[str]:
    """Fields with something to look at, those with most findings of their own first.

    A finding on all of the set makes no field worse than the others.
    """
    count: Counter[str] = Counter()
    for finding in case.findings:
        if finding.severity != NOTE:
            for name in finding.fields:
                count[name] += 1000 if len(finding.fields) <= 2 else 1
    known = {f.name for f in case.fields}
    return [name for name, _ in count.most_common() if name in known]


def _spread(fields: Sequence[FieldStats]) -> list[FieldStats]:
    """First, middle and last."""
    places = np.linspace(0, len(fields) - 1, min(SAMPLES, len(fields))).round().astype(int)
    return [fields[i] for i in places]


def _commands(case: Case, exclude: Path) -> list[tuple[str, str]]:
    """(what it does, command to copy)."""
    same = " ".join(case.overrides)
    settings = [s for s in dict.fromkeys(f.setting for f in case.findings) if s]
    if case.excluded:
        settings.insert(0, f"data.exclude={exclude}")
    train = " ".join(filter(None, ["python train.py", same, *settings]))
    mended = [f.setting for f in case.of_severity(FATAL)]  # without them there is no training
    again = " ".join(
        filter(None, ["python -m vfn.doctor", same, *mended, f"output={exclude.parent}"])
    )
    if case.of_severity(FATAL):
        return [("When the data are mended, look again", again)]
    commands = [("Train as it is advised here" if settings else "Train", train)]
    if case.of_severity(LOOK):
        commands.append(("When the files are mended, look again", again))
    return commands


def _channel(case: Case, key: Key) -> dict[str, str]:
    """A line of the table of channels."""
    planes = [f.planes[key] for f in case.fields if key in f.planes]
    entry = next(f for f in case.fields if key in f.keys)
    shifts = [f.shifts[key] for f in case.fields if key in f.shifts]
    sure = np.array([(s.dy, s.dx) for s in shifts if s.sure])

    def median(values: Sequence[float]) -> float:
        known = [v for v in values if not math.isnan(v)]
        return float(np.median(known)) if known else math.nan

    shapes = Counter(f"{p.shape[0]}x{p.shape[1]}" for p in planes)
    steps = Counter((p.dtype, p.step) for p in planes)
    deepest = {
        kind: max((p for p in planes if (p.dtype, p.step) == kind), key=lambda p: p.depth)
        for kind in steps
    }
    low, high = (median([p.quantiles[i] for p in planes]) for i in (0, 4))
    move = "{:+.1f}, {:+.1f}".format(*np.median(sure, axis=0)) if len(sure) else "not known"
    return {
        "name": case.names[key],
        "role": role(entry, key),
        "fields": f"{len(planes)} of {len(case.fields)}",
        "size": ", ".join(shape for shape, _ in shapes.most_common(3)) or "-",
        "depth": ", ".join(_depth(p) for p in deepest.values()) or "-",
        "range": f"{number(low)} to {number(high)}",
        "saturated": f"{100 * max((p.top for p in planes), default=0):.2g} %",
        "noise": f"{100 * median([p.noise_share for p in planes]):.1f} %",
        "focus": number(median([p.focus for p in planes])),
        "corner": number(median([corner_ratio(p) for p in planes])),
        "shift": f"{move} ({len(sure)} of {len(shifts)})" if shifts else "",
    }


def _depth(plane: PlaneStats) -> str:
    if not plane.depth:
        return plane.dtype
    steps = f", steps of {plane.step}" if plane.step > 1 else ""
    return f"{plane.depth} of {np.dtype(plane.dtype).itemsize * 8}{steps}"


def _shown(case: Case, stats: FieldStats, entry: Field) -> ShownField:
    findings = tuple(f for f in case.findings if stats.name in f.fields and f.severity != NOTE)
    panels: list[Panel] = []
    absent = [f"{case.names[k]}: {status(stats, k)}" for k in stats.keys if k not in stats.planes]
    pixels: dict[Key, np.ndarray] = {}
    pixel_size: float | None = None
    for key in [k for k in stats.keys if k in stats.planes][:SHOWN_PLANES]:
        plane: ImageSource = entry.planes[key]
        try:
            pixels[key], pixel_size = plane.read(), pixel_size or plane.pixel_size
        except UserError as exc:  # it was there a moment ago
            absent.append(str(exc))
            continue
        picture = grey(pixels[key], stats.planes[key])
        panels.append(Panel(f"{role(stats, key)}: {case.names[key]}", shrink(picture)))
    reference = min(stats.inputs, key=lambda k: abs(k[1]))
    for key in pixels:
        moved = [f for f in findings if f.kind == "shift" and f.channel == case.names[key]]
        if moved and reference in pixels:
            two = [grey(pixels[k], stats.planes[k]) for k in (reference, key)]
            title = f"middle, {case.names[reference]} magenta, {case.names[key]} green"
            panels.append(Panel(title, overlay(*two)))
    width = next(iter(pixels.values())).shape[1] if pixels else 1
    return ShownField(
        stats.name, findings, Strip(tuple(panels), *scale_bar(width, pixel_size)), tuple(absent)
    )


def grey(pixels: np.ndarray, stats: PlaneStats) -> np.ndarray:
    """(H, W) uint8: the 0.1 to 99.9 percentile stretched, or the range where that is nothing."""
    low, high = stats.quantiles[0], stats.quantiles[4]
    low, high = (low, high) if high > low else (stats.low, stats.high)
    scaled = (pixels.astype(np.float32) - low) / ((high - low) or 1.0)
    return np.asarray((scaled.clip(0, 1) * 255).round(), np.uint8)


def shrink(picture: np.ndarray) -> np.ndarray:
    """Longer side `PICTURE`, never enlarged."""
    height, width = picture.shape[:2]
    factor = min(1.0, PICTURE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def overlay(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Edges of two pictures in magenta and green, the middle of the field, twice enlarged, (H, W, 3)."""
    top, left = (max(0, (side - DETAIL) // 2) for side in one.shape)
    cut = [p[top : top + DETAIL, left : left + DETAIL].astype(np.float32) for p in (one, other)]
    edges = []
    for picture in cut:
        smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
        edge = cv2.magnitude(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
        edges.append((edge / (float(np.quantile(edge, 0.99)) or 1.0)).clip(0, 1) * 255)
    rgb = np.stack([edges[0], edges[1], edges[0]], axis=-1).round().astype(np.uint8)
    return np.asarray(cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))


def in_words(parts: Sequence[str]) -> str:
    """Parts of the split that a field is in."""
    return " + ".join(PARTS[part] for part in parts)


def _rows(case: Case) -> list[dict[str, Any]]:
    """The table of all fields and channels, those with findings first."""
    grave: dict[str, int] = {}
    for finding in case.findings:
        for name in finding.fields:
            rank = SEVERITIES.index(finding.severity)
            grave[name] = min(rank, grave.get(name, rank))
    ordered = sorted(case.fields, key=lambda f: grave.get(f.name, len(SEVERITIES)))
    lines = []
    for entry in ordered:
        for key in entry.keys:
            plane, shift = entry.planes.get(key), entry.shifts.get(key)
            cells = [""] * 7
            if plane is not None:
                cells = [
                    f"{plane.shape[0]}x{plane.shape[1]}", _depth(plane),
                    f"{number(plane.quantiles[0])} to {number(plane.quantiles[4])}",
                    f"{100 * plane.top:.2g} %", f"{100 * plane.noise_share:.1f} %",
                    number(plane.focus),
                    f"{shift.dy:+.1f}, {shift.dx:+.1f}" if shift and shift.sure else "",
                ]  # fmt: skip
            kinds = dict.fromkeys(
                f.kind for f in case.findings
                if entry.name in f.fields and f.channel in ("", case.names[key])
            )  # fmt: skip
            lines.append({
                "field": entry.name, "channel": case.names[key],
                "part": in_words(case.parts.get(entry.name, ())), "status": status(entry, key),
                "cells": cells, "kinds": ", ".join(kinds),
            })  # fmt: skip
    return lines
