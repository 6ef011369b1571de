"""Real plates, wells kept apart: the paper's Fluo-Fluo 2, 3, 4, its figure 8, drugs, a dose curve.

    python bench/plate.py --data ../shared/data --output outputs/plate --write docs/results.md

Trains and scores through the command line, as a user would. What --output already holds is kept, so
an interrupted run goes on. --steps are the updates of each training.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from real_images import call
from scipy import ndimage, stats
from skimage.segmentation import expand_labels

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.data.images import read_image
from vfn.metrics.objects import segment_nuclei
from vfn.system.csv_files import read_csv

START, END = "<!-- table: bench/plate.py -->", "<!-- end of table: bench/plate.py -->"
WELLS = {
    "r01c02": "DMSO", "r01c10": "XL888 0.37 uM", "r02c07": "ixabepilone", "r04c21": "LY2334737 1.11 uM",
}  # fmt: skip
CONTROL = "r01c02"
TASKS = ("dna", "er", "mito")
PLATE = [
    "data=folder",
    r"data.pattern='(?P<well>r\d\dc\d\d)f(?P<site>\d\d)p01-(?P<channel>ch\d)'",
    "data.channels={dna:ch1,er:ch2,rna:ch3,golgi_actin:ch4,mito:ch5}",
]
DOSES = [
    "data=folder",
    r"data.pattern='(?P<channel>Channel\d)-\d\d-(?P<well>[A-H]-\d\d)'",
    "data.channels={fkhr:Channel1,dna:Channel2}",
]
RING = 5  # px around a nucleus that stand for its cytoplasm


def train(run: Path, steps: int, *overrides: str) -> Path:
    """Return the checkpoint of a run, which is trained unless it is there."""
    checkpoint = run / "checkpoints" / "best.ckpt"
    if not (run / "done").exists():
        call(
            "train.py", f"run={run}", *overrides, "model=best", "logger=csv", "data.input_jitter=0.2",
            "data.patches_per_epoch=400", f"trainer.max_steps={steps}", "trainer.max_epochs=100000",
        )  # fmt: skip
        (run / "done").touch()
    return checkpoint


def evaluate(output: Path, *overrides: str, made: str = "summary.json") -> Path:
    """Return the folder of an evaluation, which is made unless it is there."""
    if not (output / made).exists():
        call("evaluate.py", f"output={output}", *overrides)
    return output


def mean(values: Sequence[float]) -> float:
    """Return the mean of the finite values; NaN without any."""
    kept = [v for v in values if math.isfinite(v)]
    return statistics.fmean(kept) if kept else math.nan


def interval(values: Sequence[float], digits: int) -> str:
    """Return the mean over wells and Student's 95 % interval as text."""
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{mean(values):.{digits}f} ({mean(values) - half:.{digits}f} to {mean(values) + half:.{digits}f})"


def column(path: Path, name: str, **wanted: str) -> float:
    """Return the mean over fields of a column of metrics.csv or baselines.csv."""
    kept = [row for row in read_csv(path).rows if all(row[k] == v for k, v in wanted.items())]
    return mean([float(row[name] or "nan") for row in kept])


