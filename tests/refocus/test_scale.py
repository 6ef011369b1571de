"""The scale of focus on simulated defocus series, whose depths are known."""

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest

from vfn.data.simulated import Specimen
from vfn.errors import UserError
from vfn.refocus.measures import mean_spectrum, tile_spectra
from vfn.refocus.scale import FocusMap, FocusSample, FocusScale

SHAPE = (256, 256)
DEPTHS = (0, 3, 6, 9)


def series(channel: str, seeds: range, depths: tuple[float, ...] = DEPTHS) -> Iterator[FocusSample]:
    for seed in seeds:
        specimen = Specimen(seed, SHAPE)
        for z in depths:
            yield FocusSample(f"f{seed}", z, specimen.render(channel, z))


@pytest.fixture(scope="module")
def scale() -> FocusScale:
    return FocusScale.fit(series("actin", range(6)), 0.65)


def test_new_fields_are_placed_within_a_micrometre(scale: FocusScale) -> None:
    for sample in series("actin", range(20, 23), (-9, -6, 0, 6, 9)):
        score = scale.score(sample.image)
        assert score.um == pytest.approx(abs(sample.z), abs=1.0)
        assert score.low <= score.um <= score.high


def test_between_the_depths_it_rises(scale: FocusScale) -> None:
    specimen = Specimen(30, SHAPE)
    found = [scale.score(specimen.render("actin", z)).um for z in (0, 1.5, 3, 4.5, 6, 7.5, 9)]
    assert found == sorted(found)


@pytest.mark.parametrize("z", [12, 20, 30])
def test_beyond_the_series_it_says_the_last_depth(scale: FocusScale, z: float) -> None:
    assert scale.score(Specimen(31, SHAPE).render("actin", z)).um == pytest.approx(9, abs=0.7)


def test_the_stated_error_is_that_of_held_out_fields(scale: FocusScale) -> None:
    errors = scale.errors()
    assert set(errors) == {0.0, 3.0, 6.0, 9.0}
    assert scale.mean_error() == pytest.approx(np.mean([e for e, _ in errors.values()]), rel=0.2)
    new = [abs(scale.score(s.image).um - abs(s.z)) for s in series("actin", range(40, 46))]
    assert np.mean(new) < 3 * max(scale.mean_error(), 0.1)
    assert scale.mean_error(tiles=True) > scale.mean_error()
    assert "0 to 9 um" in str(scale)


def test_leaving_a_field_out_leaves_all_its_planes_out() -> None:
    """A field with wrong depths is judged by the others alone."""
    good = list(series("actin", range(4)))
    wrong = [FocusSample("odd", 9 - s.z, s.image) for s in series("actin", range(9, 10))]
    errors = FocusScale.fit([*good, *wrong]).errors()
    assert errors[0.0][0] > 1  # its plane called 0 looks like 9


def tiles(scale: FocusScale, image: np.ndarray) -> FocusMap:
    return scale.rate_tiles(tile_spectra(image, scale.tile), image.shape)


def test_tiles_see_what_part_is_out_of_focus(scale: FocusScale) -> None:
    specimen = Specimen(50, (256, 512))
    image = specimen.render("actin", 0)
    image[:, 256:] = specimen.render("actin", 9)[:, 256:]
    found = tiles(scale, image)
    left = [i for i, x in enumerate(found.lefts) if x + found.tile <= 256]
    right = [i for i, x in enumerate(found.lefts) if x >= 256]
    assert np.nanmedian(found.um[:, left]) < 2
    assert np.nanmedian(found.um[:, right]) > 7


def test_an_empty_field_has_no_score(scale: FocusScale) -> None:
    empty = np.random.default_rng(0).normal(200, 5, SHAPE).astype(np.uint16)
    assert math.isnan(scale.score(empty).um)
    assert np.isnan(tiles(scale, empty).um).all()


def test_plain_data_and_back(scale: FocusScale) -> None:
    again = FocusScale.from_dict(json.loads(json.dumps(scale.to_dict())))
    image = Specimen(60, SHAPE).render("actin", 5)
    assert again.score(image) == scale.score(image)
    assert np.array_equal(tiles(again, image).um, tiles(scale, image).um, equal_nan=True)


@pytest.mark.parametrize("damage", [{"tile": None}, {"whole": {}}, {"sharp": "x"}])
def test_what_is_no_scale_is_refused(scale: FocusScale, damage: dict[str, object]) -> None:
    with pytest.raises(UserError, match="no scale of this version"):
        FocusScale.from_dict({**scale.to_dict(), **damage})


def test_one_depth_makes_no_scale() -> None:
    with pytest.raises(UserError, match="two or more distances"):
        FocusScale.fit(series("actin", range(2), (4.0, -4.0)))


def test_one_field_has_a_scale_without_an_error() -> None:
    alone = FocusScale.fit(series("actin", range(1)))
    assert math.isnan(alone.mean_error())
    assert "one field" in str(alone)
    assert math.isnan(alone.score(Specimen(70, SHAPE).render("actin", 3)).low)


def test_anchoring_puts_another_stain_in_focus(scale: FocusScale) -> None:
    sharp = [s.image for s in series("dna", range(80, 86), (0,))]
    blurred = [s.image for s in series("dna", range(86, 89), (9,))]
    raw = np.mean([scale.score(image).um for image in sharp])
    moved = scale.anchored([mean_spectrum(tile_spectra(image)) for image in [*sharp, *blurred]])
    found = np.mean([moved.score(image).um for image in sharp])
    assert found < 1 < raw
    assert min(moved.score(image).um for image in blurred) > 4


def test_anchoring_needs_something_to_see(scale: FocusScale) -> None:
    with pytest.raises(UserError, match="no field shows"):
        scale.anchored([mean_spectrum(tile_spectra(np.full(SHAPE, 3.0)))])
