"""Can the verdict be fooled? Predictions that are right are spoiled in many ways, and judged.

    python bench/trust.py --data ../shared/data [--seed 7] [--write docs/benchmarks.md] [--check]

A prediction is the real image with a little camera noise, so that nothing else is wrong with it. Each
kind of spoiling is applied to the fields of five real sets and scored as `evaluate.py pred=DIR truth=DIR`
scores any images. A harmful kind that gets "use", or a harmless one that does not, is a fault of the
verdict; --check fails on any. Three kinds of the first set go through the command line as well.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY)]  # run from a clone, not installed

import tifffile

from vfn.commands.score import default_limits
from vfn.data.images import read_image
from vfn.evaluation.criteria import Stain
from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.ranges import channel_ranges
from vfn.evaluation.score import score_fields
from vfn.evaluation.stain import Nuclei
from vfn.evaluation.verdict import Verdict, judge
from vfn.metrics.objects import segment_cells, segment_nuclei

Image = NDArray[np.float64]
LEVELS = ("use", "care", "do not use")
NOISY, EMPTY = "the truth has noise of 8 %", "two empty fields more"  # change the truth
START, END = "<!-- table: bench/trust.py -->", "<!-- end of table -->"
SIDE = 640  # px, of the part of each field that is taken
NOISE = 0.01  # of the untouched prediction, standard deviation in widths of the signal range


@dataclass(frozen=True)
class Field:
    """One real field.

    Attributes:
        truth: grey values.
        other: another channel of the field; None where there is none.
        labels: its nuclei, or cells.
        width: of the signal range of the set.
        well: that it lies in.
    """

    truth: Image
    other: Image | None
    labels: NDArray[np.int32]
    width: float
    well: str


Fields = Sequence[Field]
Spoil = Callable[[Field, Image, int, np.random.Generator], Image]


def ground(field: Field) -> float:
    return float(np.percentile(field.truth, 5))


def times(field: Field, image: Image, factor: float | Image) -> Image:
    """Brighten what lies above the ground."""
    return ground(field) + factor * (image - ground(field))


def chosen(field: Field, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Pixels of a share of the objects, one at least, and of a rim about them."""
    numbers = np.unique(field.labels[field.labels > 0])
    count = max(1, round(share * len(numbers)))
    mask = np.isin(field.labels, rng.choice(numbers, min(count, len(numbers)), replace=False))
    return np.asarray(ndimage.binary_dilation(mask, iterations=3))


def shuffled(field: Field, image: Image, _: int, rng: np.random.Generator) -> Image:
    """Every object gets the mean brightness of another."""
    numbers = np.unique(field.labels[field.labels > 0])
    means = ndimage.mean(image - ground(field), field.labels, numbers).clip(1e-3)
    factor = np.ones(int(field.labels.max()) + 1)
    factor[numbers] = rng.permutation(means) / means
    return times(field, image, factor[field.labels])


def moved(image: Image, rows: float, columns: float) -> Image:
    return np.asarray(ndimage.shift(image, (rows, columns), order=1, mode="nearest"))


def slope(shape: tuple[int, ...]) -> Image:
    """0 to 1 from left to right."""
    return np.broadcast_to(np.linspace(0, 1, shape[1]), shape)


def radius(shape: tuple[int, ...]) -> Image:
    """0 in the middle to 1 in the corners."""
    rows, columns = (np.linspace(-1, 1, n) for n in shape)
    return np.hypot(rows[:, None], columns) / np.sqrt(2)


def erased(field: Field, image: Image, share: float, rng: np.random.Generator) -> Image:
    mask = chosen(field, share, rng)
    dark = image[field.labels == 0]
    level = np.percentile(dark, 30)
    return np.where(mask, level + rng.normal(0, NOISE * field.width, image.shape), image)


