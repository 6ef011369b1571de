"""Segmentation of drawn nuclei, and planted faults that must be found at their place."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from vfn.metrics.agreement import agree
from vfn.metrics.matching import match
from vfn.metrics.objects import (
    COLUMNS,
    Scale,
    is_nuclear,
    measure_scale,
    score_objects,
    segment_cells,
    segment_nuclei,
)

GROUND = 200.0


def agreement(scores):
    return agree(scores.truth_intensity, scores.prediction_intensity)


# (row, column, short radius, long radius, angle, brightness)
NUCLEI = [
    (30, 30, 8, 10, 0.3, 900),
    (30, 80, 9, 11, 1.2, 500),
    (34, 130, 8, 9, 0.0, 1500),
    (80, 40, 9, 9, 0.0, 700),
    (86, 95, 8, 12, 2.0, 1000),
    (84, 150, 10, 11, 0.5, 350),
    (135, 30, 8, 11, 0.9, 800),
    (140, 85, 9, 10, 1.7, 1200),
    (138, 140, 8, 10, 2.6, 600),
]


def disks(nuclei, shape=(170, 190)):
    labels = np.zeros(shape, np.int32)
    rows, columns = np.indices(shape)
    for number, (r, c, short, long, angle, _) in enumerate(nuclei, 1):
        y, x = rows - r, columns - c
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        labels[(along / long) ** 2 + (across / short) ** 2 <= 1] = number
    return labels


def draw(nuclei=NUCLEI, shape=(170, 190), noise=8.0, ground=GROUND):
    labels = disks(nuclei, shape)
    level = np.array([0.0, *(n[-1] for n in nuclei)])
    image = gaussian_filter(level[labels], 1.0) + ground
    image += np.random.default_rng(0).normal(0, noise, shape)
    return image.clip(0).astype(np.uint16), labels


def mean_iou(image, labels, **kwargs):
    matching = match(labels, segment_nuclei(image, **kwargs))
    assert (matching.scores[0].fp, matching.scores[0].fn) == (0, 0)
    return matching.mean_iou


def test_nuclei_of_any_brightness_are_outlined():
    image, labels = draw()
    assert mean_iou(image, labels) > 0.93
    assert segment_nuclei(image).dtype == np.int32


def test_an_uneven_ground_does_no_harm():
    image, labels = draw()
    slope = np.linspace(0, 600, image.shape[1]).astype(np.uint16)  # brighter than some nuclei
    assert mean_iou(image + slope, labels) > 0.9


def test_touching_nuclei_are_parted_and_large_ones_are_not():
    pair = [(80, 60, 10, 10, 0, 800), (80, 79, 10, 10, 0, 700)]
    large = [(40, 140, 19, 24, 0.4, 600)]
    image, labels = draw([*pair, *large, (130, 50, 9, 11, 0, 800), (130, 130, 10, 10, 0, 500)])
    assert mean_iou(image, labels) > 0.9


def test_a_furrow_parts_what_has_no_neck():
    image, _ = draw(NUCLEI[:6], noise=4)
    block = np.zeros(image.shape)
    block[120:138, 60:97] = 800
    block[120:138, 77:80] = 350  # still above the threshold
    image = image + gaussian_filter(block, 1).astype(np.uint16)
    labels = segment_nuclei(image)
    assert labels.max() == 8
    assert labels[129, 68] != labels[129, 88]


def test_a_giant_is_one_and_does_not_hide_the_others():
    image, labels = draw([*NUCLEI[:3], (105, 60, 28, 34, 0.4, 600), *NUCLEI[5:6]])
    assert mean_iou(image, labels) > 0.93


def test_nuclei_at_the_border_are_kept():
    image, labels = draw([*NUCLEI, (84, 0, 9, 9, 0, 800)])
    assert mean_iou(image, labels) > 0.92


def test_holes_are_filled_and_specks_left_out():
    image, labels = draw()
    image[133:137, 28:32] = GROUND  # a nucleolus
    image[60:63, 60:63] = 1500  # debris
    assert segment_nuclei(image)[135, 30] > 0
    assert mean_iou(image, labels) > 0.92


def test_stain_in_the_cell_body_is_no_nucleus():
    nuclei, labels = draw()
    bodies = [(r, c, 2 * a, 2.4 * b, angle, 0.2 * v) for r, c, a, b, angle, v in NUCLEI]
    haze, _ = draw(bodies, noise=0, ground=0)
    assert mean_iou(nuclei + gaussian_filter(haze, 4), labels) > 0.93


def test_scale_follows_the_specimen():
    image, _ = draw()
    scale = measure_scale(image)
    assert scale is not None
    assert scale.diameter == pytest.approx(17.5, rel=0.15)
    assert scale.contrast == pytest.approx(700, rel=0.2)
    doubled = measure_scale(np.kron(image, np.ones((2, 2), np.uint16)))
    assert doubled is not None
    assert doubled.diameter == pytest.approx(2 * scale.diameter, rel=0.1)


def test_the_pixel_size_keeps_the_diameter_within_reason():
    image, _ = draw()
    scale = measure_scale(image, pixel_size=0.1)  # the estimate would be 1.8 um
    assert scale is not None
    assert scale.diameter == pytest.approx(40)
    assert measure_scale(image, pixel_size=0.65) == measure_scale(image)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.2, 20), st.floats(-150, 3000))
def test_neither_gain_nor_offset_moves_an_outline(gain, offset):
    image, _ = draw()
    image = image.astype(np.float32)
    expected = segment_nuclei(image)
    assert match(expected, segment_nuclei(gain * image + offset)).mean_iou > 0.98


@pytest.mark.parametrize("kind", ["noise", "constant", "slope", "poisson", "tiny"])
def test_a_field_without_nuclei_has_none(kind):
    rng = np.random.default_rng(1)
    shape = (200, 220)
    image = {
        "noise": rng.normal(500, 30, shape),
        "constant": np.full(shape, 300.0),
        "slope": np.add.outer(np.linspace(0, 400, 200), np.linspace(0, 300, 220))
        + rng.normal(500, 10, shape),
        "poisson": rng.poisson(3, shape).astype(float),
        "tiny": np.array([[7.0]]),
    }[kind]
    assert measure_scale(image) is None
    assert not segment_nuclei(image).any()


def test_what_is_faint_beside_the_real_nuclei_is_no_nucleus():
    ghosts, _ = draw([(r, c, a, b, angle, 40) for r, c, a, b, angle, _ in NUCLEI], noise=1)
    assert segment_nuclei(ghosts).max() == len(NUCLEI)
    assert not segment_nuclei(ghosts, Scale(17.0, 600.0), floor=60.0).any()
    truth, _ = draw()
    scores = score_objects(truth, ghosts)
    assert (scores.values["nuclei_predicted"], scores.values["missed"]) == (0, len(NUCLEI))


def test_identical_images_agree():
    image, _ = draw()
    scores = score_objects(image, image)
    assert set(scores.values) == set(COLUMNS)
    assert {scores.values[f"{name}_{t}"] for name in ("f1", "ap") for t in (50, 75, 90)} == {1.0}
    assert (scores.found, scores.note) == ((), "")
    assert agreement(scores).slope == pytest.approx(1)
    assert agreement(scores).bias == 0


def test_an_erased_nucleus_is_missed_at_its_place():
    truth, _ = draw()
    prediction, _ = draw(NUCLEI[:4] + NUCLEI[5:])
    (fault,) = score_objects(truth, prediction).found
    assert (fault.kind, round(fault.row), round(fault.column)) == ("missed", 86, 95)
    assert fault.truth > 2 * fault.prediction
    assert not fault.touches_border


def test_a_pasted_nucleus_is_hallucinated_at_its_place():
    truth, _ = draw()
    prediction, _ = draw([*NUCLEI, (60, 65, 8, 9, 0.2, 700)])
    scores = score_objects(truth, prediction)
    (fault,) = scores.found
    assert (fault.kind, round(fault.row), round(fault.column)) == ("hallucinated", 60, 65)
    assert fault.prediction > 2 * fault.truth
    assert scores.values["hallucinated"] == 1
    assert scores.values["count_error"] == pytest.approx(1 / 9)


def test_a_shift_names_nobody_but_lowers_ap():
    truth, _ = draw()
    scores = score_objects(truth, np.roll(truth, (2, 2), (0, 1)))
    assert (scores.values["missed"], scores.values["hallucinated"]) == (0, 0)
    assert scores.values["f1_50"] == 1
    assert scores.values["mean_ap"] < 0.8


def test_a_wrong_gain_loses_no_nucleus_but_shows_in_the_amounts():
    truth, _ = draw()
    scores = score_objects(truth, (1.3 * truth).astype(np.uint16))
    assert scores.values["f1_90"] == 1
    assert agreement(scores).slope == pytest.approx(1.3, abs=0.1)
    assert agreement(scores).percent(agreement(scores).bias) > 25


def test_blur_lowers_the_matched_iou():
    truth, _ = draw()
    ious = [
        score_objects(truth, gaussian_filter(truth, sigma)).values["matched_iou"]
        for sigma in (0.7, 2, 4)
    ]
    assert ious == sorted(ious, reverse=True)
    assert ious[-1] < 0.9


def test_amounts_are_those_over_the_real_objects():
    truth, labels = draw(noise=0)
    prediction = np.roll(truth, 3, 1)
    scores = score_objects(truth, prediction, labels=(labels, labels))
    expected = [truth[labels == n].sum() - GROUND * (labels == n).sum() for n in range(1, 10)]
    assert scores.truth_intensity == pytest.approx(expected, rel=0.02)
    assert (scores.prediction_intensity < scores.truth_intensity).all()


def test_labels_of_another_program_are_taken_as_they_are():
    truth, labels = draw()
    numbers = (labels * 11).astype(np.uint16)
    mine = np.where(labels == 2, 0, labels)
    scores = score_objects(truth, truth, labels=(numbers, mine))
    assert scores.truth_labels is numbers
    assert [(f.kind, f.label) for f in scores.found] == [("missed", 22)]
    assert len(scores.truth_intensity) == 9


def test_a_truth_without_nuclei_is_said():
    nuclei, _ = draw()
    empty, _ = draw([])
    scores = score_objects(empty, nuclei)
    assert scores.values["hallucinated"] == len(NUCLEI)
    assert math.isnan(scores.values["f1_50"])
    assert math.isnan(scores.values["mean_ap"])
    assert "no nuclei in the ground truth" in scores.note
    assert "0 objects" in agreement(scores).reason
    # What is faint on the channel's signal range is none.
    assert score_objects(empty, nuclei, signal_width=20000).values["hallucinated"] == 0


def test_a_prediction_that_is_empty_or_broken_is_said():
    truth, _ = draw()
    empty = score_objects(truth, np.full_like(truth, 200))
    assert (empty.values["f1_50"], empty.values["count_error"]) == (0, -1)
    assert "no nucleus is matched" in empty.note
    broken = truth.astype(np.float32)
    broken[3, 4] = np.nan
    scores = score_objects(truth, broken)
    assert all(math.isnan(value) for value in scores.values.values())
    assert "1 pixels that are NaN" in scores.note
    assert "NaN" in agreement(scores).reason


def test_cells_grow_from_their_nuclei_and_keep_their_numbers():
    nuclei = disks([(40, 40, 6, 6, 0, 0), (40, 90, 6, 6, 0, 0)], (80, 140))
    body = disks([(40, 40, 20, 20, 0, 0), (40, 90, 20, 24, 0, 0)], (80, 140))
    image = gaussian_filter(np.array([0.0, 500, 800])[body], 1) + 100
    cells = segment_cells(nuclei, image.astype(np.uint16), max_distance=40)
    assert (cells[nuclei > 0] == nuclei[nuclei > 0]).all()
    matching = match(body, cells)
    assert sorted(matching.pairs.tolist()) == [[0, 0], [1, 1]]
    assert matching.mean_iou > 0.85


def test_the_thin_edge_of_a_cell_belongs_to_it():
    nuclei = disks([(40, 40, 6, 6, 0, 0)], (80, 80))
    thin = disks([(40, 40, 24, 24, 0, 0)], (80, 80)) > 0
    thick = disks([(40, 40, 14, 14, 0, 0)], (80, 80)) > 0
    body = gaussian_filter(100.0 + 150 * thin + 1000 * thick, 1)
    cells = segment_cells(nuclei, body, max_distance=40)
    assert match(thin.astype(np.int32), cells).mean_iou > 0.9


def test_touching_cells_are_parted_at_the_dim_line_between_them():
    nuclei = disks([(40, 40, 6, 6, 0, 0), (40, 70, 6, 6, 0, 0)], (80, 110))
    image = np.full((80, 110), 100.0)
    image[20:60, 20:90] = 800
    image[:, 64] = 500  # nearer to the second nucleus
    cells = segment_cells(nuclei, image, max_distance=40)
    assert (cells[22:58, 45:62] == 1).all()
    assert (cells[22:58, 68:88] == 2).all()


def test_cells_reach_no_further_than_told():
    nuclei = disks([(40, 40, 6, 6, 0, 0)], (80, 80))
    body = np.full((80, 80), 7, np.uint8)  # shows nothing
    cells = segment_cells(nuclei, body, max_distance=5)
    rows, columns = np.nonzero(cells)
    assert (np.hypot(rows - 40, columns - 40).max()) == pytest.approx(11, abs=0.5)
    assert (segment_cells(nuclei, body) > 0).sum() > (cells > 0).sum()
    assert not segment_cells(np.zeros_like(nuclei), body).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 99), st.sampled_from(["u1", "f4"]))
def test_no_image_is_too_small(height, width, seed, dtype):
    image = np.random.default_rng(seed).integers(0, 255, (height, width)).astype(dtype)
    image[: height // 2, : width // 2] //= 8
    scores = score_objects(image, image)
    assert scores.found == ()
    assert scores.truth_labels.shape == image.shape
    if scores.values["nuclei_truth"]:
        assert scores.values["ap_90"] == 1


@pytest.mark.parametrize(
    ("name", "nuclear"),
    [
        ("dna", True),
        ("Hoechst 33342", True),
        ("w1_DAPI", True),
        ("H2B-GFP", True),
        ("cell nuclei", True),
        ("er", False),
        ("rna", False),
        ("ednaphone", False),
        ("golgi_actin", False),
    ],
)
def test_names_of_nuclear_channels(name, nuclear):
    assert is_nuclear(name) is nuclear
