"""Does every fault of a predicted stain move the figure that it should move, and the verdict?

    python bench/trust.py --data ../shared/data --runs outputs/real --write docs/trust.md

First the models of `bench/real_images.py` (trained there if `--runs` lacks them) are scored. Then
predictions are spoiled on purpose, one fault at a time, and scored as any program's images are
(`evaluate.py pred=DIR truth=DIR`): blurred, shifted by 2 px, brightened by 1.5, one nucleus of each
field erased, one pasted. Three sets are spoiled: real Hoechst fields with camera noise in place of a
prediction, so that nothing else is wrong with them, and the predictions of two models. A held-out part of
one field is cut into tiles there, which stand for fields.

--check fails if a figure or a verdict does not move as it should.
"""

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "bench")]  # run from a clone, not installed

from real_images import RUNS, call, run

from vfn.metrics.objects import segment_nuclei

Image = NDArray[np.uint16]
MODELS = ("jump_dna", "jump_er", "jump_mito", "daoy_dna", "daoy_er", "daoy_mito")
SPOILED_MODELS = ("daoy_er", "jump_dna")
TILE = 270  # px; the held-out quarter of a 1080x1080 field is 1080 x 270
HOECHST = "u2os_cps/bbbc022_w1"
LEVELS = ("use", "care", "do not use")
START, END = "<!-- table: bench/trust.py -->", "<!-- end of table -->"


def blurred(image: Image, _: int) -> Image:
    return to_dtype(ndimage.gaussian_filter(image.astype(np.float32), 2.0), image)


def shifted(image: Image, _: int) -> Image:
    return np.roll(image, 2, axis=0)


def brightened(image: Image, _: int) -> Image:
    ground = np.percentile(image, 5)
    return to_dtype(ground + 1.5 * (image - ground), image)


def erased(image: Image, seed: int) -> Image:
    """One whole nucleus is filled with the ground beside it."""
    result, (mask, _) = image.copy(), nucleus(image, seed)
    rim = ndimage.binary_dilation(mask, iterations=9)
    ground = image[(nuclei(image) == 0) & ndimage.binary_dilation(rim, iterations=6) & ~rim]
    rng = np.random.default_rng(seed)
    result[rim & ~others(image, mask)] = rng.choice(ground, int((rim & ~others(image, mask)).sum()))
    return result