def pasted(field: Field, image: Image, share: float, rng: np.random.Generator) -> Image:
    """Objects once more, at random places."""
    result = image.copy()
    numbers = np.unique(field.labels[field.labels > 0])
    for number in rng.choice(numbers, max(2, round(share * len(numbers)))):
        (box,) = ndimage.find_objects((field.labels == number).astype(int))
        height, width = (s.stop - s.start for s in box)
        row, column = (
            int(rng.integers(0, n - m)) for n, m in zip(image.shape, (height, width), strict=True)
        )
        target = slice(row, row + height), slice(column, column + width)
        result[target] = np.where(field.labels[box] == number, image[box], result[target])
    return result


def texture(field: Field, image: Image, amount: float, rng: np.random.Generator) -> Image:
    """Invented fine detail inside the objects."""
    grain = ndimage.gaussian_filter(rng.normal(size=image.shape), 1.2)
    return times(field, image, 1 + amount * grain / grain.std())


def another(spoil: Spoil, only: Callable[[int], bool]) -> Spoil:
    return lambda f, x, i, rng: spoil(f, x, i, rng) if only(i) else x


def every(number: int) -> Callable[[int], bool]:
    return lambda i: i % number == 0


def needs_other(f: Field) -> Image:
    assert f.other is not None
    scale = f.width / max(np.ptp(np.percentile(f.other, (0.1, 99.9))), 1)
    return (f.other - np.percentile(f.other, 0.1)) * scale


