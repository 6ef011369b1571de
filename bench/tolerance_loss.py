"""What training on the tolerance level (eq. 7) does, on real images, through the command line.

    python bench/tolerance_loss.py --data ../shared/data --write docs/benchmarks.md

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
from vfn.metrics.contrast import PERCENTILES
from vfn.metrics.tolerance import error_mask, tolerance_level
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE
from vfn.system.files import write_text

SMALL = [
    "model=virfluonet", "model.generator.width=16", "model.discriminator.width=16", "model.adam.lr_generator=1e-3",
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
BETA2 = 0.1  # of our tolerance levels in the table, with beta1 = 1
WRITTEN = (
    "tolerance_level", "tolerance_threshold", "mae", "psnr", "ssim",
    "pearson", "mae_signal", "psnr_signal", "ssim_signal",
)  # fmt: skip
OURS = ("TL trained", "threshold trained", "above it", "TL signal", "threshold signal", "above")
START, END = "<!-- table: bench/tolerance_loss.py -->", "<!-- end of table -->"


def tilted(name: str, data: Path, target: Path) -> dict[str, float]:
    """Tolerance levels with beta2 < beta1, where errors are not small.

    "trained": in units of the range that the target was normalised on, as the loss sees it;
    "signal": of the 0.1 to 99.9 percentile range of the truth. "above": the share of the pixels
    above the threshold.
    """
    folder, overrides = RUNS[name]
    (path,) = (target / "evaluation" / "predictions").glob("*.ome.tif")
    prediction = tifffile.imread(path)
    token = re.search(rf"\b{name.rpartition('_')[2]}:(\w+)", " ".join(overrides)).group(1)
    (path,) = (data / folder).rglob(f"*{token}*")
    truth = tifffile.imread(path)[:, -prediction.shape[1] :]  # a spatial split tests on the right
    fitted = read_raw(target / "checkpoints" / "best.ckpt")[RECIPE]["targets"][0]
    figures = []
    for low, high in (
        (fitted["low"], fitted["high"]),
        np.percentile(truth, PERCENTILES),
    ):
        level = tolerance_level(prediction, truth, high - low, beta2=BETA2)
        above = error_mask(prediction, truth, level.threshold, high - low).mean()
        figures += [level.value, level.threshold, float(above)]
    mae = np.abs(prediction.astype(float) - truth).mean() / np.iinfo(truth.dtype).max
    return dict(zip(OURS, figures, strict=True), check=float(mae))


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
    figures |= tilted(name, data, target)
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