def pasted(image: Image, seed: int) -> Image:
    """One nucleus once more, where the field is empty."""
    result, (mask, box) = image.copy(), nucleus(image, seed)
    height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
    busy = ndimage.binary_dilation(nuclei(image) > 0, iterations=4)
    # Sum of busy pixels in every box of that size, from a running mean.
    load = ndimage.uniform_filter(busy.astype(np.float32), (height, width))
    inside = load[height // 2 : -height, width // 2 : -width]
    row, column = np.unravel_index(int(np.argmin(inside)), inside.shape)
    target = slice(row, row + height), slice(column, column + width)
    cut = ndimage.binary_dilation(mask, iterations=2)[box]
    result[target][cut] = image[box][cut]
    return result


def nucleus(image: Image, seed: int) -> tuple[NDArray[np.bool_], tuple[slice, slice]]:
    """A nucleus of about middle size, away from the border: its pixels, and a box about it."""
    labels = nuclei(image)
    places = ndimage.find_objects(labels)
    whole = [
        (int((labels[place] == i + 1).sum()), i)
        for i, place in enumerate(places)
        if all(s.start > 12 and s.stop < n - 12 for s, n in zip(place, image.shape, strict=True))
    ]
    _, chosen = sorted(whole)[len(whole) // 2 + seed % max(len(whole) // 4, 1)]
    place = places[chosen]
    box = slice(place[0].start - 4, place[0].stop + 4), slice(place[1].start - 4, place[1].stop + 4)
    return labels == chosen + 1, box


@functools.cache
def _nuclei(shape: tuple[int, ...], data: bytes) -> NDArray[np.int32]:
    return segment_nuclei(np.frombuffer(data, np.uint16).reshape(shape))


def nuclei(image: Image) -> NDArray[np.int32]:
    return _nuclei(image.shape, image.tobytes())


def others(image: Image, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Nuclei but the one of `mask`, with a pixel of margin."""
    return ndimage.binary_dilation((nuclei(image) > 0) & ~mask)


def to_dtype(image: NDArray[np.floating], like: Image) -> Image:
    return image.round().clip(0, np.iinfo(like.dtype).max).astype(like.dtype)


# fault -> (what it does to a field, the figure that it should move)
FAULTS: dict[str, tuple[Callable[[Image, int], Image], str]] = {
    "blurred (sigma 2 px)": (blurred, "power_ratio"),
    "shifted by 2 px": (shifted, "shift_rows"),
    "gain 1.5": (brightened, "gain"),
    "a nucleus erased": (erased, "missed"),
    "a nucleus pasted": (pasted, "hallucinated"),
}
FIGURES = (
    "psnr_signal", "pearson", "gain", "shift_rows", "frc_resolution", "power_ratio",
    "f1_50", "missed", "hallucinated", "amount_slope",
)  # fmt: skip
# How far a figure has to go to have moved.
STEP = {"power_ratio": 0.1, "shift_rows": 1.5, "gain": 0.3, "missed": 0.8, "hallucinated": 0.8}


def noisy(image: Image, seed: int) -> Image:
    """The same field once more, as a camera with a little noise would see it."""
    rng = np.random.default_rng(seed)
    spread = 0.05 * np.sqrt(image.astype(np.float32) * float(image.max()) / 16)
    return to_dtype(image + rng.normal(0, 1, image.shape) * spread, image)


def hoechst(data: Path) -> tuple[str, list[Image], list[Image]]:
    """Channel, truth and stand-in predictions of the real Hoechst fields."""
    truth = [tifffile.imread(path) for path in sorted((data / HOECHST).glob("**/*.tif"))]
    return "dna", truth, [noisy(image, i) for i, image in enumerate(truth)]


def of_model(name: str, data: Path, runs: Path) -> tuple[str, list[Image], list[Image]]:
    """Channel, truth and predictions of a model's held-out part, in tiles."""
    channel = name.split("_")[1]
    (path,) = (runs / name / "evaluation" / "predictions").glob("*.tif")
    prediction = tifffile.imread(path).squeeze()
    file = files_of(name, data)[channel]
    truth = tifffile.imread(file)[:, -prediction.shape[1] :]  # the right quarter
    cuts = [slice(i, i + TILE) for i in range(0, truth.shape[0] - TILE + 1, TILE)]
    return channel, [truth[cut] for cut in cuts], [prediction[cut] for cut in cuts]


def files_of(name: str, data: Path) -> dict[str, Path]:
    """Channel -> file of the field that a run trained on."""
    tokens = (part.split(":") for part in RUNS[name][1][3].split("=")[1].strip("{}").split(","))
    return {c: next((data / RUNS[name][0]).glob(f"*{token}*")) for c, token in tokens}


def features(place: str, data: Path, runs: Path, output: Path) -> list[str]:
    """Lines of the table of features: two real channels with three predicted ones, as figure 8."""
    predictions = [
        runs / f"{place}_{c}" / "evaluation" / "predictions" for c in ("dna", "er", "mito")
    ]
    (path,) = predictions[0].glob("*.tif")
    (output / "truth").mkdir(parents=True, exist_ok=True)
    for channel, file in files_of(f"{place}_dna", data).items():
        image = tifffile.imread(file)[:, -tifffile.imread(path).shape[-1] :]  # the right quarter
        tifffile.imwrite(output / "truth" / f"{path.name.split('.')[0]}_{channel}.tif", image)
    call(
        "evaluate.py", f"pred=[{','.join(map(str, predictions))}]", f"truth={output / 'truth'}",
        "inputs=[golgi_actin,rna]", "features=true", f"output={output / 'evaluation'}",
    )  # fmt: skip
    summary = json.loads((output / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    lines = []
    for channel, part in summary.items():
        found = part["features"]
        counts = [str(found[key]) for key in ("objects", "n", "survive", "surely_survive")]
        cells = [f"{found['median_r']:.3f}", cell(part, "pearson"), *counts]
        lines.append(f"| {place} | {channel} | {' | '.join(cells)} |")
    return lines


def score(folder: Path, channel: str, truth: list[Image], prediction: list[Image]) -> dict:
    """Write both as files and score them by the command line: the channel's part of the summary."""
    for kind, images in (("truth", truth), ("pred", prediction)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            tifffile.imwrite(folder / kind / f"field{i:02d}.tif", image)
    out = folder / "evaluation"
    subprocess.run(
        [
            sys.executable, str(REPOSITORY / "evaluate.py"), f"pred={folder / 'pred'}",
            f"truth={folder / 'truth'}", f"channels=[{channel}]", f"output={out}",
        ],
        cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))[channel]


def cell(part: dict, column: str) -> str:
    value = part[column]["mean"] if column in part else None
    return "-" if value is None else f"{value:.3g}" if column != "psnr_signal" else f"{value:.1f}"


def spoil(
    title: str, channel: str, truth: list[Image], prediction: list[Image], output: Path
) -> tuple[list[str], list[str]]:
    """Lines of the table of one set, and what did not move as it should."""
    before = score(output / "untouched", channel, truth, prediction)
    lines, complaints = [row(title, "untouched", before, "")], []
    for fault, (change, figure) in FAULTS.items():
        if change in (erased, pasted) and channel != "dna":
            continue
        spoiled = [change(image, i) for i, image in enumerate(prediction)]
        after = score(output / fault.split(" (")[0].replace(" ", "_"), channel, truth, spoiled)
        lines.append(row(title, fault, after, figure))
        moved = abs(value(after, figure) - value(before, figure))
        if not moved >= STEP[figure]:
            complaints.append(f"{title}, {fault}: {figure} moved by {moved:.3g} only")
        worst = before["verdict"]["level"] == LEVELS[-1]
        better = LEVELS.index(after["verdict"]["level"]) <= LEVELS.index(before["verdict"]["level"])
        if not worst and better:
            complaints.append(f"{title}, {fault}: verdict stays {after['verdict']['level']}")
    return lines, complaints


def value(part: dict, column: str) -> float:
    mean = part[column]["mean"]
    return float("nan") if mean is None else mean


def row(title: str, fault: str, part: dict, figure: str) -> str:
    cells = [f"**{cell(part, c)}**" if c == figure else cell(part, c) for c in FIGURES]
    return f"| {title} | {fault} | " + " | ".join(cells) + f" | {part['verdict']['level']} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument(
        "--runs", type=Path, help="output of bench/real_images.py; without it, no models"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/trust"))
    parser.add_argument("--max-time", default="00:00:05:00", help="of a training that is missing")
    parser.add_argument("--write", type=Path, help="Markdown file whose table is replaced")
    parser.add_argument("--check", action="store_true", help="fail if something does not move")
    args = parser.parse_args()
    data, output = args.data.absolute(), args.output.absolute()
    head = ["| predictions | fault | " + " | ".join(FIGURES) + " | verdict |"]
    head.append("|" + " --- |" * (len(FIGURES) + 3))
    lines: list[str] = []
    sets = {"Hoechst, camera noise": hoechst(data)}
    if args.runs:
        runs = args.runs.absolute()
        for name in MODELS:
            if not (runs / name / "checkpoints" / "best.ckpt").exists():
                run(name, data, runs, args.max_time, ["model.adam.lr_generator=1e-3"])
            target = runs / name
            call(
                "evaluate.py", f"ckpt={target}/checkpoints/best.ckpt", f"output={target}/evaluation"
            )
            summary = json.loads((target / "evaluation/summary.json").read_text(encoding="utf-8"))
            lines += [row(name, "-", part, "") for part in summary.values()]
        sets |= {f"model {name}": of_model(name, data, runs) for name in SPOILED_MODELS}
    complaints: list[str] = []
    for number, (title, (channel, truth, prediction)) in enumerate(sets.items()):
        more, wrong = spoil(title, channel, truth, prediction, output / f"set{number}")
        lines, complaints = lines + more, complaints + wrong
    table = "\n".join([*head, *lines])
    if args.runs:
        survive = [
            "| images | predicted | median r | r of the pixels | nuclei | features | r > 0.8 | interval > 0.8 |",
            "|" + " --- |" * 8,
            *(line for p in ("jump", "daoy") for line in features(p, data, runs, output / p)),
        ]
        table += "\n\n" + "\n".join(survive)
    print(table)
    if args.write:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        args.write.write_text("\n".join([before + START, table, END + after]), encoding="utf-8")
    for complaint in complaints:
        print(complaint)
    if args.check and complaints:
        sys.exit(f"error: {len(complaints)} faults did not move what they should")


if __name__ == "__main__":
    main()
