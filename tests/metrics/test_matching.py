"""Matching of objects against brute force, hand-computed cases and invariants."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from skimage.measure import perimeter

from vfn.metrics.matching import THRESHOLDS, list_faults, match, touches_border

LABELS = hnp.arrays(np.int32, (6, 7), elements=st.integers(0, 4))


def squares(*boxes, shape=(40, 60)):
    """Labels 1, 2, ... of boxes (top, left, height, width)."""
    labels = np.zeros(shape, np.int32)
    for number, (top, left, height, width) in enumerate(boxes, 1):
        labels[top : top + height, left : left + width] = number
    return labels


def iou_matrix(truth, prediction):
    """IoU of every real with every predicted object, mask by mask."""
    real = [truth == n for n in np.unique(truth[truth > 0])]
    predicted = [prediction == n for n in np.unique(prediction[prediction > 0])]
    table = [[(a & b).sum() / (a | b).sum() for b in predicted] for a in real]
    return np.array(table).reshape(len(real), len(predicted))


def faults(truth, prediction):
    image = np.zeros(truth.shape, np.uint8)
    found = list_faults(match(truth, prediction), image, image)
    return [(fault.kind, fault.label) for fault in found]


@given(LABELS, LABELS)
def test_as_many_pairs_as_an_optimal_assignment(truth, prediction):
    table = iou_matrix(truth, prediction)
    for score in match(truth, prediction).scores:
        allowed = table >= score.threshold
        tp = int(allowed[linear_sum_assignment(allowed, maximize=True)].sum())
        assert (score.tp, score.fp, score.fn) == (tp, table.shape[1] - tp, table.shape[0] - tp)


@given(LABELS, LABELS)
def test_pairs_are_one_to_one_and_their_iou_is_right(truth, prediction):
    matching = match(truth, prediction)
    for side in matching.pairs.T:
        assert len(set(side.tolist())) == len(side)
    real, predicted = matching.truth.numbers, matching.prediction.numbers
    for (t, p), iou in zip(matching.pairs, matching.ious, strict=True):
        a, b = truth == real[t], prediction == predicted[p]
        assert iou == (a & b).sum() / (a | b).sum()


@given(LABELS)
def test_identical_labels_are_perfect(labels):
    matching = match(labels, labels)
    assert faults(labels, labels) == []
    if labels.any():
        assert {(s.f1, s.ap) for s in matching.scores} == {(1.0, 1.0)}
        assert (matching.mean_iou, matching.mean_ap, matching.count_error) == (1.0, 1.0, 0.0)


@given(LABELS, LABELS, st.permutations(range(1, 5)))
def test_numbers_of_labels_are_but_names(truth, prediction, order):
    renamed = np.array([0, *(1000 * n for n in order)], np.uint16)[prediction]
    first, second = match(truth, prediction), match(truth, renamed)
    assert first.scores == second.scores
    assert first.mean_iou == pytest.approx(second.mean_iou, nan_ok=True)


@given(LABELS, LABELS)
def test_a_swap_exchanges_what_is_missed_and_what_is_invented(truth, prediction):
    for forth, back in zip(
        match(truth, prediction).scores, match(prediction, truth).scores, strict=True
    ):
        assert (forth.tp, forth.fp, forth.fn) == (back.tp, back.fn, back.fp)
        assert forth.ap == pytest.approx(back.ap, nan_ok=True)
    kinds = {"missed": "hallucinated", "hallucinated": "missed"}
    forth = {(kinds[k], n) for k, n in faults(truth, prediction) if k in kinds}
    assert forth == {(k, n) for k, n in faults(prediction, truth) if k in kinds}


def test_by_hand():
    # Object 1 is hit exactly, 2 by an IoU of 60 / 100, 3 by none; one is invented.
    truth = squares((0, 0, 10, 10), (0, 20, 10, 10), (20, 0, 10, 10))
    prediction = squares((0, 0, 10, 10), (0, 20, 10, 6), (20, 40, 10, 10))
    matching = match(truth, prediction)
    assert matching.pairs.tolist() == [[0, 0], [1, 1]]
    assert matching.ious.tolist() == [1.0, 0.6]
    at = {score.threshold: score for score in matching.scores}
    assert [(at[t].tp, at[t].fp, at[t].fn) for t in (0.5, 0.6, 0.65)] == [
        (2, 1, 1),
        (2, 1, 1),
        (1, 2, 2),
    ]
    assert at[0.5].f1 == pytest.approx(4 / 6)
    assert at[0.5].ap == pytest.approx(2 / 4)
    assert at[0.9].ap == pytest.approx(1 / 5)
    assert matching.mean_ap == pytest.approx((3 * 2 / 4 + 6 * 1 / 5) / 9)
    assert matching.mean_iou == pytest.approx(0.8)
    assert matching.count_error == 0
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def test_two_halves_tie_and_the_lower_number_wins():
    truth, halves = squares((0, 0, 10, 10)), squares((0, 5, 10, 5), (0, 0, 10, 5))
    assert match(truth, halves).pairs.tolist() == [[0, 0]]
    assert match(halves, truth).pairs.tolist() == [[0, 0]]


@pytest.mark.parametrize("radius", [8, 15, 40])
@pytest.mark.parametrize("grown", [-2, -1, 0, 1, 3])
def test_outlines_lie_as_far_out_as_they_were_drawn(radius, grown):
    rows, columns = np.ogrid[:100, :100]
    distance = np.hypot(rows - 50, columns - 49.5)
    truth = (7 * (distance <= radius)).astype(np.int32)
    drawn = (distance <= radius + grown).astype(np.int32)
    shift = match(truth, drawn).outline_shift
    ring = grown + grown**2 / (2 * radius)  # area over perimeter
    assert shift == pytest.approx(ring, rel=0.06, abs=0.12)


def test_perimeters_equal_those_of_scikit_image():
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:120, :120]
    for _ in range(5):
        long, short, angle = rng.uniform(20, 30), rng.uniform(12, 20), rng.uniform(0, np.pi)
        y, x = rows - 60, columns - 60
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        ellipse = ((u / long) ** 2 + (v / short) ** 2 < 1).astype(np.int32)
        wider = ellipse.copy()
        wider[:, 80:] = 0
        grown = int(wider.sum()) - int(ellipse.sum())
        shift = match(ellipse, wider).outline_shift
        assert shift == pytest.approx(grown / perimeter(ellipse), rel=0.06)


def test_the_median_object_says_where_outlines_lie():
    truth = squares((2, 2, 10, 10), (2, 20, 10, 10), (20, 2, 10, 10))
    drawn = squares((1, 1, 12, 12), (2, 20, 10, 10), (20, 2, 8, 10))
    assert match(truth, drawn).outline_shift == 0
    assert math.isnan(match(truth, np.zeros_like(truth)).outline_shift)
    # A square of 10 px has 40 edges; touching neighbours count for both.
    both = squares((2, 2, 10, 10), (2, 12, 10, 10))
    grown = squares((1, 2, 11, 10), (1, 12, 11, 10))
    assert match(both, grown).outline_shift == pytest.approx(10 / (40 * math.pi / 4))


def test_count_error_has_a_sign():
    one, two = squares((0, 0, 5, 5)), squares((0, 0, 5, 5), (20, 20, 5, 5))
    assert match(two, one).count_error == -0.5
    assert match(one, two).count_error == 1.0


def test_nothing_at_all():
    nothing, one = np.zeros((5, 5), np.int32), squares((0, 0, 3, 3), shape=(5, 5))
    empty = match(nothing, nothing)
    assert all(math.isnan(score.f1) and math.isnan(score.ap) for score in empty.scores)
    assert math.isnan(empty.count_error)
    assert math.isnan(empty.mean_iou)
    assert match(one, nothing).scores[0].f1 == 0
    assert match(one, nothing).count_error == -1
    assert math.isnan(match(nothing, one).count_error)


def test_every_kind_of_fault_is_told_from_the_others():
    truth = squares(
        (0, 0, 10, 10),  # 1 in order
        (0, 20, 10, 10),  # 2 missed
        (20, 0, 10, 20),  # 3 split
        (20, 25, 10, 10),  # 4 and 5 merged
        (20, 35, 10, 8),
        (0, 40, 10, 10),  # 6 there, but badly drawn
    )
    prediction = squares(
        (0, 0, 10, 10),
        (20, 0, 10, 10),
        (20, 10, 10, 10),
        (20, 25, 10, 18),
        (4, 45, 10, 10),
        (30, 45, 8, 8),  # 6 hallucinated
        (0, 29, 10, 8),  # 7 overlaps object 2 in a corner: still invented, and 2 still missed
    )
    image = np.arange(truth.size, dtype=np.uint16).reshape(truth.shape)
    found = list_faults(match(truth, prediction), image, 2 * image)
    assert [(fault.kind, fault.label) for fault in found] == [
        ("missed", 2),
        ("hallucinated", 7),
        ("hallucinated", 6),
        ("split", 3),
        ("merged", 4),
        ("misoutlined", 6),
    ]
    missed, _, invented = found[:3]
    assert (missed.row, missed.column, missed.area) == (4.5, 24.5, 100)
    assert missed.touches_border
    assert (invented.row, invented.column, invented.area) == (33.5, 48.5, 64)
    assert not invented.touches_border
    assert invented.truth == pytest.approx(image[prediction == 6].mean())
    assert invented.prediction == pytest.approx(2 * invented.truth)


def test_a_small_shift_is_no_hallucination():
    truth = squares((5, 5, 10, 10), (5, 30, 10, 10))
    shifted = np.roll(truth, (2, 2), (0, 1))
    assert faults(truth, shifted) == [("misoutlined", 1), ("misoutlined", 2)]
    assert faults(truth, np.roll(truth, 1, 0)) == []


def test_a_crumb_within_a_matched_object_splits_it():
    truth = squares((5, 5, 10, 10))
    assert faults(truth, squares((5, 5, 10, 8), (5, 13, 10, 2))) == [("split", 1)]
    assert faults(squares((5, 5, 10, 8), (5, 13, 10, 2)), truth) == [("merged", 1)]


def test_border():
    labels = squares((0, 5, 3, 3), (5, 57, 3, 3), (10, 10, 3, 3), (37, 20, 3, 3))
    assert touches_border(labels).tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (np.zeros((3, 4), np.float32), "integer"),
        (np.zeros((4, 3), np.int32), "one shape"),
        (np.full((3, 4), -1), "hold -1"),
    ],
)
def test_what_is_no_label_image_is_refused(prediction, words):
    with pytest.raises(ValueError, match=words):
        match(np.zeros((3, 4), np.int32), prediction)
