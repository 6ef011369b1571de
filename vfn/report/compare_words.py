"""Comparisons of runs in words: verdicts, sentences and numbers for the page and the terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vfn.metrics import comparison
from vfn.metrics.comparison import Comparison
from vfn.report.wording import FIELDS_AS_UNITS, SPECS, TITLES

SHOWN, SLIGHT, MIXED = "shown", "slight", "mixed"
NOT_SHOWN, EQUAL, ALONE = "not shown", "equal", "no statistics"


@dataclass(frozen=True)
class RunPair:
    """All comparisons of one channel and pair of runs.

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
        """The unit in the plural."""
        return f"{self.head.kind}s"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one channel and pair of runs.

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


def run_pairs(comparisons: Sequence[Comparison]) -> list[RunPair]:
    """Group the comparisons by channel and pair of runs, in their order."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for c in comparisons:
        groups.setdefault((c.channel, c.a, c.b), []).append(c)
    tests = comparison.tests(comparisons, main=True)
    rank = {column: i for i, column in enumerate(comparison.MAIN)}
    return [
        RunPair(tuple(sorted(group, key=lambda c: rank.get(c.column, len(rank)))), tests)
        for group in groups.values()
    ]


def verdict(pair: RunPair) -> Verdict:
    """Judge one channel and pair of runs, the most important first."""
    head = pair.head
    channel, a, b = head.channel, head.a, head.b

    def give(outcome: str, text: str, better: str = "") -> Verdict:
        if head.kind == "field" and outcome not in (EQUAL, ALONE):
            text += f" {FIELDS_AS_UNITS} in metrics.csv, or unit=well."
        return Verdict(channel, a, b, outcome, better, text)

    tested = [line for line in pair.main if not math.isnan(line.result.p_wilcoxon)]
    if not tested:
        if head.result.n > 1:
            return give(EQUAL, f"{channel}: {a} and {b} are equal in every figure that is defined.")
        text = f"{channel}: one {head.kind} or none to compare on, so no statistics."
        if head.better:
            text += f" {title(head)} there: {value_text(head, 'mean_a')} in {a}, {value_text(head, 'mean_b')} in {b}."
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
                    text += f" {words} {', '.join(map(title, lines))}."
            return give(outcome, text, run)
    first = next((c for c in tested if c is head), tested[0])
    text = f"No difference between {a} and {b} can be shown for {channel}: {sentence(first)}."
    needed = comparison.units_needed(pair.tests)
    if first.result.n < needed:
        text += (
            f" {first.result.n} {pair.several} are too few for any: with {pair.tests} tests in the "
            f"family, at least {needed} are needed."
        )
    if first.p_t_holm < comparison.ALPHA:
        text += (
            f" Student's t-test alone shows one ({p_text(first.p_t_holm)}), but it takes the "
            "differences for normally distributed."
        )
    return give(NOT_SHOWN, text)


def sentence(c: Comparison) -> str:
    """Return one metric in words, seen from the better run: "signal PSNR +1.2 dB (95 % CI ...)"."""
    sign = -1.0 if c.better == c.a else 1.0  # the better run minus the other
    name, unit = _name_and_unit(c)
    r = c.result
    low, high = sorted((sign * r.low, sign * r.high))
    interval = "" if math.isnan(low) else f"95 % CI {_plain(low)} to {_plain(high)}, "
    direction = ", lower is better" if c.higher is False else ""
    return (
        f"{name} {signed(sign * r.difference)}{unit} ({interval}{r.n} {plural(c)}, "
        f"Wilcoxon {p_text(c.p_wilcoxon_holm)} after Holm{direction})"
    )


def plural(c: Comparison) -> str:
    """Return the unit in the number of the comparison: "field" or "fields"."""
    return c.kind if c.result.n == 1 else f"{c.kind}s"


def _listed(lines: Sequence[Comparison]) -> str:
    return ", ".join(sentence(line) for line in lines)


def _name_and_unit(c: Comparison) -> tuple[str, str]:
    name, _, unit = title(c).partition(" (")
    return name, f" {unit.rstrip(')')}" if unit else ""


def title(c: Comparison) -> str:
    """Return the name of the metric for people."""
    if c.column == "tolerance_threshold":  # "at threshold" in tables that show the level beside it
        return "tolerance threshold"
    return TITLES.get(c.column, c.column.replace("_", " "))


def value_text(c: Comparison, key: str) -> str:
    """Return the mean of a run ("mean_a", "mean_b") as text."""
    value = getattr(c.result, key)
    return "-" if math.isnan(value) else format(value, SPECS.get(c.column, ".4g"))


def _plain(value: float) -> str:
    return f"{value:.2g}".replace("-", "−") if abs(value) < 10 else f"{value:.3g}".replace("-", "−")


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return ("+" if value > 0 else "") + _plain(value)


def p_text(p: float) -> str:
    """A p-value in words; "p not defined" where it is not."""
    if math.isnan(p):
        return "p not defined"
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def p_cell(p: float) -> str:
    """Return a p-value as a table cell."""
    return "-" if math.isnan(p) else p_text(p).removeprefix("p ").removeprefix("= ")


def interval_text(c: Comparison) -> str:
    """Return the interval of the difference as text."""
    return "-" if math.isnan(c.result.low) else f"{_plain(c.result.low)} to {_plain(c.result.high)}"


def starred(c: Comparison, run: str) -> bool:
    """Return whether the run is shown to be better by more than a slight difference."""
    return c.shown and not c.slight and bool(run) and c.better == run


def difference_text(c: Comparison) -> str:
    """Return the difference as text."""
    return "-" if math.isnan(c.result.difference) else signed(c.result.difference)
