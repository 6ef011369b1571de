"""Measurements of a whole field: amounts over what there is, and what bleeds in."""

import numpy as np
import pytest

from vfn.data.simulated import simulate_field
from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.ranges import ChannelRanges, Range
from vfn.evaluation.stain import Nuclei, measure

SHAPE = (256, 320)


def field(names=("dna", "er", "mito")):
    stains = simulate_field(5, SHAPE, names).astype(np.float64)
    tops = stains.max((1, 2), keepdims=True)
    return (300 + 3000 * stains / tops).astype(np.uint16)


def measured(prediction, truth, channel, inputs=None, input_channels=()):
    ranges = ChannelRanges("uint16", Range(0, 65535), Range(300, 3300), 1, truth.size)
    pair = FieldPair("f", (channel,), truth[None], prediction[None], inputs, input_channels)
    return measure(pair, {channel: ranges}, Nuclei())[0]


def test_amounts_are_summed_over_the_objects_that_the_field_shows():
    dna, er, _ = field()
    brighter = (300 + 1.4 * (er.astype(float) - 300)).astype(np.uint16)
    for channel, image, inputs, names, over in (
        ("dna", dna, None, (), "nuclei"),
        ("er", er, dna[None], ("dna",), "cells"),
        ("er", er, None, (), "blocks"),
    ):
        exact = measured(image, image, channel, inputs, names)
        assert exact.over == over
        assert exact.row.values["amount_off"] == 0
        assert exact.row.values["amount_slope"] == pytest.approx(1)
    off = measured(brighter, er, "er")
    assert off.row.values["amount_off"] == 1
    assert off.row.values["amount_slope"] == pytest.approx(1.4, rel=0.05)
    assert len(off.truth_amounts) > 3


def test_what_bleeds_in_is_named_and_the_exact_is_not():
    _, er, mito = field()
    exact = measured(er, er, "er", mito[None], ("mito",)).row
    assert exact.values["bleed_through"] == 0
    assert exact.remarks == exact.note
    low, high = np.percentile(mito, (0.1, 99.9))
    mixed = er + 0.2 * 3000 * (mito - low) / (high - low)
    row = measured(mixed.astype(np.uint16), er, "er", mito[None], ("mito",)).row
    assert row.values["bleed_through"] == pytest.approx(0.2, abs=0.005)
    assert row.remarks.endswith("bleed_through: of mito")
    assert "bleed_through" not in measured(mixed, er, "er").row.values


def test_a_broken_prediction_has_no_amounts_nor_bleeding():
    _, er, mito = field()
    broken = er.astype(np.float32)
    broken[0, 0] = np.nan
    result = measured(broken, er, "er", mito[None], ("mito",))
    assert (result.over, len(result.truth_amounts)) == ("", 0)
    assert "bleed_through" not in result.row.values
