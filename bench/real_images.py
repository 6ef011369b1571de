"""Train, predict and score on real images, through the command line, and write the table.

    python bench/real_images.py --data ../shared/data --max-time 00:00:04:00 --write docs/results.md

Each run trains for --max-time, is scored on its own held-out part, and stands beside the two
baselines. --check does the same in short, writes nothing, and fails if anything is not finite.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = [
    "model=virfluonet",
    "model.generator.width=32",
    "model.discriminator.width=32",
    "logger=csv",
]
JUMP = (
    "{mito:ch1sk1fk1fl1,rna:ch2sk1fk1fl1,er:ch3sk1fk1fl1,dna:ch4sk1fk1fl1,golgi_actin:ch5sk1fk1fl1}"
)
DAOY = (
    "{er:ch2sk1fk1fl1,golgi_actin:ch3sk1fk1fl1,mito:ch4sk1fk1fl1,dna:ch5sk1fk1fl1,rna:ch6sk1fk1fl1}"
)
SPATIAL = ["data=folder", "data.split=spatial", "data.test_fraction=0.25"]
# name -> folder below --data, overrides of train.py
RUNS: dict[str, tuple[str, list[str]]] = {
    f"{place}_{task}": (folder, [*SPATIAL, f"data.channels={channels}", f"task={task}"])
    for place, folder, channels in (
        ("jump", "u2os_cps/jump_5ch", JUMP),
        ("daoy", "other_cps/daoy_5ch_brightfield", DAOY),
    )
    for task in ("er", "dna", "mito")
}
RUNS["deepcell_nuclear"] = (
    "phase_fluo/deepcell/training_data",
    [
        "data=folder", "task.inputs=[phase]", "task.targets=[nuclear]",
        "data.unpaired=skip", "data.test_fields=[HeLa_joint_set3]",
        # Validates on HeLa too (set 2); trains on HeLa set 1, 3T3 and MCF10A.
        "data.split_seed=9",
        # The brightness of phase contrast differs between these fields.
        "data.input_jitter=0.2",
    ],
)  # fmt: skip
COLUMNS = (
    "pearson",
    "psnr_signal",
    "mae_signal",
    "ssim_signal",
    "psnr",
    "mae",
    "ssim",
    "tolerance_level",
)
WHO = {
    "prediction": "VirFluoNet",
    "linear": "linear map of the inputs",
    "mean": "mean of the training target",
}
START, END = "<!-- table: bench/real_images.py -->", "<!-- end of table -->"


def call(script: str, *overrides: str) -> None:
    """Run one of the entry points as a user would; its exit code must be 0."""
    what = [script] if script.startswith("-") else [str(REPOSITORY / script)]
    command = [sys.executable, *what, *overrides]
    print("$ python", script, *overrides, flush=True)
    subprocess.run(command, cwd=REPOSITORY, check=True)


def run(name: str, data: Path, output: Path, max_time: str, extra: list[str]) -> dict:
    """Train and score one of `RUNS`; returns its summary.json."""
    folder, overrides = RUNS[name]
    target = output / name
    call(
        "train.py", f"run={target}", f"data.root={data / folder}", *overrides, *SMALL,
        f"trainer.max_time={max_time}", "trainer.max_epochs=100000", *extra,
    )  # fmt: skip
    call("evaluate.py", f"ckpt={target}/checkpoints/best.ckpt", f"output={target}/evaluation")
    return json.loads((target / "evaluation" / "summary.json").read_text(encoding="utf-8"))


def rows(name: str, summary: dict) -> list[str]:
    """Lines of the Markdown table; the best of each column in bold."""
    lines = []
    for channel, figures in summary.items():
        table = {"prediction": figures, **figures["baselines"]}
        for who in ("prediction", "linear", "mean"):
            cells = []
            for column in COLUMNS:
                values = {w: table[w][column]["mean"] for w in table}
                value = values[who]
                if value is None:
                    cells.append("-")
                    continue
                best = (min if "mae" in column or "tol" in column else max)(
                    v for v in values.values() if v is not None
                )
                text = f"{value:.2f}" if "psnr" in column else f"{value:.4f}"
                cells.append(f"**{text}**" if value == best else text)
            lines.append(f"| {name} | {channel} | {WHO[who]} | " + " | ".join(cells) + " |")
    return lines


def check(name: str, summary: dict) -> None:
    """A run that lasted seconds need not be good, but it must be there and finite."""
    for channel, figures in summary.items():
        for column in COLUMNS:
            value = figures[column]["mean"]
            if value is None or not math.isfinite(value):
                sys.exit(f"error: {name} {channel}: {column} is {value}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--output", type=Path, default=Path("outputs/real"))
    parser.add_argument("--max-time", default="00:00:04:00", help="of each training, DD:HH:MM:SS")
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--write", type=Path, help="Markdown file whose table is replaced")
    parser.add_argument("--check", action="store_true", help="fail if a figure is not finite")
    parser.add_argument("overrides", nargs="*", help="further overrides of train.py")
    args = parser.parse_args()
    output, data = args.output.absolute(), args.data.absolute()
    start = time.strftime("%Y-%m-%d")
    lines = []
    for name in args.only:
        summary = run(name, data, output, args.max_time, args.overrides)
        lines += rows(name, summary)
        if args.check:
            check(name, summary)
    head = f"| run | target | who | {' | '.join(COLUMNS)} |"
    table = [
        f"{args.max_time} of training each, {os.cpu_count()} cores ({platform.machine()}), {start}.",
        "", head, "|" + " --- |" * (len(COLUMNS) + 3), *lines,
    ]  # fmt: skip
    print("\n".join(table))
    if args.write:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        args.write.write_text("\n".join([before + START, *table, END + after]), encoding="utf-8")


if __name__ == "__main__":
    main()
