"""PSNR (signal range) of the baselines on real images, without any training.

    python bench/baselines.py --data ../shared/data

Plates are scored by leaving out one well after the other, single fields on the quarter that a spatial split tests
on. "quadratic" is least squares over products of two inputs, too, pixel by pixel, which `evaluate.py` does not fit.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.data.base import StainData
from vfn.data.config import DataConfig
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample, Task
from vfn.data.sets import make_data

INPUTS, TARGETS = ("golgi_actin", "rna"), ("dna", "er", "mito")
NAMES = ("mean", "median", "linear", "filter", "quadratic")
PLATE = {"dna": "ch1", "er": "ch2", "rna": "ch3", "golgi_actin": "ch4", "mito": "ch5"}
WELLS = ("r01c02", "r01c10", "r02c07", "r04c21")
# set -> folder, settings of the data, one for each split
SETS = {
    "cp_plate_9wells": ("u2os_cps/cp_plate_9wells", [
        {
            "channels": PLATE, "split": "well", "test_wells": [well],
            "pattern": r"(?P<well>r\d\dc\d\d)f(?P<site>\d\d)p01-(?P<channel>ch\d)",
        }
        for well in WELLS
    ]),
    "jump_5ch": ("u2os_cps/jump_5ch", [{"split": "spatial", "channels": {
        "mito": "ch1sk1fk1fl1", "rna": "ch2sk1fk1fl1", "er": "ch3sk1fk1fl1", "dna": "ch4sk1fk1fl1",
        "golgi_actin": "ch5sk1fk1fl1",
    }}]),
    "daoy": ("other_cps/daoy_5ch_brightfield", [{"split": "spatial", "channels": {
        "er": "ch2sk1fk1fl1", "golgi_actin": "ch3sk1fk1fl1", "mito": "ch4sk1fk1fl1",
        "dna": "ch5sk1fk1fl1", "rna": "ch6sk1fk1fl1",
    }}]),
}  # fmt: skip


def arrays(data: StainData, sample: Sample) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return inputs and targets."""
    read = present(read_sample(sample, data.store))
    return read[: len(INPUTS)], read[len(INPUTS) :]


def products(inputs: list[np.ndarray]) -> np.ndarray:
    """Return 1, both inputs and their three products, (6, N)."""
    a, b = (image.ravel().astype(float) for image in inputs)
    return np.stack([np.ones_like(a), a, b, a * a, a * b, b * b])


def quadratic(data: StainData) -> np.ndarray:
    """Return least squares weights (Ct, 6) over the training pixels."""
    assert data.split is not None
    gram, cross = np.zeros((6, 6)), np.zeros((6, len(TARGETS)))
    for sample in data.split.train:
        inputs, targets = arrays(data, sample)
        x = products(inputs)
        gram += x @ x.T
        cross += x @ np.stack([t.ravel().astype(float) for t in targets]).T
    size = np.sqrt(np.diag(gram))  # the products are of very different sizes
    return (np.linalg.solve(gram / np.outer(size, size), cross / size[:, None]) / size[:, None]).T


def score(data: StainData, found: dict[tuple[str, str], list[float]]) -> None:
    """Add the mean PSNR over the test fields of each target and baseline."""
    assert data.split is not None
    weights = quadratic(data)
    truths = [arrays(data, sample) for sample in data.split.test]
    for i, target in enumerate(TARGETS):
        low, high = np.percentile(np.concatenate([t[i].ravel() for _, t in truths]), [0.1, 99.9])
        psnr = defaultdict(list)
        for inputs, truth in truths:
            images = data.measured.baselines.predict(inputs, [t.dtype.name for t in truth])
            images["quadratic"] = (weights @ products(inputs)).reshape(-1, *truth[0].shape)
            for name, image in images.items():
                error = np.mean((image[i].astype(float) - truth[i]) ** 2)
                psnr[name].append(10 * np.log10((high - low) ** 2 / error))
        for name, values in psnr.items():
            found[target, name].append(float(np.mean(values)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    root = parser.parse_args().data
    print("| set | target |", " | ".join(NAMES), "|")
    print("| --- | --- |", " | ".join("---" for _ in NAMES), "|")
    gains, start = [], time.monotonic()
    for name, (folder, splits) in SETS.items():
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for settings in splits:
            config = DataConfig.from_dict(
                {"name": "folder", "root": str(root / folder), **settings}
            )
            data = make_data(Task(name, INPUTS, TARGETS), config)
            data.setup()
            score(data, found)
        for target in TARGETS:
            means = {n: statistics.mean(found[target, n]) for n in NAMES}
            print("|", name, "|", target, "|", " | ".join(f"{m:.2f}" for m in means.values()), "|")
            gains.append(means["filter"] - means["linear"])
    print(f"{time.monotonic() - start:.0f} s")
    print(f"RATIO filter_over_linear_dB {statistics.mean(gains):.3f}")


if __name__ == "__main__":
    main()
