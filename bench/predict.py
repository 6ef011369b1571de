"""Megapixels a second of whole-field prediction, against the same generator run plainly.

    python bench/predict.py --repeats 5
    python bench/predict.py --huge 20000 --repeats 1      # and the memory of one huge field

The generator is the paper's (`--width`), trained for `--train-time` on simulated fields (520x696, LZW TIFFs) so
that it has something to say. The reference is in this file: float32, NCHW, eager, tiles of 256 px that share a
quarter, one at a time, and the image decoded for each tile, as scripts made for patches do; "decoded once" leaves
that last handicap out. Both write OME-TIFFs. Each way has a process of its own; repeats alternate, so that
all see the same machine.

Agreement: with the reference's tiles and float32 no pixel differs by more than a grey level. The default
(fields in one piece, bf16 where it is exact enough) is compared with the truth instead: PSNR of both.

Further: cost and memory for 1, 4 and 16 times the fields, each in a process of its own, and the
latency of one field in memory. On a GPU also the megapixels a second from decoded input. Last lines:
RATIO name value.
"""

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "bench")]  # run from a clone, not installed

from plain import plain_layers
from real_images import call
from sections import Tee, machine, write_section

from vfn.data.simulated import Specimen
from vfn.inference.folder import run
from vfn.inference.predictor import Predictor
from vfn.inference.tiles import blend_weights, tile_starts
from vfn.models.checkpoint import Checkpoint, load_checkpoint
from vfn.system.memory import keep_freed_memory

SHAPE, TILE, OVERLAP = (520, 696), 256, 64
say = Tee()
REFERENCES = {"reference": False, "reference, decoded once": True}
OURS: dict[str, dict[str, Any]] = {
    "vfn, the reference's tiles in float32": {
        "precision": "float32", "tile": TILE, "overlap": OVERLAP / TILE,
    },
    "vfn, float32": {"precision": "float32"},
    "vfn, bf16": {"precision": "bf16"},
    "vfn": {},
}  # fmt: skip
_way: Callable[[Path], Any]
FIRST_NEW = 1000  # seed of the first field that the model did not see


def write_fields(folder: Path, seeds: range, dtype: str, channels: tuple[str, ...]) -> None:
    """Simulated fields, `f0003_phase.tif`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        specimen = Specimen(seed, SHAPE)
        for channel in channels:
            image = specimen.render(channel, 0.0, dtype)
            tifffile.imwrite(folder / f"f{seed:04d}_{channel}.tif", image, compression="lzw")


def reference(checkpoint: Checkpoint, source: Path, output: Path, once: bool) -> None:
    """Predict every field of `source` as a plain script does."""
    output.mkdir(parents=True, exist_ok=True)
    (fitted_in,), (fitted_out,) = checkpoint.inputs, checkpoint.targets
    axes = []
    for length in SHAPE:
        starts = tile_starts(length, TILE, OVERLAP)
        axes.append((starts, blend_weights(starts, TILE, length, OVERLAP)))
    for path in sorted(source.glob("*_phase.tif")):
        total = np.zeros(SHAPE, np.float32)
        image = tifffile.imread(path)
        for i, top in enumerate(axes[0][0]):
            for j, left in enumerate(axes[1][0]):
                if not once:
                    image = tifffile.imread(path)
                tile = image[top : top + TILE, left : left + TILE]
                x = torch.from_numpy(fitted_in.normalise(tile))[None, None]
                with torch.no_grad():
                    y = checkpoint.generator(x)[0, 0].numpy()
                alpha = np.outer(axes[0][1][i], axes[1][1][j])
                total[top : top + TILE, left : left + TILE] += alpha * y
        name = path.name.replace("_phase.tif", ".ome.tif")
        tifffile.imwrite(output / name, fitted_out.restore(total), compression="zlib")


def _prepare(name: str, ckpt: Path, source: Path) -> None:
    """In a process of its own: what `_timed` runs. As in the commands, ours keep the memory they free."""
    global _way
    checkpoint = load_checkpoint(ckpt)
    if name in REFERENCES:
        plain_layers(checkpoint.generator)
        _way = partial(reference, checkpoint, source, once=REFERENCES[name])
        return
    keep_freed_memory()
    predictor = Predictor(checkpoint, **OURS[name])

    def way(out: Path) -> str:
        run(predictor, source, out)
        return predictor.precision

    _way = way


def _timed(output: Path) -> tuple[float, str]:
    """Seconds, and the precision that was computed in."""
    start = time.perf_counter()
    precision = _way(output) or "float32"
    return time.perf_counter() - start, precision


def psnr(folder: Path, truth: Path) -> float:
    """Median over the fields, dB on the range of the dtype."""
    values = []
    for path in sorted(folder.glob("*.ome.tif")):
        predicted = tifffile.imread(path).squeeze()
        real = tifffile.imread(truth / path.name.replace(".ome.tif", "_dapi.tif"))
        error = np.mean((predicted.astype(float) - real) ** 2)
        values.append(10 * math.log10(np.iinfo(real.dtype).max ** 2 / error))
    return statistics.median(values)


def cost(ckpt: Path, source: Path) -> dict[str, float]:
    """Predict `source` in a process of its own; seconds (without the start), and peak memory in MiB."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--one", str(ckpt), str(source), out]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(ckpt: str, source: str, output: str) -> None:
    """What `cost` runs."""
    keep_freed_memory()
    predictor = Predictor(load_checkpoint(Path(ckpt)))
    start = time.perf_counter()
    run(predictor, Path(source), Path(output))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "precision": predictor.precision}))


