"""How fast the doctor reads, and that its memory does not grow with the plate.

    python bench/doctor.py

Writes 10 % of a plate of 3456 fields (simulated cells, five channels of 520x696, uint16, LZW) as
BBBC022 names them, and runs the doctor on a quarter, a half and all of it, each in a process of its
own. Times are of the whole work (finding files, reading, judging, the page) without the imports.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from vfn.data.simulated import Specimen

PLATE, SHARE, SHAPE = 3456, 0.1, (520, 696)
CHANNELS = ("dna", "er", "rna", "golgi_actin", "mito")  # w1 to w5
SPECIMENS = 6
LATTICE = (16, 22)  # places, 32 pixels apart, to which a specimen is rolled
MPX_PER_S, GB = 30.0, 1.5  # what is asked for
OVERRIDES = ("data=u2os_cps", "task.inputs=[golgi_actin,rna]", "task.targets=[dna,er,mito]")


def write_plate(root: Path, fields: int) -> None:
    """Fields from few specimens: rolled, turned over and with fresh noise, so that none is a copy."""
    specimens = [Specimen(seed, SHAPE) for seed in range(SPECIMENS)]
    stacks = [np.stack([s.render(c, 0.0, "uint16") for c in CHANNELS]) for s in specimens]
    for channel in range(1, 6):
        (root / f"BBBC022_v1_images_20585w{channel}").mkdir(parents=True)

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        turn, specimen = divmod(number, SPECIMENS)
        # No two turns of one specimen are near each other: that would be a copy, and be found.
        roll = divmod(7919 * turn % (LATTICE[0] * LATTICE[1]), LATTICE[1])
        stack = np.roll(
            stacks[specimen],
            [n * side // cells for n, side, cells in zip(roll, SHAPE, LATTICE, strict=True)],
            axis=(1, 2),
        )
        stack = stack[:, :: random.choice([-1, 1]), :: random.choice([-1, 1])]
        stack = (stack + random.integers(0, 40, stack.shape)).astype(np.uint16)
        well, site = divmod(number, 9)
        name = f"{'ABCDEFGHIJKLMNOP'[well // 24]}{well % 24 + 1:02d}_s{site + 1}"
        for channel, plane in enumerate(stack, start=1):
            path = root / f"BBBC022_v1_images_20585w{channel}" / f"IXMtest_{name}_w{channel}x.tif"
            tifffile.imwrite(path, plane, compression="lzw")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(fields)))


def part_of(root: Path, part: Path, fields: int) -> Path:
    """The first `fields` fields as links."""
    for folder in sorted(root.iterdir()):
        (part / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:fields]:
            os.link(path, part / folder.name / path.name)
    return part


# Runs in a process of its own, so that its peak of memory is that of the doctor alone.
CHILD = """
import json, resource, sys, time
sys.argv[0] = "python -m vfn.doctor"
from vfn.__main__ import run
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, worked = time.monotonic(), time.process_time()
run("doctor", sys.argv[1:])
seconds, cpu = time.monotonic() - start, time.process_time() - worked
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "cpu": cpu, "before": before * 1024, "peak": peak * 1024}))
"""


def run_doctor(root: Path, output: Path) -> dict:
    """Seconds of the work, and peak memory (bytes) before and after it."""
    command = [sys.executable, "-c", CHILD, *OVERRIDES, f"data.root={root}", f"output={output}"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return {"verdict": next(x for x in lines if "report" not in x and "looking" not in x)} | (
        json.loads(lines[-1])
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fields", type=int, default=round(PLATE * SHARE))
    parser.add_argument("--repeats", type=int, default=3, help="of the run on all fields")
    parser.add_argument("--check", action="store_true", help="fail below what is asked for")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.monotonic()
        write_plate(folder / "all", args.fields)
        written = time.monotonic() - start
        table = []
        for name, share, repeats in (("quarter", 4, 1), ("half", 2, 1), ("all", 1, args.repeats)):
            count = args.fields // share
            root = folder / "all" if share == 1 else part_of(folder / "all", folder / name, count)
            runs = [run_doctor(root, folder / "out") for _ in range(repeats)]
            seconds = statistics.median(r["seconds"] for r in runs)
            megapixels = count * len(CHANNELS) * SHAPE[0] * SHAPE[1] / 1e6
            peak = max(r["peak"] for r in runs) / 2**30
            cpu = statistics.median(r["cpu"] for r in runs)
            table.append(
                (count, seconds, cpu, megapixels / seconds, peak, runs[0]["before"] / 2**30)
            )
            verdict = runs[0]["verdict"]
    print(f"{args.fields} fields written in {written:.0f} s; verdict: {verdict}")
    print(f"{os.cpu_count()} cores ({platform.machine()}), {time.strftime('%Y-%m-%d')}")
    print("| fields | s | s of CPU | megapixels/s | peak GiB | GiB after the imports |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in table:
        print("| {} | {:.1f} | {:.1f} | {:.1f} | {:.3f} | {:.3f} |".format(*row))
    (small, *_, low, _), (large, _, _, speed, high, _) = table[0], table[-1]
    # What is kept of each field is all that grows.
    plate = high + max(0.0, high - low) / (large - small) * (PLATE - large)
    print(f"projected peak on {PLATE} fields: {plate:.2f} GiB")
    ratios = {
        "doctor_mpx_per_s_over_30": speed / MPX_PER_S,
        "doctor_1.5_gb_over_peak": GB / high,
        "doctor_1.5_gb_over_projected_plate": GB / plate,
    }
    for name, value in ratios.items():
        print(f"RATIO {name} {value:.2f}")
    if args.check and min(ratios.values()) < 1:
        sys.exit(1)


if __name__ == "__main__":
    main()