# Harmful kinds; those whose name begins with "dna:" need nuclei, with "two:" another channel.
HARMFUL: Mapping[str, Spoil] = {
    "gain 0.5 and 1.5 in turn": lambda f, x, i, rng: times(f, x, (0.5, 1.5)[i % 2]),
    "gain 0.75 and 1.25 in turn": lambda f, x, i, rng: times(f, x, (0.75, 1.25)[i % 2]),
    "gain 0.6": lambda f, x, i, rng: times(f, x, 0.6),
    "gain 1.5": lambda f, x, i, rng: times(f, x, 1.5),
    "5 px to the left and right in turn": lambda f, x, i, rng: moved(x, 0, (-5, 5)[i % 2]),
    "shift of 2 px": lambda f, x, i, rng: moved(x, 2, 0),
    "shift of 3 px in every third field": another(lambda f, x, i, rng: moved(x, 0, 3), every(3)),
    "rotation by 0.5 degrees": lambda f, x, i, rng: ndimage.rotate(x, 0.5, reshape=False, order=1, mode="nearest"),
    "magnified by 1 %": lambda f, x, i, rng: ndimage.affine_transform(
        x, np.eye(2) / 1.01, [n * (1 - 1 / 1.01) / 2 for n in x.shape], order=1, mode="nearest"
    ),
    "offset of a quarter of the range": lambda f, x, i, rng: x + 0.25 * f.width,
    "offset up and down in turn": lambda f, x, i, rng: x + (-0.2, 0.2)[i % 2] * f.width,
    "one field black": another(lambda f, x, i, rng: np.zeros_like(x), lambda i: i == 1),
    "one field constant": another(lambda f, x, i, rng: np.full_like(x, x.mean()), lambda i: i == 1),
    "all black": lambda f, x, i, rng: np.zeros_like(x),
    "one field mirrored": another(lambda f, x, i, rng: x[:, ::-1], lambda i: i == 0),
    "one field upside down": another(lambda f, x, i, rng: x[::-1], lambda i: i == 2),
    "a fifth of the objects at half brightness": lambda f, x, i, rng: np.where(chosen(f, 0.2, rng), times(f, x, 0.5), x),
    "a tenth of the objects doubled": lambda f, x, i, rng: np.where(chosen(f, 0.1, rng), times(f, x, 2.0), x),
    "5 % of the objects doubled": lambda f, x, i, rng: np.where(chosen(f, 0.05, rng), times(f, x, 2.0), x),
    "amounts shuffled between objects": shuffled,
    "shading of 40 % across": lambda f, x, i, rng: times(f, x, 1.2 - 0.4 * slope(x.shape)),
    "shading of 40 % to the corners": lambda f, x, i, rng: times(f, x, 1.1 - 0.4 * radius(x.shape)),
    "shading, its side in turn": lambda f, x, i, rng: times(f, x, 0.8 + 0.4 * slope(x.shape)[:, :: (1, -1)[i % 2]]),
    "a tenth of the objects without stain": lambda f, x, i, rng: erased(f, x, 0.1, rng),
    "dna: objects erased": lambda f, x, i, rng: erased(f, x, 0.06, rng),
    "dna: objects invented": lambda f, x, i, rng: pasted(f, x, 0.06, rng),
    "dna: dilated by 1 px": lambda f, x, i, rng: ndimage.grey_dilation(x, (3, 3)),
    "dna: eroded by 1 px": lambda f, x, i, rng: ndimage.grey_erosion(x, (3, 3)),
    "two: 20 % of another stain": lambda f, x, i, rng: x + 0.2 * needs_other(f),
    "two: 30 % of another stain taken off": lambda f, x, i, rng: x - 0.3 * needs_other(f),
    "two: another stain": lambda f, x, i, rng: needs_other(f),
    "blurred by 2 px": lambda f, x, i, rng: ndimage.gaussian_filter(x, 2),
    "blurred by 4 px in every third field": another(lambda f, x, i, rng: ndimage.gaussian_filter(x, 4), every(3)),
    "invented texture of 25 %": lambda f, x, i, rng: texture(f, x, 0.25, rng),
    "the upper half cut off": lambda f, x, i, rng: np.minimum(x, ground(f) + 0.4 * f.width),
    "the lower half cut off": lambda f, x, i, rng: np.maximum(x, ground(f) + 0.4 * f.width),
    "inverted": lambda f, x, i, rng: 2 * np.mean(x) - x,
    "brightness squared": lambda f, x, i, rng: times(f, x, ((x - ground(f)) / f.width).clip(0)),
    "only black and white": lambda f, x, i, rng: np.where(x > ground(f) + 0.3 * f.width, ground(f) + f.width, ground(f)),
    "a quarter of the field black": lambda f, x, i, rng: np.where(
        (slope(x.shape) < 0.5) & (slope(x.shape[::-1]).T < 0.5), ground(f), x
    ),
    "stripes of a tenth of the range": lambda f, x, i, rng: x + 0.1 * f.width * np.sign(np.sin(np.arange(x.shape[1]) / 3)),
    "noise of a quarter of the range": lambda f, x, i, rng: x + rng.normal(0, 0.25 * f.width, x.shape),
}  # fmt: skip
HARMLESS: Mapping[str, Spoil] = {
    "untouched": lambda f, x, i, rng: x,
    "the truth itself": lambda f, x, i, rng: f.truth,
    "median of 3 x 3": lambda f, x, i, rng: ndimage.median_filter(f.truth, 3),
    "saved as 8 bit": lambda f, x, i, rng: (x / f.width * 200).round() * f.width / 200,
    "gain 1.03": lambda f, x, i, rng: times(f, x, 1.03),
    "0.2 px aside": lambda f, x, i, rng: moved(x, 0, 0.2),
    NOISY: lambda f, x, i, rng: x,
    EMPTY: lambda f, x, i, rng: x,
}


@dataclass(frozen=True)
class Pairs:
    """Truths and predictions in memory, as `vfn.evaluation.pairs.PairSource` wants them."""

    channel: str
    fields: Fields
    predictions: Sequence[NDArray[np.generic]]
    dtype: str

    def __len__(self) -> int:
        return len(self.fields)

    def truth(self, index: int) -> tuple[tuple[str, ...], NDArray[np.generic]]:
        return (self.channel,), self.fields[index].truth[None].astype(self.dtype)

    def pair(self, index: int) -> FieldPair:
        field = self.fields[index]
        inputs = None if field.other is None else field.other[None].astype(self.dtype)
        return FieldPair(
            f"field{index:02d}", *self.truth(index), self.predictions[index][None],
            inputs=inputs, input_channels=() if inputs is None else ("other",), well=field.well or None,
        )  # fmt: skip