def spread(values: list[float], unit: str) -> str:
    """Median, and from where to where."""
    text = f"{statistics.median(values):7.3g} {unit}"
    return f"{text} ({min(values):.3g} to {max(values):.3g}, n = {len(values)})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--fields", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", nargs="+", default=["uint8", "uint16"])
    parser.add_argument("--train-time", default="00:00:01:00")
    parser.add_argument("--latency", type=int, default=100, help="fields, one after the other")
    parser.add_argument("--huge", type=int, default=0, help="side of one huge field (px)")
    parser.add_argument("--write", type=Path, help="Markdown file whose section is replaced")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(*args.one)
        return
    if args.fields < 4:
        parser.error(
            f"--fields {args.fields}: give 4 or more, since a quarter of them is timed too"
        )
    print(machine())
    say(f"generator of width {args.width}")
    ratios: list[str] = []
    charts: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in args.dtype:
            found, rates = measure(Path(scratch, dtype), dtype, args)
            ratios += found
            charts[f"megapixels a second, {dtype}"] = rates
    say("\n".join(ratios))
    if args.write:
        write_section(args.write, "predict", say.lines, charts)


def measure(
    folder: Path, dtype: str, args: argparse.Namespace
) -> tuple[list[str], dict[str, list[float]]]:
    """Print the figures for one dtype; the ratios, and the rates of each way."""
    write_fields(folder / "train", range(12), dtype, ("phase", "dapi"))
    new, truth = folder / "new", folder / "truth"
    write_fields(new, range(FIRST_NEW, FIRST_NEW + args.fields), dtype, ("phase",))
    write_fields(truth, range(FIRST_NEW, FIRST_NEW + args.fields), dtype, ("dapi",))
    call(
        "train.py", f"run={folder / 'run'}", "data=folder", f"data.root={folder / 'train'}",
        "task=dapi_from_phase", "model=unet", f"model.generator.width={args.width}", "logger=csv",
        "data.batch_size=4", "model.adam.lr_generator=1e-3", f"trainer.max_time={args.train_time}",
        f"data.cache_dir={folder / 'cache'}",
    )  # fmt: skip
    ckpt = folder / "run" / "checkpoints" / "best.ckpt"
    spawn = multiprocessing.get_context("spawn")
    ways = {
        name: ProcessPoolExecutor(1, spawn, _prepare, (name, ckpt, new))
        for name in (*REFERENCES, *OURS)
    }
    megapixels = args.fields * math.prod(SHAPE) / 1e6
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(args.repeats + 1):  # the first warms up
        for name, way in ways.items():
            seconds, precision = way.submit(_timed, folder / f"{name}_{repeat}").result()
            if repeat:
                rates[name].append(megapixels / seconds)
    for way in ways.values():
        way.shutdown()
    say(f"\n{dtype}, {args.fields} fields of {SHAPE[1]}x{SHAPE[0]}, from files to files")
    for name, values in rates.items():
        text = f"  {name:40s} {spread(values, 'Mpx/s')}"
        say(f"{text}; PSNR {psnr(folder / f'{name}_0', truth):.2f} dB")
    say(f"  (vfn chose {precision})")
    worst = 0
    for path in sorted((folder / "reference_0").glob("*.tif")):
        same = tifffile.imread(folder / "vfn, the reference's tiles in float32_0" / path.name)
        worst = max(worst, int(np.abs(same.astype(int) - tifffile.imread(path)).max()))
    say(f"  with the reference's tiles in float32 the greatest difference is {worst} grey level(s)")
    if worst > 1:
        sys.exit("error: the outputs do not agree")
    ratios = []
    for name in ("vfn", "vfn, float32", "vfn, bf16"):
        for other in ("reference", "reference, decoded once"):
            pairs = zip(rates[name], rates[other], strict=True)
            ratio = statistics.median(fast / slow for fast, slow in pairs)
            label = f"predict_{dtype}_{name}_over_{other}".replace(", ", "_").replace(" ", "_")
            ratios.append(f"RATIO {label} {ratio:.2f}")
    if dtype != args.dtype[0]:
        return ratios, rates
    latency(ckpt, new, args.latency)
    ratios += scaling(ckpt, folder, dtype, args.fields)
    if torch.cuda.is_available():
        decoded(ckpt)
    else:
        say("  GPU: not run, no CUDA device here")
    if args.huge:
        huge(ckpt, folder, dtype, args.huge)
    return ratios, rates


