"""Real objects against predicted ones: which are found, which missed, which hallucinated.

Everything takes label images (H, W) of any integer dtype, 0 for the ground, whatever program drew
them. The cost is one pass over the pixels: overlaps are counted pair by pair, never as a matrix.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]
Kind = Literal["missed", "hallucinated", "split", "merged", "misoutlined"]
KINDS: tuple[Kind, ...] = get_args(Kind)

THRESHOLDS = tuple(percent / 100 for percent in range(50, 91, 5))
# An object of which less than this share lies on objects of the other image is not there at all.
ABSENT = 0.2


class Score(NamedTuple):
    """Counts at one IoU threshold: matched objects, predicted and real ones without a match."""

    threshold: float
    tp: int
    fp: int
    fn: int

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), 0 to 1; NaN where there are no objects at all."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def ap(self) -> float:
        """TP / (TP + FP + FN), 0 to 1: what StarDist and the Data Science Bowl 2018 call average
        precision. NaN where there are no objects at all."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)


class Objects(NamedTuple):
    """The n objects of a label image (H, W): their numbers (n,), ascending, and areas (n,)."""

    labels: Labels
    numbers: NDArray[np.int64]
    areas: NDArray[np.int64]


@dataclass(frozen=True)
class Matching:
    """Objects of two label images and the one-to-one pairs of them, best first.

    Attributes:
        truth: the real objects.
        prediction: the predicted objects.
        t, p, pixels: (l,) each, the overlaps: indices of a real and a predicted object, and their
            common pixels.
        pairs: (k, 2), indices of the real and the predicted object of every pair of IoU >= 0.5.
        ious: (k,), their intersection over union.
    """

    truth: Objects
    prediction: Objects
    t: NDArray[np.int64]
    p: NDArray[np.int64]
    pixels: NDArray[np.int64]
    pairs: NDArray[np.int64]
    ious: NDArray[np.float64]

    @property
    def scores(self) -> list[Score]:
        """Scores at each of `THRESHOLDS`."""
        real, predicted = len(self.truth.numbers), len(self.prediction.numbers)
        matched = [(at, int((self.ious >= at).sum())) for at in THRESHOLDS]
        return [Score(at, tp, predicted - tp, real - tp) for at, tp in matched]

    @property
    def count_error(self) -> float:
        """(predicted - real objects) / real objects; NaN where there is no real one."""
        real = len(self.truth.numbers)
        return _ratio(len(self.prediction.numbers) - real, real)

    @property
    def mean_ap(self) -> float:
        """Mean of AP over `THRESHOLDS`."""
        return float(np.mean([score.ap for score in self.scores]))

    @property
    def outline_shift(self) -> float:
        """Distance of predicted outlines outside of the real ones, px; below 0 inside, NaN without pairs.

        Median over the pairs of (predicted - real area) / real perimeter, which is 1 where everything grows by
        1 px, whatever the size of the objects. The perimeter is pi / 4 of the pixel edges that border another label:
        exact for a circle, as for any outline that has all directions alike (Cauchy-Crofton).
        """
        if not len(self.pairs):
            return math.nan
        real, predicted = self.pairs.T
        perimeter = math.pi / 4 * _edges(self.truth)[real]
        grown = self.prediction.areas[predicted] - self.truth.areas[real]
        return float(np.median(grown / perimeter))

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the pairs (segmentation quality of Kirillov et al. 2019); NaN without any."""
        return float(self.ious.mean()) if len(self.ious) else math.nan


@dataclass(frozen=True)
class Found:
    """One object that is not as it should be, and its place.

    Attributes:
        kind: `missed`, real object that is not in the prediction; `hallucinated`, predicted object
            that is not real; `split`, real object of which the prediction made several; `merged`,
            predicted object made of several real ones; `misoutlined`, real object that is there but
            overlaps its prediction by less than IoU 0.5.
        label: its number, in the truth's labels for missed, split and misoutlined objects.
        row: of its centre, pixels.
        column: of its centre, pixels.
        area: pixels.
        truth: mean grey value of the real stain over it.
        prediction: mean grey value of the predicted stain over it.
        touches_border: whether a part of it may lie outside of the field.
    """

    kind: Kind
    label: int
    row: float
    column: float
    area: int
    truth: float
    prediction: float
    touches_border: bool


def match(truth: Labels, prediction: Labels) -> Matching:
    """Pair the objects of two label images (H, W), one to one, by intersection over union.

    Above IoU 0.5 no object has more than one partner. At exactly 0.5 an object may consist of two
    partners, both wholly within it; the one of the lower number is taken.

    Raises:
        ValueError: other than two integer images of one shape without negative numbers.
    """
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "iu" or labels.ndim != 2 or labels.shape != truth.shape:
            raise ValueError(
                f"labels of the {name} are {labels.dtype} {labels.shape}: two integer images (H, W) "
                "of one shape are needed"
            )
        if labels.size and labels.min() < 0:
            raise ValueError(f"labels of the {name} hold {labels.min()}: 0 and above are labels")
    real, predicted = _objects(truth), _objects(prediction)
    both = (truth > 0) & (prediction > 0)
    columns = max(len(predicted.numbers), 1)
    t = np.searchsorted(real.numbers, truth[both])
    p = np.searchsorted(predicted.numbers, prediction[both])
    keys, pixels = np.unique(t * columns + p, return_counts=True)
    t, p = np.divmod(keys, columns)
    ious = pixels / (real.areas[t] + predicted.areas[p] - pixels)
    order = np.lexsort((p, t, -ious))
    order = order[ious[order] >= THRESHOLDS[0]]
    # Partners that compete for one object overlap nothing else, so this leaves as many as can be.
    for side in (t, p):
        order = order[np.sort(np.unique(side[order], return_index=True)[1])]
    pairs = np.stack([t[order], p[order]], axis=1)
    return Matching(real, predicted, t, p, pixels, pairs, ious[order])


def _objects(labels: Labels) -> Objects:
    numbers, areas = np.unique(labels[labels > 0], return_counts=True)
    return Objects(labels, numbers.astype(np.int64), areas)


def list_faults(
    matching: Matching, truth: NDArray[Any], prediction: NDArray[Any]
) -> tuple[Found, ...]:
    """Name the objects that went wrong, with their place: by kind, the largest first.

    An object without a match is missed or hallucinated only if less than `ABSENT` of its area lies
    on objects of the other image; one that is there but shifted or badly drawn is not. A real
    object is split if at least two predicted ones lie in it by at least half of their own area,
    and a predicted one merged likewise.

    Args:
        matching: of the two label images.
        truth: the real stain (H, W).
        prediction: the predicted stain (H, W).
    """
    sides = zip((matching.truth, matching.prediction), _kinds(matching), strict=True)
    found = [f for side, kinds in sides for f in _describe(side, kinds, truth, prediction)]
    return tuple(sorted(found, key=lambda f: (KINDS.index(f.kind), -f.area, f.label)))


def touches_border(labels: Labels) -> NDArray[np.int64]:
    """Numbers of the objects that have a pixel at the border of the image, ascending."""
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    numbers = np.unique(np.concatenate(edges)).astype(np.int64)
    return numbers[numbers > 0]


def _kinds(m: Matching) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Kind of each real and of each predicted object; "" for those in order."""
    real, predicted = len(m.truth.numbers), len(m.prediction.numbers)
    covered = np.bincount(m.t, m.pixels, minlength=real) / m.truth.areas
    backed = np.bincount(m.p, m.pixels, minlength=predicted) / m.prediction.areas
    within = 2 * m.pixels >= m.prediction.areas[m.p]
    split = np.bincount(m.t[within], minlength=real) >= 2
    holding = 2 * m.pixels >= m.truth.areas[m.t]
    merged = np.bincount(m.p[holding], minlength=predicted) >= 2
    swallowed = np.isin(np.arange(real), m.t[holding & merged[m.p]])
    lone_t = ~np.isin(np.arange(real), m.pairs[:, 0])
    lone_p = ~np.isin(np.arange(predicted), m.pairs[:, 1])
    return (
        np.select(
            [lone_t & (covered < ABSENT), split, lone_t & ~swallowed],
            ["missed", "split", "misoutlined"],
            "",
        ),
        np.select([lone_p & (backed < ABSENT), merged], ["hallucinated", "merged"], ""),
    )


