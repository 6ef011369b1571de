"""What a comparison of runs says: a verdict in words, a table for the terminal, `compare.html`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from rich.text import Text

from vfn.metrics import comparison
from vfn.metrics.comparison import Comparison
from vfn.report.html import environment, plain_text, today
from vfn.report.wording import SPECS, TITLES

SHOWN, SLIGHT, MIXED = "shown", "slight", "mixed"
NOT_SHOWN, EQUAL, ALONE = "not shown", "equal", "no statistics"
FOREST_WIDTH, FOREST_HEIGHT = 220, 26  # px of a row's plot
SIDE, LEFT, BOTTOM = 300, 52, 40  # px of the scatter: the square, room for the axes
EXTREMES = 3  # units that gain and lose most, by name


@dataclass(frozen=True)
class Part:
    """All figures of one channel and pair of runs.

    Attributes:
        lines: the comparisons, main figures first, in the order of `MAIN`.
        tests: size of the main family, over all channels and pairs.
    """

    lines: tuple[Comparison, ...]
    tests: int

    @property
    def main(self) -> list[Comparison]:
        """The figures that the verdict goes by, the most telling first."""
        return [line for line in self.lines if line.main]

    @property
    def head(self) -> Comparison:
        """The most telling figure that is defined."""
        defined = [line for line in self.lines if line.result.n]
        return (defined or list(self.lines))[0]

    @property
    def several(self) -> str:
        """What a unit is, in the plural."""
        return f"{self.head.kind}s"


@dataclass(frozen=True)
class Verdict:
    """What can be said of one channel and pair.

    Attributes:
        outcome: "shown", "slight" (shown, but too small to matter in every figure), "mixed", "not
            shown", "equal" or "no statistics".
        better: name of the better run; empty if none is shown to be.
        text: in words, with the figures.
    """

    channel: str
    a: str
    b: str
    outcome: str
    better: str
    text: str


def parts(comparisons: Sequence[Comparison]) -> list[Part]:
    """The comparisons by channel and pair, in their order."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for c in comparisons:
        groups.setdefault((c.channel, c.a, c.b), []).append(c)
    tests = comparison.tests(comparisons, main=True)
    rank = {column: i for i, column in enumerate(comparison.MAIN)}
    return [
        Part(tuple(sorted(group, key=lambda c: rank.get(c.column, len(rank)))), tests)
        for group in groups.values()
    ]


def verdict(part: Part) -> Verdict:
    """The sentence on one channel and pair, most important first."""
    head = part.head
    channel, a, b = head.channel, head.a, head.b

    def give(outcome: str, text: str, better: str = "") -> Verdict:
        return Verdict(channel, a, b, outcome, better, text)

    tested = [line for line in part.main if not math.isnan(line.result.p_wilcoxon)]
    if not tested:
        if head.result.n > 1:
            return give(EQUAL, f"{channel}: {a} and {b} are equal in every figure that is defined.")
        text = f"{channel}: one {head.kind} or none to compare on, so no statistics."
        if head.better:
            text += f" {_title(head)} there: {_value(head, 'mean_a')} in {a}, {_value(head, 'mean_b')} in {b}."
        return give(ALONE, text)
    won = {run: [c for c in tested if c.shown and c.better == run] for run in (a, b)}
    deciding = {run: [c for c in won[run] if not c.slight] for run in (a, b)}
    outcome = SHOWN if any(deciding.values()) else SLIGHT
    if outcome is SLIGHT:
        deciding = won
    if deciding[a] and deciding[b]:
        text = "; ".join(f"{run} is better in {_listed(deciding[run])}" for run in (a, b))
        return give(MIXED, f"{channel}: mixed. {text}.")
    for run, other in ((a, b), (b, a)):
        if deciding[run]:
            first, *rest = deciding[run]
            hardly = ", but by too little to matter" if outcome is SLIGHT else ""
            text = f"{run} predicts {channel} better than {other}{hardly}: {sentence(first)}."
            slight = [c for c in won[run] if c not in deciding[run]]
            open_ = [c for c in tested if not c.shown]
            for words, lines in (
                ("The same holds for", rest),
                ("By too little to matter also in", slight),
                (f"{other} is better by too little to matter in", won[other]),
                ("No difference can be shown in", open_),
            ):
                if lines:
                    text += f" {words} {', '.join(map(_title, lines))}."
            return give(outcome, text, run)
    first = next((c for c in tested if c is head), tested[0])
    text = f"No difference between {a} and {b} can be shown for {channel}: {sentence(first)}."
    needed = comparison.units_needed(part.tests)
    if first.result.n < needed:
        text += (
            f" {first.result.n} {part.several} are too few for any: with {part.tests} tests in the "
            f"family, at least {needed} are needed."
        )
    if first.p_t_holm < comparison.ALPHA:
        text += (
            f" Student's t-test alone shows one ({p_text(first.p_t_holm)}), but it takes the "
            "differences for normally distributed."
        )
    return give(NOT_SHOWN, text)