def leave_one_well_out(data: Path, output: Path, steps: int) -> list[str]:
    """Train each task on three wells, score it on the fourth; returns the table."""
    lines = [
        "| target | test well | who | Pearson | PSNR signal (dB) | SSIM signal | MAE signal | nuclei F1 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    shown = ("pearson", "psnr_signal", "ssim_signal", "mae_signal", "f1_50")
    for task in TASKS:
        by_well: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for well in WELLS:
            run = output / f"{task}_{well}"
            checkpoint = train(
                run, steps, *PLATE, f"data.root={data}", f"task={task}", f"data.test_wells=[{well}]"
            )
            scored = evaluate(run / "evaluation", f"ckpt={checkpoint}")
            who = {"network": {name: column(scored / "metrics.csv", name) for name in shown}}
            for baseline in ("filter", "linear", "median", "mean"):
                who[baseline] = {
                    name: column(scored / "baselines.csv", name, baseline=baseline)
                    for name in shown[:-1]
                }
            for name, figures in who.items():
                for key, value in figures.items():
                    by_well[name][key].append(value)
                if name in ("network", "filter"):
                    lines.append(_line([task, f"{well} ({WELLS[well]})", name], figures, shown))
        for name, figures in by_well.items():
            cells = [
                interval(figures[key], 2 if "psnr" in key else 3)
                if key in figures and all(map(math.isfinite, figures[key])) else "-"
                for key in shown
            ]  # fmt: skip
            lines.append(f"| {task} | **mean of 4 wells** (95 %) | {name} | {' | '.join(cells)} |")
        others = [by_well[name]["psnr_signal"] for name in by_well if name != "network"]
        gain = [
            n - max(b) for n, *b in zip(by_well["network"]["psnr_signal"], *others, strict=True)
        ]
        lines.append(
            f"| {task} | **gain over the best baseline** (95 %) | | | {interval(gain, 2)} | | | |"
        )
    return lines


def _line(head: list[str], figures: dict[str, float], shown: Sequence[str]) -> str:
    cells = [
        "-" if not math.isfinite(figures.get(key, math.nan))
        else f"{figures[key]:.2f}" if "psnr" in key else f"{figures[key]:.3f}"
        for key in shown
    ]  # fmt: skip
    return "| " + " | ".join([*head, *cells]) + " |"


def features(data: Path, output: Path, sites: int) -> list[str]:
    """Compare features of real and hybrid fields, the paper's figure 8; returns the table."""
    lines = [
        "| features of | fields | number | median r | r > 0.8 |",
        "| --- | --- | --- | --- | --- |",
    ]
    treated = [well for well in WELLS if well != CONTROL]
    for part, wells, count in (("control", [CONTROL], 3 * sites), ("treated", treated, sites)):
        root = output / f"features_{part}"
        fields = [(well, site) for well in wells for site in range(1, count + 1)]
        for well, site in fields:
            hybrid_field(data, output, root, well, site)
        scored = evaluate(
            root / "evaluation", f"pred=[{','.join(str(root / task) for task in TASKS)}]",
            f"truth={root / 'truth'}", "inputs=[golgi_actin,rna]", "features=true", "cells=rna",
            r"wells='^(?P<well>r\d\dc\d\d)'",
        )  # fmt: skip
        found: dict[str, list[float]] = defaultdict(list)
        for row in read_csv(scored / "features.csv").rows:
            if row["r"] not in ("", "nan"):
                found[row["group"]].append(float(row["r"]))
        found["all"] = [r for values in found.values() for r in values]
        for group, values in found.items():
            share = sum(r > 0.8 for r in values) / len(values)
            what = f"{len(fields)} {part}"
            lines.append(
                f"| {group} | {what} | {len(values)} | {np.median(values):.2f} | {share:.0%} |"
            )
    return lines


def hybrid_field(data: Path, output: Path, root: Path, well: str, site: int) -> None:
    """Write the five real channels of a field, and link its three predicted ones beside them."""
    name = f"{well}_s{site:02d}.ome.tif"
    channels = ("dna", "er", "rna", "golgi_actin", "mito")
    image = np.stack([
        read_image(data / f"{well}f{site:02d}p01-ch{n}sk1fk1fl1.png").array[0] for n in range(1, 6)
    ])  # fmt: skip
    (root / "truth").mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        root / "truth" / name, image, metadata={"axes": "CYX", "Channel": {"Name": channels}}
    )
    for task in TASKS:
        (root / task).mkdir(exist_ok=True)
        link = root / task / name
        link.unlink(missing_ok=True)
        link.symlink_to(output / f"{task}_{well}" / "evaluation" / "predictions" / name)


def transfer(data: Path, output: Path, steps: int) -> list[str]:
    """Train on the DMSO well alone, compare the errors in treated wells; returns the table."""
    lines = [
        "| target | treated well | departure from the expected error, SD (DMSO) | nuclei departing (DMSO) "
        "| fields with unlike inputs |",
        "| --- | --- | --- | --- | --- |",
    ]
    for well in WELLS:
        (output / well).mkdir(exist_ok=True)
        for image in sorted(data.glob(f"{well}*.png")):
            link = output / well / image.name
            link.unlink(missing_ok=True)
            link.symlink_to(image.resolve())
    for task in ("dna", "er"):
        run = output / f"{task}_dmso_only"
        checkpoint = train(
            run, steps, *PLATE, f"data.root={output / CONTROL}", f"task={task}", "data.split=field",
            "data.test_fraction=0.45",
        )  # fmt: skip
        for well in WELLS:
            if well != CONTROL:
                compared = evaluate(
                    run / well,
                    f"ckpt={checkpoint}",
                    f"data2.root={output / well}",
                    made="conditions.json",
                )
                found = json.loads((compared / "conditions.json").read_text(encoding="utf-8"))
                one = found["channels"][task]
                error = one["figures"]["departure"]
                control, treated = (one["cells"][name] for name in ("control", "treated"))
                nuclei = f"{treated['share']:.0%} ({control['share']:.0%})" if treated["n"] else "-"
                alarms = f"{treated['fields_with_input_alarms']} of {treated['fields']}"
                lines.append(
                    f"| {task} | {well} ({WELLS[well]}) | {error['treated']:.1f} ({error['control']:.1f}) "
                    f"| {nuclei} | {alarms} |"
                )
    return lines


