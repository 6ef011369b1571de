"""`panel.html`."""

from collections.abc import Mapping, Sequence

from vfn.evaluation.results import label
from vfn.panel.findings import GRADES, Finding, Stained
from vfn.panel.heat_map import heat_map
from vfn.panel.plan import Question
from vfn.panel.words import NO_BETTER, estimate_text
from vfn.report import blocks
from vfn.report.html import today

WORDS = {"H": "high", "A": "average", "L": "low"}
HOW_TO_READ = (
    ("the interval", "Tells how much another split of the same fields and another seed change the figure. The splits share cells, dish and day: it says nothing of another plate. With two or three repeats it is wide by its nature."),
    ("the baseline", "The best of four predictions that cost nothing: mean and median of the training target, linear map and 7 x 7 linear filter of the inputs. Where a network gains less than half a decibel over it, the channels share light rather than biology, or the budget is too small."),
    ("equal budget", "All networks learn from the same number of patches, so that figures can be compared. It is a quick look: a stain that is graded A here may become H with an hour of training; one that is L next to others of H is the harder one."),
)  # fmt: skip


def render(
    question: Question,
    findings: Sequence[Finding],
    panels: Sequence[Stained],
    said: Sequence[str],
    budget: Mapping[str, str],
) -> str:
    """Return the page as text.

    Args:
        panels: the smallest ones; empty where none was asked for.
        said: sentences at the top.
        budget: how much each network was trained.
    """
    drawn = blocks.chart(
        lambda theme: heat_map(question, findings, theme),
        "heat map: r of every input set and target",
    )
    grades = question.grades
    letters = ", ".join(f"{letter}: {WORDS[letter]}" for letter in reversed(GRADES))
    note = (
        f"{letters} quality; r of {grades.high:g} or more is H, of {grades.average:g} or more A. Two letters: the interval over the "
        "repeats spans the limit between them; a question mark: it spans both limits, so the repeats do not tell."
    )
    page = blocks.Page(
        "Which stain predicts which",
        "Which stain predicts which",
        [
            blocks.Soft(today()),
            blocks.Section("", [blocks.Bullets(said)]),
            blocks.Section(
                "Every input set and target", [blocks.Charts([drawn]), blocks.Soft(note)]
            ),
            *([_smallest(question, panels)] if panels else []),
            _numbers(question, findings),
            blocks.how_computed([*budget.items()], {}, "panel.csv (every training) and panel.json"),
        ],
    )
    return page.html()


def _smallest(question: Question, panels: Sequence[Stained]) -> blocks.Section:
    free = [c for c in question.channels if c in question.free]
    text = (
        f"How few stains give all the others with r of {question.wanted:g} or more, and the best choice below that number."
        + (f" Not counted as stains: {', '.join(free)}." if free else "")
    )
    rows = [
        [
            str(len(panel.stains)),
            " + ".join(panel.stains) or "none",
            "; ".join(panel.predicted),
            "yes" if panel.enough else "no",
        ]
        for panel in panels
    ]
    table = blocks.Table(["stains", "make", "predict", "enough"], rows, words=(1, 2, 3))
    return blocks.Section("The smallest panel", [text, table])


def _numbers(question: Question, findings: Sequence[Finding]) -> blocks.Section:
    paper = {(row.inputs, row.target): row for row in question.rows}
    rows: list[list[str | blocks.Styled]] = []
    for f in findings:
        row = paper.get((f.inputs, f.target))
        rows.append(
            [
                " + ".join(f.inputs),
                f.target,
                estimate_text(f.figures["pearson"], 3),
                f.grade,
                *([f"{row.grade} ({row.name})" if row else ""] if paper else []),
                estimate_text(f.figures["ssim_signal"]),
                estimate_text(f.figures["psnr_signal"], 1),
                blocks.Styled(f"{f.gain.mean:+.1f}", "off" if f.gain.mean < NO_BETTER else ""),
                label(f.baseline),
            ]
        )
    header = [
        "from", "target", "Pearson r", "grade", *(["paper"] if paper else []), "signal SSIM",
        "signal PSNR (dB)", "over the best baseline (dB)", "which is",
    ]  # fmt: skip
    words = (1, 4, 8) if paper else (1, 7)
    repeats = max((f.figures["pearson"].n for f in findings), default=0)
    pearson = (
        "Agreement of predicted and real grey values over the pixels of a test field, blind to gain and offset. It is compared between "
        "stains because, other than PSNR, it does not depend on how dark most of the field is. In brackets a 95 % interval over "
        f"{repeats} repeat{'' if repeats == 1 else 's'} (Student's t on Fisher's z)."
    )
    how = blocks.Terms([("Pearson r", pearson), *HOW_TO_READ])
    return blocks.Section(
        "Numbers", [blocks.Table(header, rows, words), blocks.Fold("How to read it", [how])]
    )