def sentence(c: Comparison) -> str:
    """One figure in words, from the side of the better run: "signal PSNR +1.2 dB (95 % CI ...)"."""
    sign = -1.0 if c.better == c.a else 1.0  # the better run minus the other
    name, unit = _name_and_unit(c)
    r = c.result
    low, high = sorted((sign * r.low, sign * r.high))
    interval = "" if math.isnan(low) else f"95 % CI {_plain(low)} to {_plain(high)}, "
    direction = ", lower is better" if c.higher is False else ""
    return (
        f"{name} {_signed(sign * r.difference)}{unit} ({interval}{r.n} {_plural(c)}, "
        f"Wilcoxon {p_text(c.p_wilcoxon_holm)} after Holm{direction})"
    )


def _plural(c: Comparison) -> str:
    return c.kind if c.result.n == 1 else f"{c.kind}s"


def _listed(lines: Sequence[Comparison]) -> str:
    return ", ".join(sentence(line) for line in lines)


def _name_and_unit(c: Comparison) -> tuple[str, str]:
    name, _, unit = _title(c).partition(" (")
    return name, f" {unit.rstrip(')')}" if unit else ""


def _title(c: Comparison) -> str:
    title = TITLES.get(c.column, c.column.replace("_", " "))
    return "tolerance threshold" if c.column == "tolerance_threshold" else title


def _value(c: Comparison, key: str) -> str:
    value = getattr(c.result, key)
    return "-" if math.isnan(value) else format(value, SPECS.get(c.column, ".4g"))


def _plain(value: float) -> str:
    return f"{value:.2g}".replace("-", "−") if abs(value) < 10 else f"{value:.3g}".replace("-", "−")


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + _plain(value)


def p_text(p: float) -> str:
    """A p-value in words; "p not defined" where it is not."""
    if math.isnan(p):
        return "p not defined"
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _p(p: float) -> str:
    return "-" if math.isnan(p) else p_text(p).removeprefix("p ").removeprefix("= ")


def _interval(c: Comparison) -> str:
    return "-" if math.isnan(c.result.low) else f"{_plain(c.result.low)} to {_plain(c.result.high)}"


def console_table(part: Part) -> Table:
    """The main figures of one channel and pair, a star at the better run where that is shown."""
    head = part.head
    title = f"{head.channel}: {head.b} minus {head.a}, over {head.result.n} {_plural(head)}"
    shown = any(_starred(line, run) for line in part.main for run in (head.a, head.b))
    table = Table(
        title=_text(title),
        title_justify="left",
        caption="* shown and not slight: p Wilcoxon below 0.05, 0 outside the interval"
        if shown
        else "",
        caption_justify="left",
    )
    table.add_column("")
    names = (head.a, head.b, "difference", "95 % CI", "p Wilcoxon, Holm", "p Student, Holm")
    for name in names:
        table.add_column(_text(name), justify="right")
    for line in part.main or part.lines:
        means = [
            _value(line, key) + (" *" if _starred(line, run) else "")
            for key, run in (("mean_a", line.a), ("mean_b", line.b))
        ]
        cells = [_title(line), *means, _difference(line), _interval(line)]
        cells += [_p(line.p_wilcoxon_holm), _p(line.p_t_holm)]
        table.add_row(*map(_text, cells))
    return table


def _starred(c: Comparison, run: str) -> bool:
    return c.shown and not c.slight and bool(run) and c.better == run


def _difference(c: Comparison) -> str:
    return "-" if math.isnan(c.result.difference) else _signed(c.result.difference)


def _text(words: str) -> Text:
    # A name may hold square brackets, which are no markup, and bytes that are no UTF-8.
    return Text(words.encode(errors="backslashreplace").decode())


