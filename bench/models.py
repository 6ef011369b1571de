"""The paper's models, others, and ours with and without each ingredient, at equal training time.

    python bench/models.py --data DIR --runs outputs/models --seeds 3 --seconds 60
    python bench/models.py --data DIR --runs outputs/models --table ingredients --models best "best, start at the mean"

First the patches a second of each model are measured, repeats alternating, on a machine that should do nothing
else; they are kept in rates.json of --runs. Then every model is trained on every set with as many patches as
it would see in --seconds, once a seed, and scored on the held-out part by evaluate.py, all through the command
line. So what else runs by then makes no difference, and the same seed gives the same figures. A run that is
finished is not run again: the same command goes on where it was stopped. Writes the table of docs/models.md that --table names, and its chart. Last lines: RATIO name value, the MAE of
`best` over that of another model on one set; below 1, ours errs less.
"""

import argparse
import csv
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import lightning
import matplotlib as mpl
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed
from bench.real_images import DAOY, JUMP, REPOSITORY, RUNS, SPATIAL, call
from vfn import __version__
from vfn.system.files import write_text

FROM_TWO = ["task.inputs=[golgi_actin,rna]", "task.targets=[dna,er,mito]"]
# name -> folder below --data, overrides of train.py
SETS: dict[str, tuple[str, list[str]]] = {
    "daoy": (
        "other_cps/daoy_5ch_brightfield",
        [*SPATIAL, f"data.channels={DAOY}", *FROM_TWO],
    ),
    "jump_5ch": ("u2os_cps/jump_5ch", [*SPATIAL, f"data.channels={JUMP}", *FROM_TWO]),
    "deepcell": RUNS["deepcell_nuclear"],
    "schwann_3ch": (
        "other_cps/schwann_3ch",
        [
            *SPATIAL, "data.channels={dna:1,er:2,actin:3}",
            'data.pattern="(?P<well>[A-H]\\d)_01_(?P<channel>\\d)_(?P<site>\\d)_"',
            "task.inputs=[actin,er]", "task.targets=[dna]",
        ],
    ),
}  # fmt: skip
# The paper's network at the size and the rate that docs/results.md has: in a minute the full width
# at 2e-4 gets nowhere, and the comparison would be with a straw man.
SMALL = [
    "model.generator.width=32", "model.discriminator.width=32", "model.adam.lr_generator=1e-3",
]  # fmt: skip
MODELS: dict[str, list[str]] = {
    "virfluonet": ["model=virfluonet", *SMALL],
    "pix2pix": ["model=pix2pix", *SMALL],
    "unet": ["model=unet", *SMALL],
    "best": ["model=best"],
    "convnext": ["model=convnext"],
    "best, MS-SSIM beside the MAE": ["model=best", "loss=ms_ssim"],
    "best, start at the mean": ["model=best", "model.generator.start=level"],
    "best, weights as they are": ["model=best", "model.ema=0"],
    "best, constant rate": ["model=best", "model.schedule=constant", "model.warmup=0"],
    "best, with an adversary": [
        "model=best", "loss.adversarial=0.01", "loss.adversarial_kind=hinge",
        "loss.feature_matching=0.1", "model.discriminator.width=32",
    ],
}  # fmt: skip
EPOCH = 64  # patches
PACE = [
    f"data.patches_per_epoch={EPOCH}", "data.val_patches=16", "logger=csv",
    "trainer.sample_every_n_epochs=100000",
]  # fmt: skip
COLUMNS = {"psnr_signal": 2, "ssim_signal": 4, "pearson": 4, "mae_signal": 4}  # -> digits
BASELINES = {"linear": "linear map of the inputs", "mean": "mean of the training target"}
END = "<!-- end of table -->"

Figures = dict[str, float]  # column -> mean over the targets of a set


def rates(args: argparse.Namespace) -> dict[str, float]:
    """Patches a second of each model on the first set, validation apart: medians of --repeats runs."""
    kept = args.runs.absolute() / "rates.json"
    known: dict[str, list[float]] = (
        json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    )
    folder, overrides = SETS[args.sets[0]]
    wanted = [model for model in args.models if len(known.get(model, [])) < args.repeats]
    for _ in range(args.repeats):
        for model in wanted:
            with tempfile.TemporaryDirectory() as scratch:
                call(
                    "train.py", f"run={scratch}/run", f"data.root={args.data.absolute() / folder}",
                    *overrides, *MODELS[model], *PACE, "trainer.max_epochs=2",
                    "trainer.check_val_every_n_epoch=2",
                )  # fmt: skip
                with Path(scratch, "run", "metrics.csv").open(encoding="utf-8", newline="") as file:
                    *_, last = csv.DictReader(file)  # the first epoch warms up
            known.setdefault(model, []).append(float(last["images_per_s"]))
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(known))
    return {model: statistics.median(known[model]) for model in args.models}


