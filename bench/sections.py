"""Sections of docs/benchmarks.md: each bench script that is given `--write` replaces its own."""

import os
import platform
import statistics
import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt

from vfn.system.files import write_text


def machine() -> str:
    """Where and when figures were measured, in a line."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores ({_processor()}), {gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def write_section(
    path: Path,
    name: str,
    printed: list[str],
    charts: dict[str, dict[str, list[float]]] | None = None,
) -> None:
    """Replace what stands in `path` between the marks of bench/`name`.py by the printed lines.

    Args:
        charts: title with its unit -> what was measured -> values; they become one picture,
            images/bench_`name`.png beside `path`, a bar for each median and a dot for each value.
            None draws nothing.
    """
    start, end = f"<!-- bench/{name}.py -->", f"<!-- end of bench/{name}.py -->"
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"error: {path} has no marks {start} ... {end}")
    command = f"python bench/{name}.py {' '.join(sys.argv[1:])}".rstrip()
    lines = ["```text", f"$ {command}", *printed, "```"]
    if charts is not None:
        picture = Path("images", f"bench_{name}.png")
        draw(charts, path.parent / picture)
        lines += ["", f"![{name}]({picture})"]
    block = "\n".join(lines)
    write_text(path, f"{before}{start}\n{machine()}.\n\n{block}\n{end}{after}")


def draw(charts: dict[str, dict[str, list[float]]], path: Path) -> None:
    """A panel of bars for each chart; the references, which come first, in grey."""
    rows = max(len(values) for values in charts.values())
    figure, axes = plt.subplots(
        1, len(charts), figsize=(6.5 * len(charts), 0.45 * rows + 1.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, (title, measured) in zip(axes[0], charts.items(), strict=True):
        for y, (what, values) in enumerate(measured.items()):
            middle = statistics.median(values)
            axis.barh(y, middle, color="0.7" if what.startswith("reference") else "tab:blue")
            axis.plot(values, [y] * len(values), "k.", markersize=4)
            axis.annotate(f"{middle:.3g}", (max(values), y), (4, 0), textcoords="offset points",
                          va="center", fontsize=9)  # fmt: skip
        axis.set_yticks(range(len(measured)), list(measured))
        axis.set_xlabel(title)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


class Tee:
    """Prints lines and keeps them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str = "") -> None:
        """Print `text`."""
        print(text, flush=True)
        self.lines += text.splitlines() or [""]
