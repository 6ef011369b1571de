"""Patches a second: the store against files that are decoded for every patch, and against RAM.

    python bench/data.py --fields 48 --repeats 5

Simulated fields of five channels, 696x520, 16 bit, as LZW TIFFs. One DataLoader, the same random
256x256 patches through four ways, in turns in one run, so that all see the same machine:

- `store`: `vfn`'s way, out of the memory-mapped store.
- `files`: the same with `data.cache=off`: every patch decodes its own five TIFFs, as most programs do.
- `ram`: plain NumPy slices of one array in memory that holds every field, turned by nothing.
- `ram, turned`: the same with the random quarter turns and flips that the store's patches have.

Memory is that of the process that uses the store, for a quarter and for all of the fields. Ratios are
medians over the repeats. Last lines: RATIO name value.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.data.batch import RawBatch
from vfn.data.cache import ImageCache
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.loading import as_it_is, share_by_name
from vfn.data.patches import TURNS, Augmentation, PatchReader, RandomPatches
from vfn.data.samples import Sample, Task, make_samples
from vfn.data.simulated import Specimen

SIDE, BATCH = 256, 4
CHANNELS = ("dna", "er", "rna", "golgi_actin", "mito")
TASK = Task("bench", CHANNELS[:4], CHANNELS[4:])


class InMemory(Dataset[torch.Tensor]):
    """Random patches of one array (fields, channels, H, W)."""

    def __init__(self, array: np.ndarray, turned: bool) -> None:
        self.array, self.turned = array, turned

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = np.random.default_rng([0, index])
        fields, channels, height, width = self.array.shape
        field, top, left = (
            int(rng.integers(n)) for n in (fields, height - SIDE + 1, width - SIDE + 1)
        )
        patch = self.array[field, :, top : top + SIDE, left : left + SIDE]
        if not self.turned:
            return torch.from_numpy(patch.copy())
        turn = TURNS[rng.integers(len(TURNS))]
        out = np.empty((channels, SIDE, SIDE), patch.dtype)
        for channel in range(channels):
            out[channel] = turn(patch[channel])
        return torch.from_numpy(out)


def loader(data: Dataset, patches: int, workers: int) -> DataLoader:
    """The same loader for every way."""
    return DataLoader(
        data, BATCH, sampler=range(patches), num_workers=workers,
        collate_fn=as_it_is if isinstance(data, RandomPatches) else None,
        persistent_workers=workers > 0,
    )  # fmt: skip


def rate(batches: DataLoader, patches: int) -> float:
    """Patches a second of one pass."""
    start, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch.planes if isinstance(batch, RawBatch) else batch)
    assert seen == patches
    return patches / (time.perf_counter() - start)


def write_lzw(root: Path, fields: int) -> None:
    """Simulated fields, a file a channel: `sim0003_er.tif`."""
    root.mkdir()
    for seed in range(fields):
        specimen = Specimen(seed, (520, 696))
        for channel in CHANNELS:
            image = specimen.render(channel, 0.0, "uint16")
            tifffile.imwrite(root / f"sim{seed:04d}_{channel}.tif", image, compression="lzw")


def find(root: Path) -> list[Sample]:
    """The samples of the fields below `root`."""
    return make_samples(discover(root, Layout(), CHANNELS), TASK)


def resident(kind: str) -> float:
    """Memory of this process in MiB: "RssAnon" (its own) or "VmRSS" (with mapped files)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def memory(root: Path, store: Path, share: float) -> None:
    """Decode a share of the fields into a new store and draw from it; print the memory that it took."""
    samples = find(root)
    samples = samples[: max(1, round(share * len(samples)))]
    before = resident("RssAnon")
    planes = ImageCache(store)
    planes.prepare(plane for sample in samples for plane in sample.planes)
    data = random_patches(samples, planes)
    peak = 0.0
    for index in range(0, 400, BATCH):
        data.__getitems__(range(index, index + BATCH))
        peak = max(peak, resident("RssAnon"))
    print(len(samples), peak - before, resident("VmRSS"))


def random_patches(samples: list[Sample], store: ImageCache) -> RandomPatches:
    """As training draws them."""
    shape = store.read(samples[0].inputs[0]).shape
    reader = PatchReader(store, [None] * 5, 4, SIDE, np.dtype(np.uint16))
    return RandomPatches(samples, [shape] * len(samples), reader, Augmentation(), 0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fields", type=int, default=48)
    parser.add_argument("--patches", type=int, default=1200, help="of one pass")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument(
        "--memory", nargs=3, metavar=("ROOT", "STORE", "SHARE"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.memory:
        memory(Path(args.memory[0]), Path(args.memory[1]), float(args.memory[2]))
        return
    torch.set_num_threads(1)
    share_by_name()  # as the data module does: all four ways gain by it
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "images")
        write_lzw(root, args.fields)
        measure(root, Path(folder), args.patches, args.repeats, args.workers)


def measure(root: Path, scratch: Path, patches: int, repeats: int, workers: list[int]) -> None:
    """Print the tables and the ratios."""
    samples = find(root)
    store = ImageCache(scratch / "store")
    start = time.perf_counter()
    store.prepare(plane for sample in samples for plane in sample.planes)
    built = time.perf_counter() - start
    pixels = sum(store.read(plane).size for sample in samples for plane in sample.planes)
    print(f"{len(samples)} fields x 5 channels, {pixels / 1e6:.0f} Mpx; decoded in {built:.1f} s")
    array = np.stack([np.stack([store.read(p) for p in sample.planes]) for sample in samples])
    few = max(2 * BATCH, patches // 20)  # files are slow: fewer patches take as long
    ratios: list[str] = []
    for count in workers:
        ways: dict[str, Callable[[], float]] = {}
        for name, data, drawn in (
            ("store", random_patches(samples, store), patches),
            ("files", random_patches(samples, ImageCache()), few),
            ("ram", InMemory(array, False), patches),
            ("ram, turned", InMemory(array, True), patches),
        ):
            batches = loader(data, drawn, count)
            ways[name] = lambda batches=batches, drawn=drawn: rate(batches, drawn)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(repeats + 1):  # the first warms up
            for name, way in ways.items():
                value = way()
                if repeat:
                    rates[name].append(value)
        print(f"\n{count} worker processes, {os.cpu_count()} cores, n = {repeats}")
        for name, values in rates.items():
            print(
                f"  {name:12s} {statistics.median(values):8.0f} patches/s "
                f"({min(values):.0f} to {max(values):.0f})"
            )
        for name in ("files", "ram", "ram, turned"):
            pairs = zip(rates["store"], rates[name], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            label = name.replace(", ", "_")
            ratios.append(f"RATIO store_over_{label}_{count}_workers {ratio:.2f}")
    print()
    used = []
    for share in (0.25, 1.0):
        command = [sys.executable, __file__, "--memory", root, scratch / f"memory{share}", share]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
        fields, own, mapped = done.stdout.split()[-3:]
        used.append(float(own))
        print(
            f"{fields} fields: {float(own):.0f} MiB of its own, {float(mapped):.0f} MiB with mapped files"
        )
    for line in ratios:
        print(line)
    print(f"RATIO memory_all_over_quarter {used[1] / used[0]:.2f}")


if __name__ == "__main__":
    main()
