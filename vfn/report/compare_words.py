"""Comparisons of runs in words: verdicts, sentences and numbers for the page and the terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vfn.evaluation.columns import TITLES
from vfn.metrics import comparison
from vfn.metrics.comparison import Comparison
from vfn.report.wording import FIELDS_AS_UNITS, number

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
    """Judge one channel and pair of runs."""
    head = pair.head
    tested = [line for line in pair.main if not math.isnan(line.result.p_wilcoxon)]
    outcome, better, text = _judge(pair, tested) if tested else _untested(head)
    if head.kind == "field" and tested:
        text += f" {FIELDS_AS_UNITS} in metrics.csv, or unit=well."
    return Verdict(head.channel, head.a, head.b, outcome, better, text)


def _untested(head: Comparison) -> tuple[str, str, str]:
    """Outcome, better run and text where nothing could be tested."""
    channel, a, b = head.channel, head.a, head.b
    if head.result.n > 1:
        return EQUAL, "", f"{channel}: {a} and {b} are equal in every figure that is defined."
    text = f"{channel}: one {head.kind} or none to compare on, so no statistics."
    if head.better:
        name, first, second, *_ = cells(head)
        text += f" {name} there: {first} in {a}, {second} in {b}."
    return ALONE, "", text


def _judge(pair: RunPair, tested: Sequence[Comparison]) -> tuple[str, str, str]:
    """Outcome, better run and text, the most important figure first."""
    shown = [c for c in tested if c.shown]
    deciding = [c for c in shown if not c.slight] or shown
    better = {c.better: [one for one in deciding if one.better == c.better] for c in deciding}
    if not better:
        first = pair.head if pair.head in tested else tested[0]
        return NOT_SHOWN, "", _not_shown(pair, first)
    if len(better) == 2:
        texts = (f"{run} is better in {_listed(better[run])}" for run in (pair.head.a, pair.head.b))
        return MIXED, "", f"{pair.head.channel}: mixed. {'; '.join(texts)}."
    outcome = SLIGHT if deciding[0].slight else SHOWN
    return outcome, deciding[0].better, _won(deciding, tested, outcome)


def _won(deciding: Sequence[Comparison], tested: Sequence[Comparison], outcome: str) -> str:
    """Text where one run is better in all figures that decide."""
    first, *rest = deciding
    run, other = (first.a, first.b) if first.better == first.a else (first.b, first.a)
    hardly = ", but by too little to matter" if outcome is SLIGHT else ""
    text = f"{run} predicts {first.channel} better than {other}{hardly}: {sentence(first)}."
    slight = [c for c in tested if c.shown and c not in deciding]
    for words, lines in (
        ("The same holds for", rest),
        ("By too little to matter also in", [c for c in slight if c.better == run]),
        (f"{other} is better by too little to matter in", [c for c in slight if c.better == other]),
        ("No difference can be shown in", [c for c in tested if not c.shown]),
    ):
        if lines:
            text += f" {words} {', '.join(map(title, lines))}."
    return text


def _not_shown(pair: RunPair, first: Comparison) -> str:
    needed = comparison.units_needed(pair.tests)
    text = f"No difference between {first.a} and {first.b} can be shown for {first.channel}: {sentence(first)}."
    if first.result.n < needed:
        text += (
            f" {first.result.n} {first.kind}s are too few for any: with {pair.tests} tests in the "
            f"family, at least {needed} are needed."
        )
    if first.p_t_holm < comparison.ALPHA:
        text += (
            f" Student's t-test alone shows one ({p_text(first.p_t_holm)}), but it takes the "
            "differences for normally distributed."
        )
    return text


def cells(c: Comparison) -> list[str]:
    """Return the row of a table: name, both means, difference, interval, p of Wilcoxon and Student."""
    r = c.result
    means = (number(c.column, mean) for mean in (r.mean_a, r.mean_b))
    difference = "-" if math.isnan(r.difference) else signed(r.difference)
    p_values = (
        "-" if math.isnan(p) else p_text(p).removeprefix("p ").removeprefix("= ")
        for p in (c.p_wilcoxon_holm, c.p_t_holm)
    )
    return [title(c), *means, difference, interval_text(r.low, r.high) or "-", *p_values]


def sentence(c: Comparison) -> str:
    """Return one metric in words, seen from the better run: "signal PSNR +1.2 dB (95 % CI ...)"."""
    sign = -1.0 if c.better == c.a else 1.0  # the better run minus the other
    name, _, unit = title(c).partition(" (")
    unit = f" {unit.rstrip(')')}" if unit else ""
    r = c.result
    interval = interval_text(*sorted((sign * r.low, sign * r.high)))
    known = f"95 % CI {interval}, " if interval else ""
    direction = ", lower is better" if c.higher is False else ""
    return (
        f"{name} {signed(sign * r.difference)}{unit} ({known}{r.n} {plural(c)}, "
        f"Wilcoxon {p_text(c.p_wilcoxon_holm)} after Holm{direction})"
    )


def plural(c: Comparison) -> str:
    """Return the unit in the number of the comparison: "field" or "fields"."""
    return c.kind if c.result.n == 1 else f"{c.kind}s"


def _listed(lines: Sequence[Comparison]) -> str:
    return ", ".join(sentence(line) for line in lines)


def title(c: Comparison) -> str:
    """Return the name of the metric for people."""
    if c.column == "tolerance_threshold":  # "at threshold" in tables that show the level beside it
        return "tolerance threshold"
    return TITLES.get(c.column, c.column.replace("_", " "))


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


def interval_text(low: float, high: float) -> str:
    """Return an interval as text; empty where it is not defined."""
    return "" if math.isnan(low) else f"{_plain(low)} to {_plain(high)}"


def starred(c: Comparison, run: str) -> bool:
    """Return whether the run is shown to be better by more than a slight difference."""
    return c.shown and not c.slight and bool(run) and c.better == run
