"""Start of a training on the files of whole plates: the first, which decodes them, and every later one.

    python bench/plates.py --write docs/benchmarks.md

Hard links to a few simulated files under BBBC022's names, so that thousands of fields cost little disk; each name
is an image of its own to the image cache. `train.py` is started twice on 1x, 3x and 9x as many fields, with an empty
cache and with the cache that it left, and ended when the run folder has its `config.yaml`: the first step
comes next. For each start:

- seconds from the command on, and processor seconds of the process, imports included;
- MB that it read by system calls, the files and the index of the cache, and MB of its mapped pages, pixels of the
  cache and libraries: what it touched;
- MB of memory of its own, at most.

Last lines: RATIO name value.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import tifffile

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "bench")]  # run from a clone, not installed

from sections import Tee, write_section

from vfn.data.simulated import Specimen

say = Tee()
SHAPE = (128, 128)
SPECIMENS = 6  # different fields
CHANNELS = {"er": 2, "rna": 3, "golgi_actin": 4}  # of task=er, with their numbers in the names
PLATES = 3  # at most 3,456 fields each
TIMES = (1, 3, 9)
FIRST_PLATE = 20585
INTERVAL = 0.02  # s between two looks at a process
TRAINING = (
    "data=u2os_cps", "task=er", "logger=csv", "trainer=cpu", "data.patch_size=64", "data.val_patches=4",
    "data.patches_per_epoch=8", "model.generator.width=4", "model.discriminator.width=4",
)  # fmt: skip


class Start(NamedTuple):
    """Cost of a start up to the first step."""

    seconds: float
    processor: float
    read: float
    mapped: float
    memory: float


def write_plates(root: Path, files: Path, fields: int) -> None:
    """Link `fields` fields, in `PLATES` plates, to the files of the specimens."""
    for number in range(fields):
        plate, place = divmod(number, -(-fields // PLATES))
        well, site = divmod(place, 9)
        name = f"{'ABCDEFGHIJKLMNOP'[well // 24]}{well % 24 + 1:02d}_s{site + 1}"
        for channel, wave in CHANNELS.items():
            folder = root / f"BBBC022_v1_images_{FIRST_PLATE + plate}w{wave}"
            folder.mkdir(parents=True, exist_ok=True)
            source = files / f"{number % SPECIMENS}_{channel}.tif"
            os.link(source, folder / f"IXMtest_{name}_w{wave}x.tif")


def write_specimens(files: Path) -> None:
    """Write the files that are linked to."""
    files.mkdir()
    for seed in range(SPECIMENS):
        specimen = Specimen(seed, SHAPE)
        for channel in CHANNELS:
            image = specimen.render(channel, 0.0, "uint16")
            tifffile.imwrite(files / f"{seed}_{channel}.tif", image, compression="lzw")


def numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file in /proc, by their names."""
    words = (line.split() for line in path.read_text().splitlines())
    return {
        word[0].rstrip(":"): int(word[1]) for word in words if word[1:2] and word[1].isdecimal()
    }


def start(program: Path, root: Path, cache: Path, run: Path) -> Start:
    """Start a training; end it before its first step."""
    command = [sys.executable, str(program), *TRAINING, f"data.root={root}"]
    command += [f"data.cache_dir={cache}", f"run={run}"]
    mapped = memory = 0
    log = run.with_suffix(".txt")
    with log.open("w") as out:
        begun = time.monotonic()
        child = subprocess.Popen(command, cwd=program.parent, stdout=out, stderr=out)
        process = Path("/proc", str(child.pid))
        try:
            while not (run / "config.yaml").exists():
                if child.poll() is not None:
                    sys.exit(f"error: {' '.join(command)} ended:\n{log.read_text()}")
                status = numbers(process / "status")
                mapped = max(mapped, status.get("RssFile", 0))
                memory = max(memory, status.get("RssAnon", 0))
                time.sleep(INTERVAL)
            seconds = time.monotonic() - begun
            ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
            processor = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            read = numbers(process / "io")["rchar"]
        finally:
            child.kill()
            child.wait()
    return Start(seconds, processor, read / 1e6, mapped * 1024 / 1e6, memory * 1024 / 1e6)


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fields", type=int, default=500, help="1x")
    parser.add_argument("--train", type=Path, default=REPOSITORY / "train.py", metavar="PATH",
                        help="train.py that is measured: that of another version, to compare")  # fmt: skip
    parser.add_argument("--write", type=Path, help="Markdown file whose section is replaced")
    args = parser.parse_args()
    starts: dict[tuple[int, str], Start] = {}
    say(f"fields of {len(CHANNELS)} channels, {SHAPE[0]}x{SHAPE[1]}, 16 bit, in {PLATES} plates")
    say("fields start    seconds  processor s    MB read  MB mapped  MB of memory")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_specimens(folder / "files")
        for times in TIMES:
            fields = times * args.fields
            root = folder / f"{times}x"
            write_plates(root, folder / "files", fields)
            for which in ("first", "second"):
                run = folder / f"{times}x_{which}"
                one = start(args.train.resolve(), root, folder / "cache", run)
                starts[times, which] = one
                say(
                    f"{fields:6d} {which:6s} {one.seconds:9.1f} {one.processor:12.1f} {one.read:10.0f} "
                    f"{one.mapped:10.0f} {one.memory:13.0f}"
                )
    for times in TIMES[1:]:
        for part in ("seconds", "processor", "memory"):
            ours, base = (getattr(starts[n, "second"], part) for n in (times, TIMES[0]))
            say(f"RATIO plates_second_start_{part}_{times}x_over_1x {ours / base:.2f}")
    last = TIMES[-1]
    ratio = starts[last, "second"].processor / starts[last, "first"].processor
    say(f"RATIO plates_processor_second_over_first_start_{last}x {ratio:.2f}")
    if args.write:
        write_section(args.write, "plates", say.lines)


if __name__ == "__main__":
    main()