def verdict_on(pairs: Pairs) -> Verdict:
    """Score and judge as `evaluate.py` does, without its page."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress
        (result,) = score_fields(pairs, channel_ranges(pairs), Nuclei())
    return judge(Stain.of(result, result.summary()), default_limits(), result.remark())


def by_command_line(pairs: Pairs, folder: Path) -> str:
    """The level that `evaluate.py` gives."""
    for i in range(len(pairs)):
        for kind, image in (("truth", pairs.truth(i)[1][0]), ("pred", pairs.predictions[i])):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"field{i:02d}.tif", image)
    command = [
        sys.executable, str(REPOSITORY / "evaluate.py"), f"pred={folder / 'pred'}",
        f"truth={folder / 'truth'}", f"channels=[{pairs.channel}]", f"output={folder / 'out'}",
    ]  # fmt: skip
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    return str(summary[pairs.channel]["verdict"]["level"])


def load(
    paths: Sequence[Path], others: Sequence[Path], channel: str, wells: Sequence[str]
) -> Fields:
    """Real fields; `others` are images of another channel, or none."""
    truths = [read_image(path).array.squeeze()[:SIDE, :SIDE].astype(float) for path in paths]
    width = float(np.ptp(np.percentile(np.stack(truths), (0.1, 99.9))))
    second = [read_image(path).array.squeeze()[:SIDE, :SIDE].astype(float) for path in others] or [
        None
    ] * len(paths)
    fields = []
    for truth, other, well in zip(truths, second, wells, strict=True):
        labels = segment_nuclei(truth if channel == "dna" or other is None else other)
        if channel != "dna" and other is not None:
            labels = segment_cells(labels, truth)
        fields.append(Field(truth, other, labels, width, well))
    return fields


def sets(data: Path) -> dict[str, tuple[str, Fields]]:
    """Five real sets: name -> channel, fields."""
    hoechst = sorted((data / "u2os_cps/bbbc022_w1").glob("*.tif"))
    plate = sorted((data / "u2os_cps/cp_plate_9wells").glob("*ch1sk1*.png"))[::4]  # 9 of 36
    fkhr = sorted((data / "u2os_translocation").glob("Channel1-*.tif"))[::3]  # 9 of 27
    sharp = sorted((data / "u2os_af/bbbc006_zaligned10_w1").glob("*.png"))
    wells = [path.name[:6] for path in plate]

    def ch(paths: Sequence[Path], old: str, new: str) -> list[Path]:
        return [path.with_name(path.name.replace(old, new)) for path in paths]

    return {
        "BBBC022 Hoechst": ("dna", load(hoechst, [], "dna", [""] * len(hoechst))),
        "Cell Painting DNA": ("dna", load(plate, ch(plate, "ch1", "ch3"), "dna", wells)),
        "Cell Painting ER": ("er", load(ch(plate, "ch1", "ch2"), plate, "er", wells)),
        "BBBC013 FKHR": (
            "fkhr",
            load(fkhr, ch(fkhr, "Channel1", "Channel2"), "fkhr", [""] * len(fkhr)),
        ),
        "BBBC006 Hoechst": ("dna", load(sharp, [], "dna", [""] * len(sharp))),
    }


def spoiled(name: str, channel: str, fields: Fields, spoil: Spoil, seed: int) -> Pairs:
    """The predictions of a set, spoiled."""
    dtype = "uint8" if max(f.truth.max() for f in fields) < 256 else "uint16"
    if name == NOISY:  # a camera has an offset, so that noise is not cut off at black
        dtype = "uint16"
        fields = [replace(f, truth=16 * f.truth + 4 * f.width, width=16 * f.width) for f in fields]
    if name == EMPTY:
        fields = [*fields, *map(emptied, fields[:2])]
    limits = np.iinfo(dtype)
    images, scored = [], []
    for i, field in enumerate(fields):
        rng = np.random.default_rng([seed, i, zlib.crc32(name.encode())])
        noisy = field.truth + rng.normal(0, NOISE * field.width, field.truth.shape)
        image = np.asarray(spoil(field, noisy, i, rng), float)
        images.append(image.round().clip(limits.min, limits.max).astype(dtype))
        camera = rng.normal(0, 0.08 * field.width, image.shape) if name == NOISY else 0
        scored.append(
            replace(field, truth=(field.truth + camera).round().clip(limits.min, limits.max))
        )
    return Pairs(channel, scored, images, dtype)


def emptied(field: Field) -> Field:
    """The same place without cells: ground and a little noise."""
    noise = np.random.default_rng(0).normal(0, NOISE * field.width, field.truth.shape)
    return replace(field, truth=(ground(field) + noise).clip(0), labels=np.zeros_like(field.labels))


def applies(kind: str, channel: str, fields: Fields) -> bool:
    return not (
        (kind.startswith("dna:") and channel != "dna")
        or (kind.startswith("two:") and fields[0].other is None)
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real images")
    parser.add_argument("--output", type=Path, default=Path("outputs/trust"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", type=int, default=5, help="the first N sets only")
    parser.add_argument("--kinds", default="", help="only kinds whose name holds this")
    parser.add_argument("--write", type=Path, help="Markdown file whose table is replaced")
    parser.add_argument("--check", action="store_true", help="fail if the verdict is fooled")
    parser.add_argument("--why", action="store_true", help="print the reason of every verdict")
    args = parser.parse_args()
    started, found = time.monotonic(), {}
    real = dict(list(sets(args.data.absolute()).items())[: args.sets])
    complaints: list[str] = []
    for title, (channel, fields) in real.items():
        for kind, spoil in {**HARMLESS, **HARMFUL}.items():
            if args.kinds not in kind or not applies(kind, channel, fields):
                continue
            pairs = spoiled(kind, channel, fields, spoil, args.seed)
            verdict = verdict_on(pairs)
            found[kind, title] = verdict.level
            if (verdict.level == "use") != (kind in HARMLESS):
                complaints.append(f"{title}, {kind}: {verdict.level}. {' '.join(verdict.reasons)}")
            if args.why:
                print(title, "|", kind, "|", verdict.level, "|", verdict.reasons[0], flush=True)
    title, (channel, fields) = next(iter(real.items()))
    for kind in ("untouched", "gain 0.5 and 1.5 in turn", "one field black"):
        if (kind, title) in found:
            pairs = spoiled(kind, channel, fields, {**HARMLESS, **HARMFUL}[kind], args.seed)
            level = by_command_line(pairs, args.output / kind.replace(" ", "_"))
            if level != found[kind, title]:
                complaints.append(f"{title}, {kind}: evaluate.py says {level}")
    rows = [
        f"| {'harmless' if kind in HARMLESS else 'harmful'} | {kind.split(': ')[-1]} | "
        + " | ".join(found.get((kind, title), "") for title in real) + " |"
        for kind in {**HARMLESS, **HARMFUL} if any((kind, title) in found for title in real)
    ]  # fmt: skip
    table = "\n".join(
        [f"| | prediction | {' | '.join(real)} |", "|" + " --- |" * (len(real) + 2), *rows]
    )
    print(table)
    if args.write:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        args.write.write_text("\n".join([before + START, table, END + after]), encoding="utf-8")
    for complaint in complaints:
        print(complaint)
    right = 1 - len(complaints) / max(len(found), 1)
    print(f"{len(found)} verdicts in {time.monotonic() - started:.0f} s")
    print(f"RATIO verdicts_right {right:.3f}")
    if args.check and complaints:
        sys.exit(f"error: the verdict was wrong {len(complaints)} times")


if __name__ == "__main__":
    main()
