"""Refocusing on real images, through the command line.

    python bench/refocus.py --data DIR --runs outputs/refocus --max-time 00:00:05:00

1. Sharp Hoechst fields of U2OS (BBBC006 wells a01 to a07, BBBC022 wells A01 and E07) are put out of focus by
   the physics of a 20x/0.45 objective (`data=defocused`); a model learns on some wells and is scored
   on others, at eight depths beside the input and a Wiener filter.
2. Well a01 was photographed sharp and 32 um out of focus, far beyond what the model learnt: input, Wiener filter
   and prediction against the sharp picture.
3. Real fields 32 um out of focus without a truth: focus, PIQE and BRISQUE before and after.
4. Real defocus series of transmitted light: what the measures of focus say of each plane.

--check does it in short and fails if something is not finite.
"""

import argparse
import csv
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "bench")]  # run from a clone, not installed

from real_images import call

from vfn.data.images import read_image
from vfn.inference.predictor import Predictor
from vfn.metrics.quality import quality
from vfn.models.checkpoint import load_checkpoint
from vfn.refocus.deconvolution import Deconvolution
from vfn.refocus.measures import normalised_variance, power_log_log_slope, variance_of_laplacian
from vfn.refocus.scale import FocusScale

SHARP = ("u2os_af/bbbc006_zaligned10_w1", "u2os_cps/bbbc022_w1")
BLURRED = "u2os_af/bbbc006_z00_w1"
OPTICS = [
    "data.na=0.45",
    "data.wavelength=0.46",
    "data.pixel_size=0.656",
]  # assumed: not in the files
# Wells a03, a06 and E07 are for testing, the others for training.
TEST = ["006_a03_s1", "006_a06_s1", "022_E07_s3", "022_E07_s4"]
SMALL = [
    "model=unet", "model.generator.width=32", "model.generator.residual=true", "model.adam.lr_generator=1e-3", "data.patch_size=128",
    "data.batch_size=8", "logger=csv",
]  # fmt: skip
SERIES = {
    "sephace, brightfield (fine)": ("phase_fluo/sephace_brightfield_z", "fine_*"),
    "sephace, brightfield (init)": ("phase_fluo/sephace_brightfield_z", "init_*"),
    "isl_neurons, phase contrast": ("phase_fluo/isl_neurons", "*z_depth*"),
}
COLUMNS = ("psnr", "ssim", "psnr_signal", "ssim_signal", "pearson", "piqe", "brisque")