def _describe(
    objects: Objects, kinds: NDArray[np.str_], truth: NDArray[Any], prediction: NDArray[Any]
) -> Iterator[Found]:
    labels, numbers, areas = objects
    rows, columns = np.nonzero(labels)
    index = np.searchsorted(numbers, labels[rows, columns])
    means = [
        np.bincount(index, values, minlength=len(numbers)) / areas
        for values in (rows, columns, truth[rows, columns], prediction[rows, columns])
    ]
    at_border = np.isin(numbers, touches_border(labels))
    for i in np.flatnonzero(kinds):
        row, column, real, predicted = (float(mean[i]) for mean in means)
        kind: Kind = kinds[i].item()
        yield Found(
            kind, int(numbers[i]), row, column, int(areas[i]), real, predicted, bool(at_border[i])
        )


def _edges(objects: Objects) -> NDArray[np.int64]:
    """Count the pixel edges at which each object ends, (n,)."""
    padded = np.pad(objects.labels, 1)
    count = np.zeros(len(objects.numbers), np.int64)
    for a, b in ((padded[1:], padded[:-1]), (padded[:, 1:], padded[:, :-1])):
        ends = a != b
        for side in (a[ends], b[ends]):
            inside = np.searchsorted(objects.numbers, side[side > 0])
            count += np.bincount(inside, minlength=len(count))
    return count


def _ratio(over: float, under: float) -> float:
    return over / under if under else math.nan