def latency(ckpt: Path, source: Path, count: int) -> None:
    """One field in memory, as a live microscope asks for it."""
    keep_freed_memory()
    predictor = Predictor(load_checkpoint(ckpt))
    image = tifffile.imread(next(source.glob("*_phase.tif")))
    times = []
    for _ in range(count + 5):
        start = time.perf_counter()
        predictor.predict([image])
        times.append(1000 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times[5:], [50, 99])
    say(f"  latency of one field in memory: p50 {p50:.0f} ms, p99 {p99:.0f} ms (n = {count})")


def scaling(ckpt: Path, folder: Path, dtype: str, fields: int) -> list[str]:
    """1, 4 and 16 times the fields: seconds for each field, and peak memory."""
    ratios, first = [], {}
    for times in (1, 4, 16):
        source = folder / f"times{times}"
        write_fields(source, range(5000, 5000 + fields // 4 * times), dtype, ("phase",))
        figures = cost(ckpt, source)
        each = figures["seconds"] / (fields // 4 * times)
        say(
            f"  {fields // 4 * times:4d} fields: {each * 1000:6.0f} ms a field, "
            f"{figures['peak']:.0f} MiB at most"
        )
        first = first or {"each": each, "peak": figures["peak"]}
        if times > 1:
            ratios.append(f"RATIO predict_ms_a_field_{times}x_over_1x {each / first['each']:.2f}")
            ratios.append(
                f"RATIO predict_memory_{times}x_over_1x {figures['peak'] / first['peak']:.2f}"
            )
    return ratios


def huge(ckpt: Path, folder: Path, dtype: str, side: int) -> None:
    """One field of `side` x `side` px: seconds and peak memory."""
    source = folder / "huge"
    source.mkdir()
    part = Specimen(7, (512, 512)).render("phase", 0.0, dtype)
    count = math.ceil(side / 512)
    rows = (part for _ in range(count * count))
    tifffile.imwrite(
        source / "f_phase.tif", rows, shape=(512 * count, 512 * count), dtype=dtype,
        tile=(512, 512), compression="zlib",
    )  # fmt: skip
    figures = cost(ckpt, source)
    rate = (512 * count) ** 2 / 1e6 / figures["seconds"]
    say(
        f"  one field of {512 * count}x{512 * count} {dtype}: {figures['seconds']:.0f} s, "
        f"{rate:.2f} Mpx/s, {figures['peak']:.0f} MiB of host memory at most"
    )


def decoded(ckpt: Path) -> None:
    """The generator alone on a GPU, from batches that lie there."""
    predictor = Predictor(load_checkpoint(ckpt), "cuda", "bf16")
    tiles = torch.rand(predictor.batch_size, 1, 1024, 1024, device="cuda") * 2 - 1
    with torch.inference_mode():
        for _ in range(3):
            predictor._stain(tiles)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            predictor._stain(tiles)
        torch.cuda.synchronize()
    rate = 10 * tiles.numel() / 1e6 / (time.perf_counter() - start)
    say(f"  GPU ({torch.cuda.get_device_name()}): {rate:.0f} Mpx/s from decoded input")


if __name__ == "__main__":
    main()