def prepare(data: Path, folder: Path) -> None:
    """The sharp fields under names that tell field and channel."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, source in enumerate(SHARP):
        for path in sorted((data / source).iterdir()):
            found = re.search(r"_([A-Pa-p]\d\d)_+(s\d)_", path.name)
            assert found, path
            field = f"{('006', '022')[number]}_{found[1]}_{found[2]}"
            shutil.copyfile(path, folder / f"{field}_dna{path.suffix}")


def pixels(path: Path) -> np.ndarray:
    """Of a one-channel image, (H, W)."""
    return read_image(path).array.squeeze()


def depths(table: Path) -> list[str]:
    """Markdown of depths.csv."""
    with table.open(newline="") as stream:
        rows = [
            r for r in csv.DictReader(stream) if r["method"] in ("input", "wiener", "prediction")
        ]
    lines = [f"| z (um) | method | {' | '.join(COLUMNS)} |", "|" + " --- |" * (len(COLUMNS) + 2)]
    for r in rows:
        cells = [f"{float(r[f'{c}_mean']):.2f}" if r[f"{c}_mean"] and "psnr" in c
                 else f"{float(r[f'{c}_mean']):.3g}" if r[f"{c}_mean"] else "-" for c in COLUMNS]  # fmt: skip
        lines.append(f"| {float(r['z']):+g} | {r['method']} | {' | '.join(cells)} |")
    return lines


def against(image: np.ndarray, sharp: np.ndarray) -> tuple[float, float]:
    """Pearson's r, and PSNR (dB, signal range of the sharp image) after the best gain and offset: the two
    photographs were exposed differently."""
    x, t = (a[16:-16, 16:-16].astype(float).ravel() for a in (image, sharp))
    r = float(np.corrcoef(x, t)[0, 1])
    rest = np.polyval(np.polyfit(x, t, 1), x) - t
    low, high = np.percentile(t, (0.1, 99.9))
    return r, float(-10 * np.log10((rest**2).mean() / (high - low) ** 2))


def real_pair(data: Path, ckpt: Path) -> list[str]:
    """Well a01, 32 um off."""
    checkpoint = load_checkpoint(ckpt)
    blurred = pixels(next((data / BLURRED).glob("*_a01_s1_*")))
    sharp = pixels(next((data / SHARP[0]).glob("*__a01__*")))
    sharp = ndimage.shift(sharp.astype(float), (0, 2), order=1, mode="nearest")
    wiener = checkpoint.part("deconvolution", Deconvolution.from_dict)
    focus = checkpoint.part("focus", FocusScale.from_dict)
    assert wiener is not None
    assert focus is not None
    made = {
        "input": blurred,
        "Wiener filter (of 10 um)": wiener.apply(blurred, 32.0),
        "prediction": Predictor(checkpoint).predict([blurred])[0],
    }
    lines = ["| well a01, 32 um off | r | PSNR (dB) | focus (um) |", "| --- | --- | --- | --- |"]
    for name, image in made.items():
        r, psnr = against(image, sharp)
        lines.append(f"| {name} | {r:.3f} | {psnr:.2f} | {focus.score(image).um:.1f} |")
    return lines


def without_truth(data: Path, ckpt: Path, count: int) -> list[str]:
    """Other wells, 32 um off."""
    checkpoint = load_checkpoint(ckpt)
    predictor = Predictor(checkpoint)
    fitted = checkpoint.targets[0]
    focus = checkpoint.part("focus", FocusScale.from_dict)
    assert focus is not None
    found: dict[str, list[tuple[float, ...]]] = {"before": [], "after": []}
    for path in sorted((data / BLURRED).glob("*"))[1 : count + 1]:
        blurred = pixels(path)
        for name, image in (("before", blurred), ("after", predictor.predict([blurred])[0])):
            seen = quality(image, fitted.low, fitted.high)
            found[name].append((focus.score(image).um, seen.piqe, seen.brisque))
    lines = [
        f"| {count} fields, 32 um off, no truth | focus (um) | PIQE | BRISQUE |",
        "| --- | --- | --- | --- |",
    ]
    for name, rows in found.items():
        means = np.nanmean(np.array(rows), axis=0)
        lines.append(f"| {name} | {means[0]:.1f} | {means[1]:.1f} | {means[2]:.1f} |")
    return lines


def series(data: Path) -> list[str]:
    """Measures of focus over real defocus series."""
    lines = [
        "| series | plane | power-log-log slope | variance of Laplacian | normalised variance |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (folder, pattern) in SERIES.items():
        for path in sorted((data / folder).rglob(pattern)):
            image = pixels(path)
            lines.append(
                f"| {name} | {path.stem[-24:]} | {power_log_log_slope(image):.3f} | "
                f"{variance_of_laplacian(image):.4f} | {normalised_variance(image):.1f} |"
            )
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--runs", type=Path, default=Path("outputs/refocus"))
    parser.add_argument("--max-time", default="00:00:05:00", help="of the training, DD:HH:MM:SS")
    parser.add_argument("--check", action="store_true", help="in short; fails if not finite")
    args = parser.parse_args()
    data, runs = args.data.absolute(), args.runs.absolute()
    time = "00:00:00:15" if args.check else args.max_time
    prepare(data, runs / "sharp")
    call(
        "train.py", "data=defocused", f"data.root={runs / 'sharp'}", *OPTICS, "task=refocus",
        "task.inputs=[dna]", "task.targets=[dna]", f"data.test_fields=[{','.join(TEST)}]",
        "data.split=field", *SMALL, f"trainer.max_time={time}", "trainer.max_epochs=100000",
        f"run={runs / 'hoechst'}",
    )  # fmt: skip
    ckpt = runs / "hoechst" / "checkpoints" / "best.ckpt"
    call("evaluate.py", f"ckpt={ckpt}", f"output={runs / 'hoechst' / 'evaluation'}")
    parts = [
        depths(runs / "hoechst" / "evaluation" / "depths.csv"),
        real_pair(data, ckpt),
        without_truth(data, ckpt, 3 if args.check else 18),
        series(data),
    ]
    for part in parts:
        print("\n".join(part), end="\n\n")
    if args.check and any(
        not math.isfinite(float(cell))
        for part in parts
        for row in part[2:]
        for cell in row.split("|")[-3:-1]
    ):
        sys.exit("error: a figure is not finite")


if __name__ == "__main__":
    main()
