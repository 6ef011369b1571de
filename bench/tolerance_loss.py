"""What training on the tolerance level (eq. 7) does, on real images, through the command line.

    python bench/tolerance_loss.py --data ../shared/data --write docs/tolerance_loss_section.md

Each loss trains the same small network with the same seed for the same number of patches, so that
the comparison does not depend on who else uses the machine; each is scored on the held-out part.
"""

import argparse
import csv
import os
import platform
import re
import sys
import time
from pathlib import Path

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.real_images import RUNS, call
from vfn.files import write_text
from vfn.metrics.ranges import SIGNAL_PERCENTILES
from vfn.metrics.tolerance import error_mask, tolerance_level

SMALL = [
    "model.generator.width=16", "model.discriminator.width=16", "model.adam.lr_generator=1e-3",
    "data.patch_size=128", "logger=csv",
]  # fmt: skip
LOSSES = {
    "virfluonet": ["loss=virfluonet"],
    "tolerance": ["loss=tolerance"],
    "MAE + tolerance": ["loss=tolerance", "loss.mae=0.495", "loss.tolerance=0.99"],
    "tolerance, beta2 = 1": ["loss=tolerance", "loss.tolerance_beta2=1"],
    "tolerance, beta2 = 0.3": ["loss=tolerance", "loss.tolerance_beta2=0.3"],
    "tolerance, temperature 0.02": ["loss=tolerance", "loss.tolerance_temperature=0.02"],
}
BETA2 = 0.1  # of the second tolerance level in the table, with beta1 = 1
WRITTEN = (
    "tolerance_level", "tolerance_threshold", "mae", "psnr", "ssim",
    "pearson", "mae_signal", "psnr_signal", "ssim_signal",
)  # fmt: skip
OURS = (
    "TL signal, 1:1",
    f"TL signal, 1:{BETA2}",
    f"threshold, 1:{BETA2}",
    f"pixels above, 1:{BETA2}",
)
START, END = "<!-- table: bench/tolerance_loss.py -->", "<!-- end of table -->"


def tolerance_on_signal(name: str, data: Path, evaluation: Path) -> dict[str, float]:
    """Tolerance levels in units of the signal range, where errors are not small."""
    folder, overrides = RUNS[name]
    (path,) = (evaluation / "predictions").glob("*.ome.tif")
    prediction = tifffile.imread(path)
    target = name.rpartition("_")[2]
    token = re.search(rf"\b{target}:(\w+)", " ".join(overrides)).group(1)
    (path,) = (data / folder).rglob(f"*{token}*")
    truth = tifffile.imread(path)[:, -prediction.shape[1] :]  # a spatial split tests on the right
    low, high = np.percentile(truth, SIGNAL_PERCENTILES)
    even = tolerance_level(prediction, truth, high - low)
    tilted = tolerance_level(prediction, truth, high - low, beta2=BETA2)
    share = error_mask(prediction, truth, tilted.threshold, high - low).mean()
    return dict(
        zip(OURS, (even.value, tilted.value, tilted.threshold, float(share)), strict=True),
        check=float(np.abs(prediction.astype(float) - truth).mean() / np.iinfo(truth.dtype).max),
    )


def run(name: str, loss: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train and score one loss; returns the figures of its field."""
    data, target = args.data.absolute(), args.output.absolute() / name / f"{loss}_{seed}"
    target = target.with_name(re.sub(r"[^\w.]+", "_", target.name))
    folder, overrides = RUNS[name]
    table = target / "evaluation" / "metrics.csv"
    if not table.exists():
        call(
            "train.py", f"run={target}", f"data.root={data / folder}", *overrides, *SMALL,
            *LOSSES[loss], f"seed={seed}", f"data.patches_per_epoch={args.patches}",
            f"trainer.max_epochs={args.epochs}",
        )  # fmt: skip
        call("evaluate.py", f"ckpt={target}/checkpoints/best.ckpt", f"output={target}/evaluation")
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    figures = {column: float(row[column]) for column in WRITTEN}
    figures |= tolerance_on_signal(name, data, target / "evaluation")
    if abs(figures.pop("check") - figures["mae"]) > 1e-6:
        sys.exit(f"error: {target}: the truth read here is not what evaluate.py scored")
    return figures


def cell(values: list[float], column: str) -> str:
    """Mean over the seeds, and their sample standard deviation where there are several."""
    digits = 2 if column.startswith("psnr") else 4
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--output", type=Path, default=Path("outputs/tolerance_loss"))
    parser.add_argument("--tasks", nargs="+", default=["jump_dna", "daoy_er"], choices=list(RUNS))
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--patches", type=int, default=1000, help="an epoch")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--write", type=Path, help="Markdown file whose table is replaced")
    args = parser.parse_args()
    columns = (*WRITTEN, *OURS)
    lines = []
    for name in args.tasks:
        for loss in args.losses:
            rows = [run(name, loss, seed, args) for seed in args.seeds]
            cells = [cell([row[column] for row in rows], column) for column in columns]
            lines.append(f"| {name} | {loss} | {' | '.join(cells)} |")
    table = [
        f"{args.patches * args.epochs} patches of 128x128 each, mean of {len(args.seeds)} seed(s), "
        f"{os.cpu_count()} cores ({platform.machine()}), {time.strftime('%Y-%m-%d')}.",
        "", f"| run | loss | {' | '.join(columns)} |", "|" + " --- |" * (len(columns) + 2), *lines,
    ]  # fmt: skip
    print("\n".join(table))
    if args.write:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        write_text(args.write, "\n".join([before + START, *table, END + after]))


if __name__ == "__main__":
    main()
