"""What feature fidelity costs beside cp-measure itself, and how it scales with processes.

    python bench/features.py --data DIR --repeats 5

DIR holds `u2os_cps/bbbc036_5ch`, one real field of five channels. `overhead`: `vfn.metrics.features.measure`
of five channels in nuclei, cells and cytoplasm over cp-measure's own functions called one after the
other for the same measurements on the same arrays. `both_sets`: a field compared, two channels real
and three predicted (blurred), over `measure` of the five once: `_shared` with the objects of the real set on both,
as with few fields, `_own` with objects segmented in each, which moves every feature. `two_processes`: seconds of
several fields with one process over two, starting them included. Works of one process are timed in
seconds of the processor, so that neighbours on the machine matter little; the last by the clock.
Repeats alternate; medians.
Last lines: RATIO name value.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.evaluation.features import compare_features, grey_scales, segment
from vfn.evaluation.pairs import FieldPair
from vfn.metrics.features import ObjectChannels, measure

FILES = {
    "golgi_actin": "Ph_golgi",
    "rna": "ERSytoBleed",
    "dna": "Hoechst",
    "er": "ERSyto",
    "mito": "Mito",
}
REAL = ("golgi_actin", "rna")
PREDICTED = ("dna", "er", "mito")
PROCESSES = ("one process", "two processes")
OBJECTS = ObjectChannels("dna", "rna")


@dataclass(frozen=True)
class Flips:
    """A field and its mirror images, predicted channels blurred: fields of equal cost."""

    planes: dict[str, np.ndarray]
    count: int

    def __len__(self) -> int:
        return self.count

    def truth(self, index: int) -> tuple[tuple[str, ...], np.ndarray]:
        pair = self.pair(index)
        return pair.channels, pair.truth

    def pair(self, index: int) -> FieldPair:
        steps = ((1, 1), (-1, 1), (1, -1), (-1, -1))[index % 4]
        planes = {
            n: np.ascontiguousarray(p[:: steps[0], :: steps[1]]) for n, p in self.planes.items()
        }
        truth = np.stack([planes[name] for name in PREDICTED])
        blurred = ndimage.gaussian_filter(truth.astype(np.float32), (0, 1.5, 1.5))
        real = np.stack([planes[name] for name in REAL])
        return FieldPair(f"f{index}", PREDICTED, truth, blurred, real, REAL)


def directly(images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> int:
    """The same measurements as a user of cp-measure writes them; how many."""
    import cp_measure
    from cp_measure import bulk

    cp_measure.set_accelerator("numba")
    core, correlation = bulk.get_core_measurements(), bulk.get_correlation_measurements()
    correlation.pop("costes")
    neighbours = bulk.get_multimask_measurements()["neighbors"]
    shape = {"sizeshape", "zernike", "feret"}
    found = 0
    for place, objects in labels.items():
        for name in shape:
            found += len(core[name](objects, None))
        if place != "cytoplasm":
            method = "Adjacent" if place == "cells" else "Expand until adjacent"
            found += len(neighbours(objects, objects, method))
        for image in images.values():
            for name in core.keys() - shape:
                found += len(core[name](objects, image))
        for pair in combinations(images.values(), 2):
            for function in correlation.values():
                found += len(function(*pair, objects))
    return found


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Time of one call."""
    start = clock()
    work()
    return clock() - start


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, default=520, help="pixels of the square measured")
    parser.add_argument(
        "--fields", type=int, default=6, help="of the runs with one and two processes"
    )
    args = parser.parse_args()
    folder = args.data / "u2os_cps" / "bbbc036_5ch"
    square = slice(args.side), slice(args.side)
    planes = {name: tifffile.imread(folder / f"{file}.tif")[square] for name, file in FILES.items()}
    one, several = Flips(planes, 1), Flips(planes, args.fields)
    scales = grey_scales(one)
    images = {name: (plane / scales[name]).clip(0, 1) for name, plane in planes.items()}
    nuclei, cells = segment(planes["dna"], planes["rna"], None)
    labels = {"nuclei": nuclei, "cells": cells, "cytoplasm": np.where(nuclei > 0, 0, cells)}
    shown = {name: int(objects.max()) for name, objects in labels.items()}
    print(f"{planes['dna'].shape[0]}x{planes['dna'].shape[1]} pixels, objects: {shown}")

    def compared(source: Flips, level: str, workers: int) -> object:
        return compare_features(source, OBJECTS, level=level, scales=scales, workers=workers)

    works: dict[str, Callable[[], object]] = {
        "cp-measure": lambda: directly(images, labels),
        "measure": lambda: len(measure(images, labels, OBJECTS)),
        "both sets, shared objects": lambda: compared(one, "objects", 1),
        "both sets, own objects": lambda: compared(one, "fields", 1),
        "one process": lambda: compared(several, "fields", 1),
        "two processes": lambda: compared(several, "fields", 2),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        print(f"features: cp-measure {works['cp-measure']()}, measure {works['measure']()}")
        for _ in range(args.repeats):
            for name, work in works.items():
                clock = time.perf_counter if name.endswith(PROCESSES) else time.process_time
                times[name].append(seconds(work, clock))
    for name, found in times.items():
        print(
            f"{name:28s} {statistics.median(found):8.2f} s  (of {', '.join(f'{t:.2f}' for t in found)})"
        )

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))

    print(f"RATIO features_overhead {ratio('measure', 'cp-measure'):.3f}")
    print(f"RATIO features_both_sets_shared {ratio('both sets, shared objects', 'measure'):.3f}")
    print(f"RATIO features_both_sets_own {ratio('both sets, own objects', 'measure'):.3f}")
    print(f"RATIO features_two_processes {ratio('one process', 'two processes'):.3f}")


if __name__ == "__main__":
    main()
