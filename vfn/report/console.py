"""What the terminal shows at the end: one table for each channel."""

from typing import Any

from rich.console import Console
from rich.table import Table

from vfn.models.card import counted
from vfn.report.results import MODEL, best_systems, label

SHOWN = {
    "mae": ("MAE", ".4f"),
    "psnr": ("PSNR dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "pearson": ("Pearson", ".3f"),
    "psnr_signal": ("PSNR signal dB", ".2f"),
    "tolerance_level": ("TL", ".4f"),
}


def make_console() -> Console:
    """A console on standard output; wide enough for the table where there is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    return console


def channel_table(name: str, summary: dict[str, Any]) -> Table:
    """Means over the fields for the prediction and its baselines, the best of a column starred.

    Args:
        name: of the channel.
        summary: its part of `summary.json`.
    """
    systems = {MODEL: summary}
    for baseline in sorted(summary["baselines"], key=lambda b: (b != "linear", b)):
        systems[baseline] = summary["baselines"][baseline]
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
    )
    table.add_column("")
    for title, _ in SHOWN.values():
        table.add_column(title, justify="right", no_wrap=True)
    for system, row in means.items():
        cells = []
        for column, (_, spec) in SHOWN.items():
            mean = row[column]
            text = "-" if mean is None else format(mean, spec)
            cells.append(f"[bold]{text} *[/bold]" if best.get(column) == system else text)
        table.add_row(label(system), *cells)
    return table
