"""Statements of probability where nothing is to be found: false alarms of tests, coverage of intervals.

    python bench/null.py

Control and treated fields come from one distribution; wells differ from each other as much as the fields within one.
First with fields taken for independent, as they are where wells are not known, then with wells as the units. Below, how
often the 95 % interval of a mean difference holds the true one, Student's as `compare=` gives it and the BCa bootstrap.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.evaluation import statistics
from vfn.evaluation.statistics import two_groups
from vfn.metrics.comparison import Units, compare

RUNS, COVERED = 1000, 1000


def false_alarms(wells: int, fields: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of p below 0.05 over fields and over wells, for so many wells a side."""
    alarms = np.zeros(2)
    for _ in range(RUNS):
        groups = rng.normal(size=(2, wells, 1)) + rng.normal(size=(2, wells, fields))
        by_field = two_groups(*groups.reshape(2, -1)).p
        by_well = two_groups(*groups.mean(2)).p
        alarms += by_field < 0.05, by_well < 0.05
    return tuple(alarms / RUNS)


def coverage(kind: str, units: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return how often Student's and the bootstrap interval hold the true mean."""
    draw, mean = {
        "normal": (rng.standard_normal, 0.0),
        "exponential": (rng.standard_exponential, 1.0),
        "log-normal": (lambda size: rng.lognormal(size=size), np.exp(0.5)),
    }[kind]
    held = np.zeros(2)
    for _ in range(COVERED):
        d = draw(size=units)
        ours = compare(Units(tuple(map(str, range(units))), np.zeros(units), d, 0))
        bca = stats.bootstrap((d,), np.mean, n_resamples=2000, rng=0).confidence_interval
        held += ours.low <= mean <= ours.high, bca.low <= mean <= bca.high
    return tuple(held / COVERED)


def main() -> None:
    """Print both tables."""
    statistics.RESAMPLES = 2  # the intervals of Cliff's delta are not looked at
    rng = np.random.default_rng(0)
    print(
        "| wells a side | fields a well | false alarms over fields | over wells |\n|---|---|---|---|"
    )
    for wells, fields in ((2, 5), (2, 9), (4, 9), (6, 9), (9, 1)):
        by_field, by_well = false_alarms(wells, fields, rng)
        print(f"| {wells} | {fields} | {by_field:.1%} | {by_well:.1%} |", flush=True)
    print("\n| differences | units | Student | BCa |\n|---|---|---|---|")
    for kind in ("normal", "exponential", "log-normal"):
        for units in (3, 5, 10, 20, 40):
            student, bca = coverage(kind, units, rng)
            print(f"| {kind} | {units} | {student:.1%} | {bca:.1%} |", flush=True)


if __name__ == "__main__":
    main()
