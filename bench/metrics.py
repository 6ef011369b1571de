"""Pixel figures: the time that ours take against the same figures by scikit-image, NumPy and SciPy.

    python bench/metrics.py --fields 100 --side 1080 --repeats 3

MAE, MSE, NRMSE, PSNR and SSIM on the full and the signal range, Pearson's r and the line through the
intensities, of uint16 fields that lie in memory. The reference calls scikit-image (MSE, NRMSE, PSNR,
SSIM), NumPy (MAE) and SciPy (linregress, which gives r too) for one field after the other, as one
would. Both get two cores and one BLAS thread a worker: the reference two processes, since its loop is
code of one thread, ours two threads, as evaluation has them. Repeats alternate; a time is the median.
Figures must agree within 1e-5, relative to those above 1, or the exit code is 1. "All columns" are
also MS-SSIM, tolerance, spectra and shift, which have no counterpart there. Last line: RATIO
pixel_metrics X.
"""

import os

for library in ("OMP", "OPENBLAS", "MKL"):  # before NumPy is imported
    os.environ[f"{library}_NUM_THREADS"] = "1"

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress
from skimage import metrics as reference

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.evaluation.ranges import ChannelRanges, Range
from vfn.evaluation.rows import pixel_figures, score_image

WORKERS = 2
FULL, SIGNAL = 65535.0, 3000.0
RANGES = ChannelRanges("uint16", Range(0, FULL), Range(200, 200 + SIGNAL), 1, 1)
COMMON = ("mae", "mse", "nrmse", "psnr", "ssim")
COLUMNS = (*COMMON, *(f"{name}_signal" for name in COMMON), "pearson", "gain", "offset", "r2")
TOLERANCE = 1e-5
DIFFERENT = 10  # fields that are made; the others are these again


def make_field(seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, truth): smooth structure with photon noise, and a smoother, slightly wrong copy."""
    rng = np.random.default_rng(seed)
    structure = gaussian_filter(rng.standard_normal((side, side), np.float32), 3)
    structure = 400 + 2000 * (structure / structure.std()).clip(0)
    truth = rng.poisson(structure).astype(np.uint16)
    return gaussian_filter(1.1 * structure + 20, 1).astype(np.uint16), truth


# Of this process.
_fields: list[tuple[np.ndarray, np.ndarray]] = []


def initialise(count: int, side: int) -> None:
    _fields.extend(make_field(seed, side) for seed in range(min(count, DIFFERENT)))


def by_scikit_image(number: int) -> dict[str, float]:
    prediction, truth = (image.astype(np.float64) for image in _fields[number % len(_fields)])
    line = linregress(truth.ravel(), prediction.ravel())
    values = {
        "pearson": line.rvalue,
        "gain": line.slope,
        "offset": line.intercept,
        "r2": line.rvalue**2,
    }
    square = reference.mean_squared_error(truth, prediction)
    root = reference.normalized_root_mse(truth, prediction, normalization="min-max")
    absolute, spread = np.abs(prediction - truth).mean(), np.ptp(truth)
    for suffix, width in (("", FULL), ("_signal", SIGNAL)):
        values |= {
            f"mae{suffix}": absolute / width,
            f"mse{suffix}": square / width**2,
            f"nrmse{suffix}": root * spread / width,
            f"psnr{suffix}": reference.peak_signal_noise_ratio(truth, prediction, data_range=width),
            f"ssim{suffix}": reference.structural_similarity(
                truth,
                prediction,
                data_range=width,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            ),
        }
    return {column: float(values[column]) for column in COLUMNS}


def by_us(number: int) -> dict[str, float]:
    return pixel_figures(*_fields[number % len(_fields)], RANGES, COLUMNS)


def all_columns(number: int) -> dict[str, float]:
    return dict(score_image("field", "stain", *_fields[number % len(_fields)], RANGES).values)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fields", type=int, default=100)
    parser.add_argument("--side", type=int, default=1080)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    start = partial(initialise, args.fields, args.side)
    initialise(args.fields, args.side)
    context = multiprocessing.get_context("spawn")
    numbers = range(args.fields)
    with (
        ProcessPoolExecutor(WORKERS, context, start) as processes,
        ThreadPoolExecutor(WORKERS) as threads,
    ):
        ways: dict[str, Callable[[], list[dict[str, float]]]] = {
            "scikit-image": lambda: list(processes.map(by_scikit_image, numbers)),
            "ours": lambda: list(threads.map(by_us, numbers)),
            "all columns": lambda: list(threads.map(all_columns, numbers)),
        }
        list(processes.map(by_scikit_image, range(2 * WORKERS)))  # both have started and are warm
        list(threads.map(by_us, range(2 * WORKERS)))
        times: dict[str, list[float]] = {name: [] for name in ways}
        figures: dict[str, list[dict[str, float]]] = {}
        for _ in range(args.repeats):
            for name, work in ways.items():
                begin = time.perf_counter()
                figures[name] = work()
                times[name].append(time.perf_counter() - begin)
    print(f"{args.fields} fields {args.side}x{args.side}, uint16, {WORKERS} cores")
    for name, values in times.items():
        print(
            f"{name:14s} {1000 * statistics.median(values) / args.fields:8.1f} ms a field "
            f"({', '.join(f'{v:.1f}' for v in values)} s)"
        )
    worst = {
        column: np.max(  # unlike Python's, it lets no NaN through
            [
                abs(a[column] - b[column]) / max(1.0, abs(b[column]))
                for a, b in zip(figures["ours"], figures["scikit-image"], strict=True)
            ]
        )
        for column in COLUMNS
    }
    print("largest difference: " + ", ".join(f"{c} {d:.1e}" for c, d in worst.items()))
    ratio = statistics.median(
        slow / fast for slow, fast in zip(times["scikit-image"], times["ours"], strict=True)
    )
    equal = all(difference <= TOLERANCE for difference in worst.values())
    if not equal:
        print(f"figures differ by more than {TOLERANCE:g}", file=sys.stderr)
    print(f"RATIO pixel_metrics {ratio:.2f}")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
