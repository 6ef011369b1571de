"""Sections of docs/benchmarks.md: each bench script that is given `--write` replaces its own."""

import os
import platform
import sys
import time
from pathlib import Path

import torch

from vfn.files import write_text


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


def write_section(path: Path, name: str, printed: list[str]) -> None:
    """Replace what stands in `path` between the marks of bench/`name`.py by the printed lines."""
    start, end = f"<!-- bench/{name}.py -->", f"<!-- end of bench/{name}.py -->"
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"error: {path} has no marks {start} ... {end}")
    command = f"python bench/{name}.py {' '.join(sys.argv[1:])}".rstrip()
    block = "\n".join(["```text", f"$ {command}", *printed, "```"])
    write_text(path, f"{before}{start}\n{machine()}.\n\n{block}\n{end}{after}")


class Tee:
    """Prints lines and keeps them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str = "") -> None:
        """Print `text`."""
        print(text, flush=True)
        self.lines += text.splitlines() or [""]