def run(
    place: str, model: str, seed: int, rate: float, args: argparse.Namespace
) -> dict[str, Figures]:
    """Train and score what is not yet; figures of "prediction" and of both baselines."""
    folder, overrides = SETS[place]
    epochs = max(1, round(rate * args.seconds / EPOCH))
    target = args.runs.absolute() / f"{args.seconds:g}s" / place / f"{_slug(model)}_{seed}"
    summary, trained = target / "evaluation" / "summary.json", target / "trained"
    if not trained.exists() and target.exists():
        shutil.rmtree(target)
    if not trained.exists():
        call(
            "train.py", f"run={target}", f"data.root={args.data.absolute() / folder}", *overrides,
            *MODELS[model], f"seed={seed}", *PACE, f"trainer.max_epochs={epochs}",
        )  # fmt: skip
        trained.touch()
    if not summary.exists():
        call("evaluate.py", f"ckpt={target}/checkpoints/best.ckpt", f"output={summary.parent}")
    channels = json.loads(summary.read_text(encoding="utf-8")).values()

    def over_targets(who: str, column: str) -> float:
        tables = [c if who == "prediction" else c["baselines"][who] for c in channels]
        values = [t[column]["mean"] for t in tables]
        return math.nan if None in values else statistics.mean(values)

    return {w: {c: over_targets(w, c) for c in COLUMNS} for w in ("prediction", *BASELINES)}


def _slug(model: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in model)


def cell(values: list[float], digits: int) -> str:
    """Mean over the seeds, and their sample standard deviation where there are several."""
    if any(math.isnan(v) for v in values):
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(place: str, found: dict[str, list[Figures]]) -> list[str]:
    """Markdown rows of one set; the best mean of each column in bold."""
    lines = []
    for who, runs in found.items():
        cells = []
        for column, digits in COLUMNS.items():
            means = [statistics.mean(r[column] for r in rows) for rows in found.values()]
            pick = min if column.startswith("mae") else max
            best = pick(m for m in means if not math.isnan(m))
            values = [r[column] for r in runs]
            text = cell(values, digits)
            cells.append(f"**{text}**" if statistics.mean(values) == best else text)
        lines.append(f"| {place} | {BASELINES.get(who, who)} | {' | '.join(cells)} |")
    return lines


def chart(found: dict[str, dict[str, list[Figures]]], path: Path) -> None:
    """Gain in signal PSNR over the linear map: a bar a model, a dot a seed, a panel a set."""
    figure, axes = plt.subplots(
        1, len(found), figsize=(3.2 * len(found) + 2, 4), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, (place, rows) in zip(axes[0], found.items(), strict=True):
        line = statistics.mean(r["psnr_signal"] for r in rows["linear"])
        models = [who for who in rows if who not in BASELINES]
        for y, who in enumerate(models):
            gains = [r["psnr_signal"] - line for r in rows[who]]
            colour = "tab:orange" if who.startswith("best") else "tab:blue"
            axis.barh(y, statistics.mean(gains), color=colour, alpha=0.6)
            axis.plot(gains, [y] * len(gains), "k.", markersize=4)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(title=place, xlabel="dB over the linear map", yticks=range(len(models)))
        axis.set_yticklabels(models)
    axes[0, 0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def page(
    found: dict[str, dict[str, list[Figures]]], pace: dict[str, float], args: argparse.Namespace
) -> list[str]:
    """The generated part of docs/models.md."""
    head = f"| set | model | {' | '.join(COLUMNS)} |"
    seen = ", ".join(f"{model} {rate * args.seconds:.0f}" for model, rate in pace.items())
    return [
        f"{args.seconds:g} s of training each, mean ± standard deviation of {args.seeds} seed(s), mean "
        f"over the targets of a set; {os.cpu_count()} cores ({platform.machine()}), vfn "
        f"{__version__}, torch {torch.__version__.partition('+')[0]}, lightning "
        f"{lightning.__version__}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}.",
        "", f"Patches of 256x256 seen: {seen}.",
        "", head, "|" + " --- |" * (len(COLUMNS) + 2),
        *(line for place, rows in found.items() for line in table(place, rows)),
        "", f"![Gain over the linear map](images/{args.table}.png)",
    ]  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--runs", type=Path, default=Path("outputs/models"))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--seconds", type=float, default=60, help="of each training")
    parser.add_argument("--repeats", type=int, default=3, help="of the measurement of rates")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--table", default="models", help="of the Markdown file, by its mark")
    parser.add_argument(
        "--write", type=Path, default=REPOSITORY / "docs" / "models.md",
        help="Markdown file whose table is replaced; the chart lies beside it in images/",
    )  # fmt: skip
    args = parser.parse_args()
    pace = rates(args)
    found: dict[str, dict[str, list[Figures]]] = {}
    # A seed of all, then the next: what is there when it is stopped can be compared.
    for seed in range(args.seeds):
        for place in args.sets:
            rows = found.setdefault(place, {})
            for model in args.models:
                figures = run(place, model, seed, pace[model], args)
                rows.setdefault(model, []).append(figures["prediction"])
            for baseline in BASELINES:
                rows.setdefault(baseline, []).append(figures[baseline])
    text = page(found, pace, args)
    print("\n".join(text))
    start = f"<!-- table: bench/models.py, {args.table} -->"
    before, mark, rest = args.write.read_text(encoding="utf-8").partition(start)
    if not mark:
        sys.exit(
            f"error: --table {args.table}: {args.write} has no line {start}; add it, and {END}"
        )
    write_text(args.write, "\n".join([before + start, *text, END + rest.partition(END)[2]]))
    chart(found, args.write.parent / "images" / f"{args.table}.png")
    for place, rows in found.items():
        maes = {who: statistics.mean(r["mae_signal"] for r in runs) for who, runs in rows.items()}
        for who in rows:
            if "best" in maes and who != "best":
                print(f"RATIO {place}_mae_best_over_{_slug(who)} {maes['best'] / maes[who]:.4f}")


if __name__ == "__main__":
    main()