def render(
    runs: Sequence[str],
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
    found: Mapping[str, Any],
) -> str:
    """The page as text.

    Args:
        runs: names, in the order given.
        comparisons: corrected ones.
        notes: what was left out and why.
        found: what `compare.json` holds.
    """
    sections = [_section(i, part) for i, part in enumerate(parts(comparisons))]
    return (
        environment()
        .get_template("report/compare.html.j2")
        .render(
            runs=runs,
            folders=found["runs"],
            sections=sections,
            notes=notes,
            settings=found["settings"],
            few=comparison.FEW_UNITS,
            provenance={str(k): plain_text(v) for k, v in found["provenance"].items()},
            versions=found["versions"],
            date=today(),
            forest=(FOREST_WIDTH, FOREST_HEIGHT),
        )
    )


def _section(number: int, part: Part) -> dict[str, Any]:
    head = part.head
    gains = _gains(head)
    return {
        "anchor": f"part-{number}",
        "channel": head.channel,
        "a": head.a,
        "b": head.b,
        "n": head.result.n,
        "units": _plural(head),
        "unit": head.kind,
        "verdict": verdict(part),
        "few": 1 < head.result.n < comparison.FEW_UNITS,
        "main": [_line(line) for line in part.main],
        "other": [_line(line) for line in part.lines if not line.main],
        "scatter": _scatter(head) if head.result.n else None,
        "gains": gains[:EXTREMES],
        "losses": gains[:-EXTREMES - 1 : -1] if len(gains) > EXTREMES else [],
        "wins": int((_towards_b(head) > 0).sum()),
    }  # fmt: skip


def _line(c: Comparison) -> dict[str, Any]:
    """A row of the table, with its part of the forest plot."""
    return {
        "title": _title(c),
        "lower": c.higher is False,
        "mean_a": _value(c, "mean_a"),
        "mean_b": _value(c, "mean_b"),
        "best": c.better if _starred(c, c.better) else "",
        "difference": _difference(c),
        "interval": _interval(c),
        "p_wilcoxon": _p(c.p_wilcoxon_holm),
        "p_t": _p(c.p_t_holm),
        "n": c.result.n,
        "note": c.result.note,
        "shown": c.shown,
        "plot": _forest(c),
    }


def _towards_b(c: Comparison) -> np.ndarray:
    """Differences (n,) with the sign that is positive where the second run is better (or higher)."""
    return -c.units.differences if c.higher is False else c.units.differences


def _forest(c: Comparison) -> dict[str, Any] | None:
    """Places in the row's plot: right of the middle the second run is better (or higher).

    Each row has its own scale, from the largest difference of a unit.
    """
    d = _towards_b(c)
    if not len(d):
        return None
    sign = -1.0 if c.higher is False else 1.0
    ends = sorted((sign * c.result.low, sign * c.result.high))
    limit = float(max(np.abs(d).max(), *np.nan_to_num(np.abs(ends)))) or 1.0
    middle, half = FOREST_HEIGHT / 2, FOREST_WIDTH / 2

    def x(value: float) -> float:
        return round(half + value / limit * (half - 8), 1)

    spread = [(i * 7 % 5 - 2) * 2.6 for i in range(len(d))]  # dots beside, not upon each other
    dots = "".join(f"M{x(v)} {middle + dy:.1f}h0" for v, dy in zip(d, spread, strict=True))
    return {
        "dots": dots,
        "mean": x(sign * c.result.difference),
        "interval": None if math.isnan(ends[0]) else (x(ends[0]), x(ends[1])),
        "words": f"{_title(c)}: {_difference(c)} ({_interval(c)})",
    }


def _gains(c: Comparison) -> list[str]:
    """Units with their difference, those where the second run is furthest ahead first."""
    order = np.argsort(-_towards_b(c), kind="stable")
    return [f"{c.units.names[i]} ({_signed(c.units.differences[i])})" for i in order]


def _scatter(c: Comparison) -> dict[str, Any]:
    """Places of the units in the square: across the first run, upwards the second."""
    both = np.concatenate([c.units.a, c.units.b])
    low, high = float(both.min()), float(both.max())
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round((value - low) / (high - low) * SIDE, 1)

    ticks = [float(v) for v in MaxNLocator(4).tick_values(low, high) if low <= v <= high]
    return {
        "title": _title(c),
        "side": SIDE,
        "left": LEFT,
        "bottom": BOTTOM,
        "ticks": [(place(v), f"{v:g}") for v in ticks],
        "dots": [
            (place(a), SIDE - place(b), f"{name}: {a:.4g} in {c.a}, {b:.4g} in {c.b}")
            for name, a, b in zip(c.units.names, c.units.a, c.units.b, strict=True)
        ],
        "upper_is_better": c.higher,
    }
