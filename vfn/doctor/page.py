"""`doctor.html`: the verdict, what to do, and the fields that need an eye."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from vfn.data.registration import Shift
from vfn.doctor.case import Case
from vfn.doctor.findings import FATAL, LOOK, NOTE, SEVERITIES, Finding
from vfn.doctor.leakage import PARTS
from vfn.doctor.measure import PlaneStats
from vfn.doctor.optics import corner_ratio
from vfn.doctor.pictures import field_pictures
from vfn.doctor.reading import FieldStats, Key
from vfn.doctor.tables import HEADER, number, role, rows
from vfn.report import blocks
from vfn.report.blocks import Content, Section, Soft
from vfn.report.html import today, versions

SHOWN_FIELDS = 12  # with pictures, the worst first
SAMPLES = 3  # fields that are shown where none is bad
TABLE_ROWS = 400  # of the folded table; doctor.csv has all
SENTENCES = 4  # of one kind before "and N more"
WORDS = {FATAL: "do not train", LOOK: "look", NOTE: "note"}
CHANNELS = ("channel", "role", "fields", "size", "bits", "grey values", "saturated, at most", "noise", "focus", "corners", "shift (rows, columns)")  # fmt: skip
# Columns of doctor.csv.
FIELDS = ("field", "channel", "part", "status", "height", "width", "bits", "p0_1", "p99_9", "saturated", "noise", "focus", "shift_y", "shift_x", "kinds")  # fmt: skip
HOW = (
    ("files", "Every image that the task needs was decoded once. A field must have its inputs and at least one target."),
    ("bits", "How many bits the grey values need, and whether they are all multiples of one step, as when 8 bits are stretched to 16. One channel should have one depth and scale in all fields."),
    ("saturated", "Share of the pixels at the largest grey value, if they pile up there: from 0.05 % a note, from 1 % on to be looked at."),
    ("empty", "A field is empty where less than 0.03 % of its area (a quarter of one nucleus at 20x) stands out from noise and illumination by six standard deviations."),
    ("noise", "Standard deviation between neighbouring pixels (Immerkær 1996), as a part of the 0.1 to 99.9 percentile range. More than 5 % is noted."),
    ("focus", "Detail of 2 to 8 pixels against that of 8 to 64, in octaves, free of noise, gain and offset. A field is out of focus if it lies an octave or more below the median of its channel and well outside the spread of the others."),
    ("corners", "Light in the darkest corner over that in the centre; of single fields where the background is even (transmitted light), else of the average over eight fields or more."),
    ("shift", "Of each target against the first input, in fractions of a pixel, by how structures agree; fields where the peak is not clear get no verdict. A steady shift of 1 pixel is noted, 2 pixels are to be looked at, and so is a field that lies 1.5 pixels from the others."),
    ("exchanged channels", "Level, contrast, noise and texture of each plane are compared with its own channel and with each other channel in the other fields (four fields at least)."),
    ("copies", "The same pixels (by a hash), or nearly the same picture (correlation above 0.8, blind to gain, offset and compression)."),
    ("shared cells", "The split that training would use: fields of one well (as known, or as read from the names), copies, and fields whose borders overlap must not lie in two parts of it."),
)  # fmt: skip
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
    "stretched": "Images stretched one by one",
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


def render(case: Case, exclude: Path) -> str:
    """Return the page as text.

    Args:
        exclude: path of `exclude.csv`.
    """
    count = len(case.fields)
    of = Markup("{} field{} of data={}{} · {} → {} · {}").format(
        count, "" if count == 1 else "s", case.config.name,
        Markup(' in <span class="mono">{}</span>').format(case.config.root) if case.config.root else "",
        " + ".join(case.task.inputs), ", ".join(case.task.targets), today(),
    )  # fmt: skip
    how = blocks.Terms([*HOW, ("software", versions())])
    page = [
        Soft(of),
        Section("", _findings(case.findings)),
        Section("Next", _next(case, exclude)),
        Section("Channels", _channels(case)),
        _pictures(case),
        Section(
            "",
            [
                blocks.Fold("All fields in figures", _figures(case)),
                blocks.Fold("What was checked, and how", [how]),
            ],
        ),
    ]
    heading = "Do not train" if case.of_severity(FATAL) else case.verdict.capitalize()
    return blocks.Page(f"Doctor: {case.verdict}", heading, page).html()


def _figures(case: Case) -> list[Content]:
    """Columns of `doctor.csv`, the gravest findings first."""
    at, severity = [HEADER.index(column) for column in FIELDS], HEADER.index("severity")
    lines = sorted(rows(case), key=lambda line: (*SEVERITIES, "").index(line[severity]))
    table = blocks.Table(
        FIELDS, [[line[i] for i in at] for line in lines[:TABLE_ROWS]], words=(14,)
    )
    more = Soft(f"{len(lines) - TABLE_ROWS} more rows in doctor.csv.")
    return [table, more] if len(lines) > TABLE_ROWS else [table]


def _findings(findings: Sequence[Finding]) -> list[Content]:
    """Findings of one kind, severity and remedy together, in the order of severity and then of size."""
    content: list[Content] = []
    if not findings:
        content.append("Nothing was found that would harm training.")
    elif findings[0].severity == NOTE:
        content.append("Nothing was found that would harm training; what follows is good to know.")
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind, finding.remedy), []).append(finding)
    for (severity, kind, remedy), some in groups.items():
        title = Markup('<h3><span class="tag {}">{}</span> {}</h3>').format(
            severity, WORDS[severity], TITLES[kind]
        )
        more = len(some) - SENTENCES
        inner: list[Content] = [f.text for f in some[:SENTENCES]]
        if more > 0:
            inner.append(Soft(f"And {more} more, see doctor.csv."))
        inner.append(Soft(f"What to do: {remedy}."))
        content.append(blocks.Article(title, inner, f"finding {severity}"))
    return content


def _next(case: Case, exclude: Path) -> list[Content]:
    """The commands to run next."""
    settings = list(filter(None, dict.fromkeys(f.setting for f in case.findings)))
    if case.excluded:
        settings.insert(0, f"data.exclude={exclude}")
    fatal = case.of_severity(FATAL)
    mended = [f.setting for f in fatal if f.setting]  # without them there is no training
    content: list[Content] = []
    if not fatal:
        train = " ".join(["python train.py", *case.overrides, *settings])
        content += ["Train as it is advised here:" if settings else "Train:", blocks.Command(train)]
    if fatal or case.of_severity(LOOK):
        again = ["python -m vfn.doctor", *case.overrides, *mended, f"output={exclude.parent}"]
        what = "data" if fatal else "files"
        content += [f"When the {what} are mended, look again:", blocks.Command(" ".join(again))]
    count = len({name for name, _ in case.excluded})
    if count:
        content.append(
            Soft(
                f"exclude.csv beside this page lists {count} field{'' if count == 1 else 's'} that {'is' if count == 1 else 'are'} better "
                "left out, with the reasons. Strike the lines that you disagree with: no file is touched."
            )
        )
    return content


def _channels(case: Case) -> list[Content]:
    note = "Medians over the fields."
    parts = Counter(in_words(p) for p in case.parts.values())
    if parts:
        listed = ", ".join(f"{count} for {part}" for part, count in parts.items())
        note += f" Training would divide the fields so: {listed}."
    return [blocks.Table(CHANNELS, [_channel(case, key) for key in case.names]), Soft(note)]


def _pictures(case: Case) -> Section:
    """The worst fields, or the first, middle and last where none is bad."""
    worst = _worst(case)
    places = np.linspace(0, len(case.fields) - 1, min(SAMPLES, len(case.fields))).round()
    chosen = worst[:SHOWN_FIELDS] or [case.fields[int(i)] for i in places]
    note = "Each picture has its own display range, the 0.1 to 99.9 percentile."
    if len(worst) > len(chosen):
        note = f"{len(chosen)} of {len(worst)}, the worst first; doctor.csv lists all. {note}"
    title = "Fields to look at" if worst else "Some of the fields"
    return Section(title, [Soft(note), *(_field(case, stats) for stats in chosen)])


def _field(case: Case, stats: FieldStats) -> blocks.Article:
    findings = [f for f in case.about.get(stats.name, ()) if f.severity != NOTE]
    strip, absent = field_pictures(case, stats, findings)
    part = Markup('<span class="soft">{}</span>').format(in_words(case.parts.get(stats.name, ())))
    title = Markup("<header><strong>{}</strong>{}</header>").format(
        stats.name, part if case.parts.get(stats.name) else ""
    )
    content: list[Content] = [f.text for f in findings]
    content += [Soft(Markup('<span class="mono">{}</span>').format(line)) for line in absent]
    if strip.panels:
        content.append(blocks.Gallery(strip, stats.name, "whole field"))
    return blocks.Article(title, content, "field")


def _worst(case: Case) -> list[FieldStats]:
    """Fields with something to look at, those with most findings of their own first.

    A finding on all of the set makes no field worse than the others.
    """
    count: Counter[str] = Counter()
    for finding in case.findings:
        if finding.severity != NOTE:
            for name in finding.fields:
                count[name] += 1000 if len(finding.fields) <= 2 else 1
    known = {f.name: f for f in case.fields}
    return [known[name] for name, _ in count.most_common() if name in known]


def _channel(case: Case, key: Key) -> list[str]:
    """A line of the table of channels."""
    planes = [f.planes[key] for f in case.fields if key in f.planes]
    entry = next(f for f in case.fields if key in f.keys)
    shapes = Counter(f"{p.shape[0]}x{p.shape[1]}" for p in planes)
    low, high = (_median(planes, lambda p, i=i: p.quantiles[i]) for i in (0, 4))  # type: ignore[misc]
    return [
        case.names[key],
        role(entry, key),
        f"{len(planes)} of {len(case.fields)}",
        ", ".join(shape for shape, _ in shapes.most_common(3)) or "-",
        _depths(planes) or "-",
        f"{number(low)} to {number(high)}",
        f"{100 * max((p.top for p in planes), default=0):.2g} %",
        f"{100 * _median(planes, lambda p: p.noise_share):.1f} %",
        number(_median(planes, lambda p: p.focus)),
        number(_median(planes, corner_ratio)),
        _shift([f.shifts[key] for f in case.fields if key in f.shifts]),
    ]


def _median(planes: Sequence[PlaneStats], value: Callable[[PlaneStats], float]) -> float:
    """Return the median over the planes with a value; NaN without any."""
    known = [v for v in map(value, planes) if not math.isnan(v)]
    return float(np.median(known)) if known else math.nan


def _shift(shifts: Sequence[Shift]) -> str:
    sure = np.array([(s.dy, s.dx) for s in shifts if s.sure])
    move = "{:+.1f}, {:+.1f}".format(*np.median(sure, axis=0)) if len(sure) else "not known"
    return f"{move} ({len(sure)} of {len(shifts)})" if shifts else ""


def _depths(planes: Sequence[PlaneStats]) -> str:
    """Return the depth of each kind of plane, that of the one that needs most bits."""
    by_depth = sorted(planes, key=lambda plane: plane.depth)
    deepest = {(plane.dtype, plane.step): plane.depth for plane in by_depth}
    return ", ".join(
        (f"{depth} of {np.dtype(dtype).itemsize * 8}" if depth else dtype)
        + (f", steps of {step}" if step > 1 else "")
        for (dtype, step), depth in deepest.items()
    )


def in_words(parts: Sequence[str]) -> str:
    """Parts of the split that a field is in."""
    return " + ".join(PARTS[part] for part in parts)
