"""How well the flat field is estimated: known falloff on simulated fields, real fields left out.

    python bench/illumination.py --data ../shared/data

Simulated: fields under one of three falloffs or even light; the rms error of the estimated surface by
the number of fields. Real: each field is corrected by a surface estimated over the others; the spread
of its ground (20th percentile of blocks, between blocks) after over before. Last lines: RATIO name value.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.data.illumination import FlatField, MeanImage
from vfn.data.images import read_image
from vfn.data.simulated import Specimen

SHAPE = (260, 348)
CHANNELS = ("phase", "dna", "er", "actin")
COUNTS = (3, 10, 100)
REPEATS = {3: 8, 10: 3, 100: 1}  # draws of so many fields
REAL = {  # images of one channel below --data
    "DeepCell phase": "phase_fluo/deepcell/training_data/[3HM]*/**/phase.png",
    "DeepCell nuclei": "phase_fluo/deepcell/training_data/[3HM]*/**/nuclear.png",
    "BBBC022 RNA": "u2os_cps/bbbc022_w1noisy_w3/Ch02_*.tif",
    "BBBC022 DNA": "u2os_cps/bbbc022_w1/*.tif",
    "BBBC006 blurred DNA": "u2os_af/bbbc006_z00_w1/*.tif",
    "BBBC006 sharp DNA": "u2os_af/bbbc006_zaligned10_w1/*.png",
    "Schwann DNA": "other_cps/schwann_3ch/*DAPI*.tif",
    "Schwann ER": "other_cps/schwann_3ch/*GFP*.tif",
    "Schwann actin": "other_cps/schwann_3ch/*RFP*.tif",
}
BLOCKS = 8  # along each side, for the spread of the ground

OFFSET_16 = 200.0  # grey values of the simulated camera's ground


def falloffs() -> dict[str, list[np.ndarray]]:
    """Light of every pixel, mean 1: a centred lamp, one off centre, a slope; and even light."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    uneven = [
        1 - 0.4 * (x**2 + y**2) / 2,
        np.exp(-((x - 0.4) ** 2 + (y + 0.3) ** 2) / 2.5),
        1 + 0.35 * x,
    ]
    return {"falloff": [u / u.mean() for u in uneven], "even light": [np.ones(SHAPE)]}


def simulated() -> None:
    """Print the errors; the last line of each channel's table is for the ratios."""
    rng = np.random.default_rng(0)
    specimens = [Specimen(seed, SHAPE) for seed in range(max(COUNTS))]
    for kind, lights in falloffs().items():
        flat = statistics.mean(float(np.sqrt(np.mean((1 / u - 1) ** 2))) for u in lights)
        print(f"\n{kind}: a flat surface is off by {100 * flat:.1f} % (rms)")
        print(f"{'channel':10s}" + "".join(f"{n:>6d} fields" for n in COUNTS))
        for channel in CHANNELS:
            fields = [s.render(channel, 0.0, "uint16") for s in specimens]
            cells = [100 * error(fields, lights, count, rng) for count in COUNTS]
            print(f"{channel:10s}" + "".join(f"{c:11.1f} %" for c in cells))


def error(
    fields: list[np.ndarray], lights: list[np.ndarray], count: int, rng: np.random.Generator
) -> float:
    """Mean rms error of surfaces that are estimated over `count` fields."""
    found = []
    for light in lights:
        for _ in range(REPEATS[count]):
            mean = MeanImage()
            for i in rng.permutation(len(fields))[:count]:
                # The camera's offset is not lit.
                lit = OFFSET_16 + (fields[i] - OFFSET_16) * light
                mean.add(np.clip(lit, 0, 65535).astype(np.uint16))
            surface = FlatField.fit(mean).surface
            found.append(float(np.sqrt(np.mean((surface / surface.mean() / light - 1) ** 2))))
    return statistics.mean(found)


def ground(image: np.ndarray) -> float:
    """Spread between blocks of the field of what lies under the cells, grey levels."""
    rows = np.array_split(image, BLOCKS, axis=0)
    blocks = [b for row in rows for b in np.array_split(row, BLOCKS, axis=1)]
    return float(np.std([np.percentile(block, 20) for block in blocks]))


def real(data: Path) -> list[str]:
    """Print the spreads; returns the lines of the ratios."""
    print(f"\n{'left out':22s}{'fields':>7s}{'ground before':>15s}{'after':>9s}{'better':>8s}")
    ratios = []
    for name, pattern in REAL.items():
        fields = [read_image(path).array[0] for path in sorted(data.glob(pattern))]
        before, after = [], []
        for i, field in enumerate(fields):
            mean = MeanImage()
            for other in fields[:i] + fields[i + 1 :]:
                mean.add(other)
            before.append(ground(field))
            after.append(ground(FlatField.fit(mean).correct(field)))
        better = sum(a < b for a, b in zip(after, before, strict=True))
        print(
            f"{name:22s}{len(fields):7d}{statistics.mean(before):15.1f}{statistics.mean(after):9.1f}"
            f"{better:5d}/{len(fields)}"
        )
        ratio = statistics.median(a / b for a, b in zip(after, before, strict=True))
        ratios.append(
            f"RATIO ground_after_over_before_{name.replace(' ', '_').lower()} {ratio:.2f}"
        )
    return ratios


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    args = parser.parse_args()
    simulated()
    for line in real(args.data):
        print(line)


if __name__ == "__main__":
    main()
