"""What PIQE and BRISQUE tell of fluorescence: real fields, and the same fields spoilt on purpose.

    python bench/quality.py --data ../shared/data

Each group of real fields is mapped to the display by one range, the 0.1 to 99.9 percentile of its
sharp fields pooled, and scored as it is, blurred (Gaussian) and with noise added. A line gives PIQE
and BRISQUE, mean and range over the fields; in how many fields the score rose, as it should; and the
share of blocks that PIQE judges. Then real defocus, real noise, other displays, and time. Last
lines: RATIO name value.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.data.images import read_image
from vfn.metrics.quality import BLOCK, Quality, brisque, quality, structured_blocks, to_display

GROUPS = {  # sharp images of one channel below --data
    "DNA, BBBC022": "u2os_cps/bbbc022_w1/*.tif",
    "DNA, BBBC006": "u2os_af/bbbc006_zaligned10_w1/*.png",
    "DNA, Schwann": "other_cps/schwann_3ch/*DAPI*.tif",
    "RNA, BBBC022": "u2os_cps/bbbc022_w1noisy_w3/Ch02_*.tif",
    "actin, Schwann": "other_cps/schwann_3ch/*RFP*.tif",
    "actin, JUMP": "u2os_cps/jump_5ch/*ch5*",
    "actin, BBBC036": "u2os_cps/bbbc036_5ch/Ph_golgi.tif",
    "actin, A549": "other_cps/a549_3ch/*ch2*",
    "actin, DAOY": "other_cps/daoy_5ch_brightfield/*ch3*",
}
STEPS = ((1, 0), (2, 0), (4, 0), (0, 1), (0, 3), (0, 10), (2, 1))  # blur (px), noise (% of range)
NOISY = {"Ch01_00.tif": "IXMtest_A01_s1_*.tif", "Ch01_01.tif": "IXMtest_A01_s2_*.tif"}

Field = np.ndarray


def load(root: Path, pattern: str) -> list[Field]:
    paths = sorted(root.glob(pattern))
    if not paths:
        raise SystemExit(f"no images {pattern} in {root}")
    return [read_image(path).array[0].astype(np.float64) for path in paths]


def signal_range(fields: Sequence[Field]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate([field.ravel() for field in fields]), (0.1, 99.9))
    return float(low), float(high)


def structured_share(field: Field, low: float, high: float) -> float:
    """Of all blocks of 16x16, those that PIQE judges."""
    blocks, _ = structured_blocks(to_display(field, low, high))
    return len(blocks) / math.prod(-(-size // BLOCK) for size in field.shape)


def show(
    label: str,
    fields: Sequence[Field],
    low: float,
    high: float,
    before: Sequence[Quality] = (),
) -> list[Quality]:
    """Score and print: means, ranges, and in how many fields each score rose over `before`."""
    scores = [quality(field, low, high) for field in fields]
    cells = []
    for name in ("piqe", "brisque"):
        values = [getattr(score, name) for score in scores]
        cell = f"{np.mean(values):6.1f} ({min(values):5.1f} to {max(values):5.1f})"
        if before:
            rose = sum(v > getattr(b, name) for v, b in zip(values, before, strict=True))
            cell += f" {rose}/{len(values)}"
        cells.append(f"{cell:32s}")
    share = statistics.fmean(structured_share(field, low, high) for field in fields)
    print(f"  {label:40s}", *cells, f"{share:4.0%}")
    return scores


def spoilt(root: Path) -> dict[str, float]:
    """Sharp, blurred and noisy; the share of fields whose score rises over that of the sharp one."""
    rng = np.random.default_rng(0)
    rose: dict[str, list[bool]] = {}
    for group, pattern in GROUPS.items():
        fields = load(root, pattern)
        low, high = signal_range(fields)
        print(f"\n{group}: {len(fields)} fields, range {low:.0f} to {high:.0f}")
        sharp = show("as they are", fields, low, high)
        for blur, noise in STEPS:
            sd = noise / 100 * (high - low)
            changed = [
                gaussian_filter(field, blur) + rng.normal(0, sd, field.shape) for field in fields
            ]
            scores = show(f"blur {blur:g} px, noise {noise:g} %", changed, low, high, sharp)
            for name in ("piqe", "brisque"):
                rose.setdefault(f"{name}_rises_blur_{blur:g}_noise_{noise:g}", []).extend(
                    getattr(b, name) > getattr(a, name) for a, b in zip(sharp, scores, strict=True)
                )
    return {name: statistics.fmean(flags) for name, flags in rose.items()}


def real(root: Path) -> None:
    sharp, blurred = (
        load(root, f"u2os_af/{plane}/*") for plane in ("bbbc006_zaligned10_w1", "bbbc006_z00_w1")
    )
    low, high = signal_range(sharp)
    print(f"\nreal defocus, BBBC006 DNA, range of the sharp fields {low:.0f} to {high:.0f}")
    show("7 in focus", sharp, low, high)
    show("19 fields 32 um off", blurred, low, high)
    pair = (
        load(root, "u2os_af/bbbc006_zaligned10_w1/*__a01__*")[0],
        load(root, "u2os_af/bbbc006_z00_w1/*_a01_s1_*")[0],
    )
    for where, (low, high) in {
        "range of the sharp one": signal_range(pair[:1]),
        "range of each": (math.nan, math.nan),
    }.items():
        for label, field in zip(("in focus", "32 um off"), pair, strict=True):
            ends = (low, high) if high > low else signal_range([field])
            show(f"a01 {label}, {where}", [field], *ends)
    for series in ("fine", "init"):
        paths = sorted((root / "phase_fluo/sephace_brightfield_z").rglob(f"{series}*.tif"))
        planes = [read_image(path).array[0].astype(np.float64) for path in paths]
        low, high = signal_range(planes[1:2])
        print(f"\nreal defocus, SephaCe brightfield, {series}: the middle plane is in focus")
        for path, plane in zip(paths, planes, strict=True):
            show(path.stem.split("-")[-1], [plane], low, high)
    print("\nBBBC022 DNA, noise added by the source")
    for noisy, clean in NOISY.items():
        (a,) = load(root, f"u2os_cps/bbbc022_w1/{clean}")
        (b,) = load(root, f"u2os_cps/bbbc022_w1noisy_w3/{noisy}")
        low, high = signal_range([a])
        scores = show(f"{noisy} before", [a], low, high)
        show(f"{noisy} after", [b], low, high, scores)


def choices(root: Path) -> None:
    """What the display does to the scores."""
    print("\none DNA field (BBBC022 A01 s1) on other displays")
    (field,) = load(root, "u2os_cps/bbbc022_w1/IXMtest_A01_s1_*")
    low, high = signal_range([field])
    for label, (a, b) in {
        "0.1 to 99.9 percentile": (low, high),
        "0.1 to 99.99 percentile": tuple(np.percentile(field, (0.1, 99.99))),
        "minimum to maximum": (field.min(), field.max()),
        "half the contrast": (low, 2 * high - low),
        "16 bit": (0, 65535),
    }.items():
        show(label, [field], a, b)
    print("\nBRISQUE of displays not rounded, less that of rounded ones: blur 0, 2 px")
    for group, pattern in GROUPS.items():
        fields = load(root, pattern)
        low, high = signal_range(fields)
        changes = []
        for blur in (0.0, 2.0):
            seen = [gaussian_filter(field, blur) for field in fields]
            exact = [np.clip((f - low) / (high - low), 0, 1) * 255 for f in seen]
            changes.append(np.mean([brisque(e) - brisque(np.rint(e)) for e in exact]))
        print(f"  {group:28s} {changes[0]:+6.1f} {changes[1]:+6.1f}")


def median_seconds(work: Callable[[], object], repeats: int = 9) -> tuple[float, float]:
    """Wall and processor time."""
    wall, cpu = [], []
    for _ in range(repeats):
        a, b = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - a)
        cpu.append(time.process_time() - b)
    return statistics.median(wall), statistics.median(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    root = parser.parse_args().data
    ratios = spoilt(root)
    real(root)
    choices(root)
    (field,) = load(root, "u2os_cps/jump_5ch/*ch4*")
    low, high = signal_range([field])
    wall, cpu = median_seconds(lambda: quality(field, low, high))
    print(f"\nboth scores of a field of {field.shape}: {wall:.3f} s, {cpu:.3f} s of processor")
    for name, value in ratios.items():
        print(f"RATIO {name} {value:.3f}")


if __name__ == "__main__":
    main()