def doses(data: Path, output: Path, steps: int) -> list[str]:
    """Measure FKHR in nuclei against a ring about them, with each channel virtual in turn."""
    curves: dict[str, dict[str, float]] = {"all real": {}, "virtual DNA": {}, "virtual FKHR": {}}
    for row in "AE":
        wells = ",".join(f"{row}-{column:02d}" for column in range(1, 13))
        made = {}
        for target, source in (("dna", "fkhr"), ("fkhr", "dna")):
            run = output / f"{target}_row_{row}"
            checkpoint = train(
                run, steps, *DOSES, f"data.root={data}", f"task.inputs=[{source}]",
                f"task.targets=[{target}]", f"data.test_wells=[{wells}]",
            )  # fmt: skip
            scored = evaluate(run / "evaluation", f"ckpt={checkpoint}")
            made[target] = {
                path.name.split(".")[0]: path for path in (scored / "predictions").glob("*.tif")
            }
        for field in made["dna"]:
            well = next(w for w in wells.split(",") if w in field)
            real = {
                name: read_image(next(data.glob(f"Channel{n}-??-{well}.tif"))).array[0]
                for n, name in ((1, "fkhr"), (2, "dna"))
            }
            for name, change in (
                ("all real", None),
                ("virtual DNA", "dna"),
                ("virtual FKHR", "fkhr"),
            ):
                virtual = {change: tifffile.imread(made[change][field]).squeeze()} if change else {}
                curves[name][well] = translocation(**(real | virtual))
    wells = sorted(curves["all real"])
    lines = [
        "| well | dose | " + " | ".join(curves) + " |", "| --- | --- |" + " --- |" * len(curves),
    ]  # fmt: skip
    stated = {
        f"{row['Row']}-{row['Column']}": row["SBS_Doses"]
        for row in read_csv(data / "1049_Metadata.csv").rows
    }
    for well in wells:
        cells = " | ".join(f"{c[well]:.2f}" for c in curves.values())
        lines.append(f"| {well} | {stated[well]} | {cells} |")
    real = [curves["all real"][well] for well in wells]
    over = [f"{np.corrcoef(real, [c[well] for well in wells])[0, 1]:.3f}" for c in curves.values()]
    lines.append(f"| **r over {len(wells)} wells with all real** | | {' | '.join(over)} |")
    return lines


def translocation(fkhr: NDArray[np.uint8], dna: NDArray[np.uint8]) -> float:
    """Return FKHR in the nucleus over FKHR in a ring about it, mean over the nuclei of a field."""
    nuclei = segment_nuclei(dna)
    ring = expand_labels(nuclei, RING) - nuclei
    numbers = np.arange(1, nuclei.max() + 1)
    inside, outside = (ndimage.mean(fkhr, labels, numbers) for labels in (nuclei, ring))
    return float(np.nanmean(inside / outside))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--output", type=Path, default=Path("outputs/plate"))
    parser.add_argument("--steps", type=int, default=800, help="of each training")
    parser.add_argument(
        "--sites", type=int, default=3, help="fields of each treated well for the features"
    )
    parser.add_argument("--write", type=Path, help="Markdown file whose tables are replaced")
    args = parser.parse_args()
    data, output = args.data.absolute(), args.output.absolute()
    plate = data / "u2os_cps" / "cp_plate_9wells"
    parts = {
        "Fluo-Fluo 2, 3, 4, one well left out": leave_one_well_out(plate, output, args.steps),
        "Dose curve of FKHR": doses(data / "u2os_translocation", output, args.steps),
        "A model of DMSO on treated wells": transfer(plate, output, args.steps),
        "Features (the paper's figure 8)": features(plate, output, args.sites),
    }
    text = "\n".join(
        [f"{args.steps} steps of each training, {time.strftime('%Y-%m-%d')}."]
        + [line for title, table in parts.items() for line in ("", f"### {title}", "", *table)]
    )
    print(text)
    if args.write:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        args.write.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
