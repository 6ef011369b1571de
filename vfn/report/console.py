"""Tables for the terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vfn.evaluation.results import MODEL, best_systems, in_order, label
from vfn.models.words import counted
from vfn.report import compare_words as words
from vfn.report.compare_words import RunPair

# On the signal range, and on the full range as in the paper.
SHOWN = {
    "psnr_signal": ("PSNR\nsignal", ".2f"),
    "ssim_signal": ("SSIM\nsignal", ".3f"),
    "pearson": ("Pearson\nr", ".3f"),
    "mae": ("MAE", ".4f"),
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "tolerance_level": ("TL", ".4f"),
}


def make_console() -> Console:
    """A console on standard output; wide enough for the table where there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def channel_table(name: str, summary: dict[str, Any]) -> Table:
    """Means over the fields for the prediction and its baselines, the best of a column starred.

    Args:
        name: of the channel.
        summary: its part of `summary.json`.
    """
    systems = {MODEL: summary, **in_order(summary["baselines"])}
    means = {
        system: {column: row[column]["mean"] for column in SHOWN} for system, row in systems.items()
    }
    best = best_systems(means)
    low, high = summary["range_signal"]
    full = summary["range_full"]
    table = Table(
        title=f"{name}: mean over {counted(summary['mae']['n'], 'field')}",
        title_justify="left",
        caption=f"full range {full[0]:g} to {full[1]:g}, signal range {low:g} to {high:g}"
        + ("; * best of its column" if best else ""),
        caption_justify="left",
        box=box.SIMPLE_HEAD,  # fits 80 columns
        pad_edge=False,
    )
    table.add_column("")
    for title, _ in SHOWN.values():
        table.add_column(title, justify="right", no_wrap=True)
    for system, row in means.items():
        cells = []
        for column, (_, spec) in SHOWN.items():
            mean = row[column]
            text = "-" if mean is None else format(mean, spec)
            cells.append(f"[bold]{text}*[/bold]" if best.get(column) == system else text)
        table.add_row(label(system).partition(" of ")[0], *cells)
    return table


def compare_table(pair: RunPair) -> Table:
    """The main figures of one channel and pair, a star at the better run where that is shown."""
    head = pair.head
    title = f"{head.channel}: {head.b} minus {head.a}, over {head.result.n} {words.plural(head)}"
    shown = any(words.starred(line, run) for line in pair.main for run in (head.a, head.b))
    table = Table(
        title=_plain(title),
        title_justify="left",
        caption="* shown and not slight: p Wilcoxon below 0.05, 0 outside the interval"
        if shown
        else "",
        caption_justify="left",
    )
    table.add_column("")
    names = (head.a, head.b, "difference", "95 % CI", "p Wilcoxon, Holm", "p Student, Holm")
    for name in names:
        table.add_column(_plain(name), justify="right")
    for line in pair.main or pair.lines:
        cells = words.cells(line)
        for i, run in enumerate((line.a, line.b), 1):
            cells[i] += " *" if words.starred(line, run) else ""
        table.add_row(*map(_plain, cells))
    return table


def _plain(name: str) -> Text:
    # A name may hold square brackets, which are no markup, and bytes that are no UTF-8.
    return Text(name.encode(errors="backslashreplace").decode())
