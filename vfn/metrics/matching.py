"""Real objects against predicted ones: which are found, which missed, which hallucinated.

Everything takes label images (H, W) of any integer dtype, 0 for the ground, whatever program drew
them. The cost is one pass over the pixels: overlaps are counted pair by pair, never as a matrix.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]
Kind = Literal["missed", "hallucinated", "split", "merged", "misoutlined"]

THRESHOLDS = tuple(percent / 100 for percent in range(50, 91, 5))
# An object of which less than this share lies on objects of the other image is not there at all.
ABSENT = 0.2


@dataclass(frozen=True)
class Score:
    """Counts at one IoU threshold.

    Attributes:
        threshold: the IoU that makes a match.
        tp: matched objects.
        fp: predicted objects without a match.
        fn: real objects without a match.
    """

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


@dataclass(frozen=True)
class Matching:
    """Objects of two label images and the one-to-one pairs of them, best first.

    Attributes:
        truth: numbers of the n real objects, ascending.
        prediction: numbers of the m predicted objects, ascending.
        pairs: (k, 2), numbers of the real and the predicted object of every pair of IoU >= 0.5.
        ious: (k,), their intersection over union.
        scores: one for each of `THRESHOLDS`.
    """

    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    pairs: NDArray[np.int64]
    ious: NDArray[np.float64]
    scores: tuple[Score, ...]
    _overlaps: "_Overlaps" = field(repr=False)

    @property
    def count_error(self) -> float:
        """(predicted - real objects) / real objects; NaN where there is no real one."""
        return _ratio(len(self.prediction) - len(self.truth), len(self.truth))

    @property
    def mean_ap(self) -> float:
        """Mean of AP over `THRESHOLDS`."""
        return float(np.mean([score.ap for score in self.scores]))

    def outline_shift(self, truth_labels: Labels) -> float:
        """How far predicted outlines lie outside of the real ones, px; below 0 inside, NaN without pairs.

        Median over the pairs of (predicted - real area) / real perimeter, which is 1 where everything grows by
        1 px, whatever the size of the objects. The perimeter is pi / 4 of the pixel edges that border another label:
        exact for a circle, as for any outline that has all directions alike (Cauchy-Crofton).

        Args:
            truth_labels: (H, W), that were matched.
        """
        if not len(self.pairs):
            return math.nan
        o = self._overlaps
        real, predicted = (
            np.searchsorted(numbers, self.pairs[:, i])
            for i, numbers in enumerate((o.truth, o.prediction))
        )
        perimeter = math.pi / 4 * _edges(truth_labels, o.truth)[real]
        grown = o.prediction_area[predicted] - o.truth_area[real]
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


@dataclass(frozen=True)
class _Overlaps:
    """Areas of all objects, and every pair that overlaps, as indices into `truth`, `prediction`."""

    truth: NDArray[np.int64]
    truth_area: NDArray[np.int64]
    prediction: NDArray[np.int64]
    prediction_area: NDArray[np.int64]
    t: NDArray[np.int64]
    p: NDArray[np.int64]
    pixels: NDArray[np.int64]


def match(truth: Labels, prediction: Labels) -> Matching:
    """Pair the objects of two label images (H, W), one to one, by intersection over union.

    Above IoU 0.5 no object has more than one partner. At exactly 0.5 an object may consist of two
    partners, both wholly within it; the one of the lower number is taken.

    Raises:
        ValueError: other than two integer images of one shape without negative numbers.
    """
    overlaps = _overlaps(truth, prediction)
    o = overlaps
    ious = o.pixels / (o.truth_area[o.t] + o.prediction_area[o.p] - o.pixels)
    order = np.lexsort((o.p, o.t, -ious))
    order = order[ious[order] >= THRESHOLDS[0]]
    # Partners that compete for one object overlap nothing else, so this leaves as many as can be.
    for side in (o.t, o.p):
        order = order[np.sort(np.unique(side[order], return_index=True)[1])]
    pairs = np.stack([o.truth[o.t[order]], o.prediction[o.p[order]]], axis=1)
    scores = []
    for threshold in THRESHOLDS:
        tp = int((ious[order] >= threshold).sum())
        scores.append(Score(threshold, tp, len(o.prediction) - tp, len(o.truth) - tp))
    return Matching(o.truth, o.prediction, pairs, ious[order], tuple(scores), overlaps)


def list_faults(
    matching: Matching,
    truth_labels: Labels,
    prediction_labels: Labels,
    truth: NDArray[Any],
    prediction: NDArray[Any],
) -> tuple[Found, ...]:
    """Name the objects that went wrong, with their place: by kind, the largest first.

    An object without a match is missed or hallucinated only if less than `ABSENT` of its area lies
    on objects of the other image; one that is there but shifted or badly drawn is not. A real
    object is split if at least two predicted ones lie in it by at least half of their own area,
    and a predicted one merged likewise.

    Args:
        matching: of the two label images.
        truth_labels: (H, W).
        prediction_labels: (H, W).
        truth: the real stain (H, W).
        prediction: the predicted stain (H, W).
    """
    o = matching._overlaps
    kinds = _kinds(matching)
    found = [
        *_describe(kinds[0], o.truth, o.truth_area, truth_labels, truth, prediction),
        *_describe(kinds[1], o.prediction, o.prediction_area, prediction_labels, truth, prediction),
    ]
    order: tuple[Kind, ...] = ("missed", "hallucinated", "split", "merged", "misoutlined")
    return tuple(sorted(found, key=lambda f: (order.index(f.kind), -f.area, f.label)))


def touches_border(labels: Labels) -> NDArray[np.int64]:
    """Numbers of the objects that have a pixel at the border of the image, ascending."""
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    numbers = np.unique(np.concatenate(edges)).astype(np.int64)
    return numbers[numbers > 0]


def _kinds(matching: Matching) -> tuple[dict[int, Kind], dict[int, Kind]]:
    """Kind by index of the real and of the predicted objects; objects in order are left out."""
    o = matching._overlaps
    covered = np.bincount(o.t, o.pixels, minlength=len(o.truth)) / o.truth_area
    real = np.bincount(o.p, o.pixels, minlength=len(o.prediction)) / o.prediction_area
    inside_truth = np.bincount(o.t[2 * o.pixels >= o.prediction_area[o.p]], minlength=len(o.truth))
    in_merged = 2 * o.pixels >= o.truth_area[o.t]
    inside_prediction = np.bincount(o.p[in_merged], minlength=len(o.prediction))
    merged = inside_prediction >= 2
    swallowed = np.zeros(len(o.truth), bool)
    swallowed[o.t[in_merged & merged[o.p]]] = True
    lone_t = ~np.isin(o.truth, matching.pairs[:, 0])
    lone_p = ~np.isin(o.prediction, matching.pairs[:, 1])
    real_kinds: dict[int, Kind] = {}
    for i in range(len(o.truth)):
        if lone_t[i] and covered[i] < ABSENT:
            real_kinds[i] = "missed"
        elif inside_truth[i] >= 2:
            real_kinds[i] = "split"
        elif lone_t[i] and not swallowed[i]:
            real_kinds[i] = "misoutlined"
    predicted_kinds: dict[int, Kind] = {}
    for i in range(len(o.prediction)):
        if lone_p[i] and real[i] < ABSENT:
            predicted_kinds[i] = "hallucinated"
        elif merged[i]:
            predicted_kinds[i] = "merged"
    return real_kinds, predicted_kinds


def _describe(
    kinds: dict[int, Kind],
    numbers: NDArray[np.int64],
    areas: NDArray[np.int64],
    labels: Labels,
    truth: NDArray[Any],
    prediction: NDArray[Any],
) -> Iterator[Found]:
    if not kinds:
        return
    rows, columns = np.nonzero(labels)
    index = np.searchsorted(numbers, labels[rows, columns])
    size = len(numbers)
    row, column, real, predicted = (
        np.bincount(index, values, minlength=size) / areas
        for values in (rows, columns, truth[rows, columns], prediction[rows, columns])
    )
    at_border = np.isin(numbers, touches_border(labels))
    for i, kind in kinds.items():
        yield Found(
            kind,
            int(numbers[i]),
            float(row[i]),
            float(column[i]),
            int(areas[i]),
            float(real[i]),
            float(predicted[i]),
            bool(at_border[i]),
        )


def _overlaps(truth: Labels, prediction: Labels) -> _Overlaps:
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "iu" or labels.ndim != 2 or labels.shape != truth.shape:
            raise ValueError(
                f"labels of the {name} are {labels.dtype} {labels.shape}: two integer images (H, W) "
                "of one shape are needed"
            )
        if labels.size and labels.min() < 0:
            raise ValueError(f"labels of the {name} hold {labels.min()}: 0 and above are labels")
    t_numbers, t_area = np.unique(truth[truth > 0], return_counts=True)
    p_numbers, p_area = np.unique(prediction[prediction > 0], return_counts=True)
    both = (truth > 0) & (prediction > 0)
    t = np.searchsorted(t_numbers, truth[both])
    p = np.searchsorted(p_numbers, prediction[both])
    keys, pixels = np.unique(t * max(len(p_numbers), 1) + p, return_counts=True)
    t, p = np.divmod(keys, max(len(p_numbers), 1))
    return _Overlaps(
        t_numbers.astype(np.int64), t_area, p_numbers.astype(np.int64), p_area, t, p, pixels
    )


def _edges(labels: Labels, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the pixel edges at which each object ends, (n,) in the order of its numbers."""
    padded = np.pad(labels, 1)
    count = np.zeros(len(numbers) + 1, np.int64)
    for a, b in ((padded[1:], padded[:-1]), (padded[:, 1:], padded[:, :-1])):
        ends = a != b
        for side in (a[ends], b[ends]):
            inside = side[side > 0]
            count += np.bincount(np.searchsorted(numbers, inside), minlength=len(count))
    return count[:-1]


def _ratio(over: float, under: float) -> float:
    return over / under if under else math.nan
