"""Shifts between the channels of real fields: measured, planted and found again, and what it costs.

    python bench/registration.py --data ../shared/data

`moving[y + dy, x + dx]` shows what `reference[y, x]` shows; a star means sure. Planted shifts are counted
against the shift that the same two channels have by themselves: whole pixels by cropping two windows
out of the planes, parts of a pixel by a Fourier shift. Last lines: RATIO name value.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import fourier_shift

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.data.images import read_image
from vfn.data.registration import Shift, features, measure_shift
from vfn.data.simulated import CHANNELS, simulate_field

BORDER = 12  # px cut off around a plane that is shifted
WHOLE = ((1, 0), (0, -2), (3, 0), (0, 3), (-3, 3), (5, -4), (-7, 6), (10, -10))
PARTS = ((0.5, 0.0), (-0.25, 0.75), (2.3, -1.7))
TRANSMITTED = ("phase", "brightfield", "fine", "init")


class Folder(NamedTuple):
    """`fields`: each {channel: path or (path, index)}; `stated` offsets, as their README words them."""

    stated: str
    fields: dict[str, dict[str, Path | tuple[Path, int]]]


def real_folders(data: Path) -> Iterator[Folder]:
    """What lies below --data, field by field."""
    u2os, other, phase = data / "u2os_cps", data / "other_cps", data / "phase_fluo"
    stains = {"dna": "Hoechst", "er": "ERSyto", "rna": "ERSytoBleed", "golgi": "Ph_golgi"}
    stains["mito"] = "Mito"
    paths = {c: u2os / "bbbc036_5ch" / f"{name}.tif" for c, name in stains.items()}
    yield Folder("(0,0)..(0,2)", {"bbbc036": paths})
    for stated, name, folder, pattern in (
        ("to DNA (ch4) (-3..-1, 0..1); DNA-ch5 flat", "jump", u2os / "jump_5ch", "r01*.tiff"),
        ("within 1", "daoy", other / "daoy_5ch_brightfield", "r03*.tiff"),
        ("(0,0), (1,-1)", "a549", other / "a549_3ch", "r01*.tiff"),
    ):
        files = sorted(folder.glob(pattern))
        channels = [file.name.split("-")[1][:3] for file in files]
        if name == "daoy":
            channels[0] = "brightfield"
        yield Folder(stated, {name: dict(zip(channels, files, strict=True))})
    stack = u2os / "bbbc022_w1w2w3" / "IXMtest_A02_s9.tif"
    yield Folder(
        "w2-w3 (-1,0); w1-w2 flat", {"bbbc022": {f"w{i + 1}": (stack, i) for i in range(3)}}
    )
    noisy = sorted((u2os / "bbbc022_w1noisy_w3").glob("Ch01*"))
    pairs = {
        f"noisy{p.stem[-2:]}": {"w1": p, "w3": p.with_name(f"Ch02{p.name[4:]}")} for p in noisy
    }
    yield Folder("(1,1)", pairs)
    sbs = sorted((data / "u2os_translocation").glob("Channel1*"))
    pairs = {p.stem[9:]: {"gfp": p, "dna": p.with_name(f"Channel2{p.name[8:]}")} for p in sbs}
    yield Folder("(0,1)..(0,2)", pairs)
    wells = {p.name[:2] for p in (other / "schwann_3ch").iterdir()}
    fields = {
        f"schwann {well}": {
            p.stem.split("_")[-2]: p for p in sorted((other / "schwann_3ch").glob(f"{well}*"))
        }
        for well in sorted(wells)
    }
    yield Folder("(0,0)..(0,1)", fields)
    cells = phase / "deepcell" / "training_data"
    for stated, names in (
        ("within 3", ("HeLa_joint/set1", "HeLa_joint/set2", "HeLa_joint/set3")),
        ("flat (-6,-1)", ("3T3/set1",)),
        ("(-3,-1)", ("MCF10A",)),
    ):
        channels = ("phase", "nuclear")
        yield Folder(stated, {n: {c: cells / n / f"{c}.png" for c in channels} for n in names})
    raw = cells / "RAW40X" / "set1"
    files = {c: next(raw.glob(f"*{c}*")) for c in ("phase", "Far-red", "TRITC")}
    yield Folder("within 3", {"RAW40X": files})
    neurons = phase / "isl_neurons"
    tokens = {f"phase {z}": f"*z_depth-{z},*" for z in (0, 6, 12)}
    tokens |= {stain: f"*{stain}_CONFOCAL*" for stain in ("DAPI", "MAP2", "NFH")}
    files = {c: next(neurons.glob(token)) for c, token in tokens.items()}
    yield Folder("within 2", {"isl_neurons": files})
    bright = sorted((phase / "sephace_brightfield_z" / "Set_1").glob("*.tif"))
    files = {
        f"{p.stem[:4]} {p.stem.split('-Z')[-1]}" if "Z" in p.stem else "DAPI": p for p in bright
    }
    yield Folder("in focus to DAPI (-1,0)", {"sephace": files})
    one = phase / "keratinocyte_frm"
    files = {"phase": one / "dish1_xy1c1.tif", "dapi": one / "dish1_xy1c2.tif"}
    yield Folder("(0,-1)", {"keratinocyte": files})


def load(source: Path | tuple[Path, int]) -> np.ndarray:
    path, index = source if isinstance(source, tuple) else (source, 0)
    return read_image(path).array[index]


def shifted(plane: np.ndarray, by: tuple[float, float]) -> np.ndarray:
    """`plane` moved by (dy, dx), its borders cut off."""
    height, width = plane.shape
    dy, dx = (int(n) for n in by)
    if (dy, dx) == by:
        return np.ascontiguousarray(
            plane[BORDER - dy : height - BORDER - dy, BORDER - dx : width - BORDER - dx]
        )
    wave = np.fft.ifft2(fourier_shift(np.fft.fft2(plane.astype(np.float64)), by)).real
    return wave[BORDER:-BORDER, BORDER:-BORDER].astype(np.float32)


class Planted(NamedTuple):
    """One planted shift: whether the pair is sure without and with it, and its error in px."""

    transmitted: bool
    part: bool
    sure_before: bool
    sure: bool
    error: float


def plant(channels: dict[str, np.ndarray]) -> Iterator[tuple[str, str, Planted]]:
    """Every planted shift in every pair of channels."""
    plain = {c: features(shifted(plane, (0, 0))) for c, plane in channels.items()}
    for b in list(channels)[1:]:
        moved = {by: features(shifted(channels[b], by)) for by in (*WHOLE, *PARTS)}
        for a in itertools.takewhile(lambda c, b=b: c != b, channels):
            before = measure_shift(plain[a], plain[b])
            light = a.startswith(TRANSMITTED) != b.startswith(TRANSMITTED)
            for by, moving in moved.items():
                found = measure_shift(plain[a], moving)
                error = np.hypot(found.dy - before.dy - by[0], found.dx - before.dx - by[1])
                yield a, b, Planted(light, by in PARTS, before.sure, found.sure, float(error))


def say(shift: Shift) -> str:
    return f"{'*' if shift.sure else ' '} {shift.dy:6.2f} {shift.dx:6.2f}  {shift.confidence:.2f}"


def print_recall(name: str, planted: list[Planted]) -> None:
    known = [p for p in planted if p.sure_before]
    errors = [p.error for p in known if p.sure]
    print(
        f"{name:36s} {len(known):5d} planted, {len(errors) / len(known):4.0%} sure; error of these: "
        f"median {statistics.median(errors):.2f}, 95 % {np.quantile(errors, 0.95):.2f}, "
        f"worst {max(errors):.2f} px"
    )


def milliseconds(work: object, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--simulated", type=int, default=20, help="fields")
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    cv2.setNumThreads(1)  # times are of one core

    planted: list[Planted] = []
    pairs = sure = 0
    print("field            reference     moving          dy     dx  confidence  stated")
    for folder in real_folders(args.data):
        for field, sources in folder.fields.items():
            planes = {c: load(source) for c, source in sources.items()}
            known = {c: features(plane) for c, plane in planes.items()}
            for a, b in itertools.combinations(planes, 2):
                shift = measure_shift(known[a], known[b])
                pairs, sure = pairs + 1, sure + shift.sure
                print(f"{field:16s} {a:13s} {b:12s} {say(shift)}        {folder.stated}")
            planted += [p for _, _, p in plant(planes)]

    print()
    for name, of in (
        ("whole pixels, all pairs", [p for p in planted if not p.part]),
        (
            "whole pixels, light to fluorescence",
            [p for p in planted if not p.part and p.transmitted],
        ),
        ("parts of a pixel, all pairs", [p for p in planted if p.part]),
        ("parts, light to fluorescence", [p for p in planted if p.part and p.transmitted]),
    ):
        print_recall(name, of)

    errors, count = [], 0
    for seed in range(args.simulated):
        known = {c: features(p) for c, p in zip(CHANNELS, simulate_field(seed), strict=True)}
        for a, b in itertools.combinations(CHANNELS, 2):
            shift = measure_shift(known[a], known[b])
            count += 1
            if shift.sure:
                errors.append(float(np.hypot(shift.dy, shift.dx)))
    print(
        f"simulated, registered: {len(errors)} of {count} pairs sure, error median "
        f"{statistics.median(errors):.2f}, worst {max(errors):.2f} px"
    )

    print("\nsize         features ms   pair ms   (medians, one thread)")
    for size in ((520, 696), (1080, 1080), (2048, 2048)):
        a, b = simulate_field(0, size, ("phase", "dapi"))
        first, second = features(a), features(b)
        plane_ms = milliseconds(lambda a=a: features(a), args.repeats)
        pair_ms = milliseconds(lambda a=first, b=second: measure_shift(a, b), args.repeats)
        print(f"{size[0]:4d} x {size[1]:4d}  {plane_ms:8.1f}   {pair_ms:8.1f}")

    known_planted = [p for p in planted if p.sure_before]
    light = [p for p in known_planted if p.transmitted]
    for name, of in (("planted", known_planted), ("planted_light_to_fluorescence", light)):
        print(f"RATIO {name}_sure {sum(p.sure for p in of) / len(of):.3f}")
        found = [p.error for p in of if p.sure]
        print(f"RATIO {name}_sure_within_half_px {np.mean(np.array(found) < 0.5):.3f}")
    print(f"RATIO real_pairs_sure {sure / pairs:.3f}")
    print(f"RATIO simulated_pairs_sure {len(errors) / count:.3f}")


if __name__ == "__main__":
    main()
