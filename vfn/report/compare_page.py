"""The page of a comparison of runs: `compare.html`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from vfn.metrics import comparison
from vfn.metrics.comparison import Comparison
from vfn.models.words import counted
from vfn.report import blocks
from vfn.report import compare_words as words
from vfn.report.compare_figures import forest, scatter, towards_b
from vfn.report.compare_words import RunPair, run_pairs
from vfn.report.html import today

EXTREMES = 3  # units that gain and lose most, by name
TAGS = {words.SHOWN: "shown", words.SLIGHT: "", words.MIXED: "look"}  # outcome -> CSS; else note
HOW_TO_READ = (
    ("difference", "The second run minus the first, in the mean over the same fields (or wells) in both. A difference can be certain and still too small to matter: look at its size first."),
    ("95 % CI", "Where the true mean difference lies, for fields like these. If it holds 0, the runs may be equally good."),
    ("p", f"How often chance alone would give so large a difference between equally good runs, after Holm's correction for the number of tests made. ★ marks the better run where Wilcoxon's is below {comparison.ALPHA}, the interval does not hold 0 and the difference is not too slight to matter."),
    ("\"no difference can be shown\"", "Does not say that the runs are equal: there may be too few fields. The interval says how large a difference is still possible."),
    ("one training each", "The statistics are over fields. They tell these two runs apart, not the two ways of training: another seed of the same training differs, too. Train each a few times to judge that."),
)  # fmt: skip


def render(comparisons: Sequence[Comparison], found: Mapping[str, Any]) -> str:
    """Return the page as text.

    Args:
        comparisons: corrected ones.
        found: the content of `compare.json`.
    """
    pairs, runs, notes = run_pairs(comparisons), found["runs"], found["notes"]
    left_out = [blocks.Part("What was left out", [blocks.Bullets([f"{note}." for note in notes])])]
    head = blocks.Section(
        "",
        [
            blocks.Bullets([_verdict(i, pair) for i, pair in enumerate(pairs)], "verdicts"),
            *(left_out if notes else []),
            blocks.Fold("How to read it", [blocks.Terms(HOW_TO_READ)]),
        ],
    )
    folders = [(name, blocks.Styled(folder, "mono")) for name, folder in runs.items()]
    units = ", ".join(dict.fromkeys(pair.head.kind for pair in pairs))
    methods = blocks.how_computed(
        [*folders, *_methods(units, found["settings"])], found["provenance"],
        "compare.csv and compare.json", found["versions"],
    )  # fmt: skip
    page = blocks.Page(
        f"Comparison of {', '.join(runs)}",
        f"Comparison of {len(runs)} runs",
        [
            blocks.Soft(f"{', '.join(runs)} · {today()}"),
            head,
            *(_section(i, pair) for i, pair in enumerate(pairs)),
            methods,
        ],
    )
    return page.html()


def _verdict(number: int, pair: RunPair) -> Markup:
    verdict = words.verdict(pair)
    tag = {
        words.SHOWN: f"{verdict.better} better",
        words.SLIGHT: f"{verdict.better} better, hardly",
        words.NOT_SHOWN: "no difference shown",
    }.get(verdict.outcome, verdict.outcome)
    css = TAGS.get(verdict.outcome, "note")
    return Markup('<span class="tag {}">{}</span>{} {}').format(
        css, tag, verdict.text, blocks.link(f"part-{number}", "details")
    )


def _section(number: int, pair: RunPair) -> blocks.Section:
    head = pair.head
    n, units, unit = head.result.n, words.plural(head), head.kind
    other = [line for line in pair.lines if not line.main]
    content: list[blocks.Content] = [words.verdict(pair).text]
    if 1 < n < comparison.FEW_UNITS:
        content.append(
            blocks.Soft(
                f"With {n} {units} (fewer than {comparison.FEW_UNITS}) the interval is too short if differences are skewed; go by it with care."
            )
        )
    if pair.main:
        how = blocks.Soft(
            f"Pale dots: single {unit}s. Large dot and bar: mean difference and its 95 % interval, coloured where a difference is "
            f"shown. To the right {head.b} is better, to the left {head.a}; each row has its own scale, numbers stand beside it."
        )
        content.append(blocks.Part("Differences", [how, *_forest(pair, pair.main)]))
    if n:
        content.append(blocks.Part(f"{unit.capitalize()} by {unit}", [_units(head)]))
    if other:
        how = blocks.Soft(
            f"A family of tests of their own; the verdict does not go by them. To the right {head.b} is higher, or better where a "
            "direction is known."
        )
        title = counted(len(other), "further figure")
        content.append(blocks.Fold(title, [how, *_forest(pair, other)], open=not pair.main))
    return blocks.Section(f"{head.channel}: {head.a} and {head.b}", content, f"part-{number}")


def _forest(pair: RunPair, lines: Sequence[Comparison]) -> list[blocks.Content]:
    """The table of these metrics, and why some are not defined."""
    a, b = pair.head.a, pair.head.b
    ends = '<span title="{a}">← {a}</span><span title="{b}">{b} →</span>'
    header: list[str | blocks.Styled] = [
        "figure", blocks.Styled(Markup(ends).format(a=a, b=b), "plot"), a, b, "difference", "95 % CI",
        "p Wilcoxon, Holm", "p Student, Holm", f"{pair.head.kind}s",
    ]  # fmt: skip
    notes: dict[str, list[str]] = {}
    for line in lines:
        if line.result.note:
            notes.setdefault(line.result.note, []).append(words.title(line))
    table = blocks.Table(header, [_row(line) for line in lines], css="forest")
    return [table, *(blocks.Soft(f"† {note} ({', '.join(who)}).") for note, who in notes.items())]


def _row(c: Comparison) -> list[str | blocks.Styled]:
    lower = Markup("<br><small>lower is better</small>") if c.higher is False else ""
    name, first, second, *rest = words.cells(c)
    means = [
        blocks.Styled(f"{mean} ★", "best") if words.starred(c, run) else mean
        for mean, run in ((first, c.a), (second, c.b))
    ]
    note = Markup(' <abbr title="{}">†</abbr>').format(c.result.note) if c.result.note else ""
    return [
        Markup("{}{}").format(name, lower), blocks.Styled(forest(c), "plot"), *means, *rest,
        Markup("{}{}").format(c.result.n, note),
    ]  # fmt: skip


def _units(c: Comparison) -> blocks.Charts:
    """The scatter of the units, and those that differ most."""
    name = words.title(c)
    caption = f"{name} of each {c.kind}. On the line both runs are equal"
    if c.higher is None:
        return blocks.Charts([blocks.Drawing(scatter(c), f"{caption}.")])
    order = np.argsort(-towards_b(c), kind="stable")
    ranked = [f"{c.units.names[i]} ({words.signed(c.units.differences[i])})" for i in order]
    wins = int((towards_b(c) > 0).sum())
    beside: list[blocks.Content] = [
        f"By {name}, {c.b} is better in {wins} of {c.result.n} {words.plural(c)}."
    ]
    if len(ranked) > EXTREMES:
        beside += [
            f"Most in favour of {c.b}: {', '.join(ranked[:EXTREMES])}.",
            f"Most in favour of {c.a}, or least of {c.b}: {', '.join(ranked[: -EXTREMES - 1 : -1])}.",
            blocks.Soft(
                f"In brackets {c.b} minus {c.a}. Look at these {c.kind}s in the reports of both runs."
            ),
        ]
    side = "above" if c.higher else "below"
    return blocks.Charts(
        [blocks.Drawing(scatter(c), f"{caption}; {side} it {c.b} is better.")], beside=beside
    )


def _methods(units: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    alpha, columns = settings["alpha"], settings["main_columns"]
    slight = "".join(f"{limit:g} in {c}, " for c, limit in settings["slight"].items())
    shares = ", ".join(f"{100 * share:g} % of {c}" for c, share in settings["slight_share"].items())
    return [
        ("unit", f"{units} (unit={settings['unit']}). Where wells are known, the fields of a well are averaged first: they are not independent of each other. Pixels are never units."),
        ("left out", "A field whose figure is infinite or undefined in one of two runs is left out of both, for that figure."),
        ("interval", "Student's, of the mean difference over units. Of 1000 simulated samples it held the true mean in 94 to 96 % where differences are normal, with 3 to 40 units, but in 83 to 91 % with up to 10 units where they are skewed (exponential, log-normal)."),
        ("Wilcoxon", "Signed-rank test, two-sided; units without a difference are dropped. Exact up to 50 units without ties, up to 13 with ties; the normal approximation beyond."),
        ("Student", "Paired t-test, two-sided, as in Nguyen et al. 2020."),
        ("correction", f"Holm 1979, for each of the two tests. The family of the verdict: all channels × {len(columns)} figures ({', '.join(columns)}) × pairs of runs, {settings['tests_in_main_family']} tests in all. The further figures: a family of {settings['tests_in_other_family']} tests. A test that is not defined does not count."),
        ("shown", f"Wilcoxon's p after the correction is below {alpha}, and the interval does not hold 0."),
        ("too little to matter", f"Below {slight}or {shares}: our choice, to keep large numbers of fields from making much of nothing."),
    ]  # fmt: skip
