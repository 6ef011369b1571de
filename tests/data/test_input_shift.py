import json
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vfn.data.input_shift import CORE, STATISTICS, TrainingDistribution, field_statistics
from vfn.data.intensity import to_dtype
from vfn.data.simulated import simulate_field
from vfn.errors import UserError

SHAPE = (200, 240)
CHANNELS = ("phase", "dna", "er")
TRAINING, FRESH = range(8), range(8, 16)


@cache
def field(seed: int) -> np.ndarray:
    return simulate_field(seed, SHAPE, CHANNELS)


@cache
def envelope(channel: str, count: int = len(TRAINING)) -> TrainingDistribution:
    index = CHANNELS.index(channel)
    return TrainingDistribution.fit(
        [field_statistics(field(seed)[index]) for seed in TRAINING[:count]]
    )


def empty(x: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(np.percentile(x, 1), 15, x.shape)


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "gain up": (lambda x: 1.5 * x, "brighter"),
    "gain down": (lambda x: 0.5 * x, "dim|darker"),
    "offset": (lambda x: x + 0.3 * np.median(x), "brighter"),
    "defocus": (lambda x: gaussian_filter(x, 2), "less sharp than in training: out of focus"),
    "noise": (lambda x: x + np.random.default_rng(0).normal(0, 300, x.shape), "noisier"),
    "saturation": (lambda x: np.minimum(x, np.percentile(x, 95)), "more saturated pixels"),
    "inverted": (lambda x: x.max() + x.min() - x, "balance"),
    "empty": (empty, "empty field"),
    "black": (lambda x: 0 * x, "darker background"),
    "12 bit in 16": (lambda x: 16 * x, "brighter"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("channel", CHANNELS)
def test_what_ruins_predictions_is_named(channel: str, change: str) -> None:
    make, words = CHANGES[change]
    if channel == "phase" and change == "inverted":
        words = "darker|brighter"  # it has bright and dark structures both ways round
    raw = field(FRESH[0])[CHANNELS.index(channel)].astype(float)
    phrases = envelope(channel).judge(field_statistics(to_dtype(make(raw), "uint16")))
    assert any(any(word in phrase for word in words.split("|")) for phrase in phrases), phrases


@pytest.mark.parametrize("channel", CHANNELS)
def test_fresh_fields_of_the_same_experiment_pass(channel: str) -> None:
    index = CHANNELS.index(channel)
    alarms = [envelope(channel).judge(field_statistics(field(s)[index])) for s in FRESH]
    assert sum(bool(a) for a in alarms) <= 1, alarms
    few = [envelope(channel, 3).judge(field_statistics(field(s)[index])) for s in FRESH]
    assert sum(bool(a) for a in few) <= 2, few


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_swapped_channel_is_named(channel: str) -> None:
    for other in CHANNELS:
        if other != channel:
            figures = field_statistics(field(FRESH[0])[CHANNELS.index(other)])
            assert envelope(channel).judge(figures)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_training_fields_themselves_pass(count: int) -> None:
    for channel in CHANNELS:
        for seed in TRAINING[:count]:
            figures = field_statistics(field(seed)[CHANNELS.index(channel)])
            assert envelope(channel, count).judge(figures) == []


def test_the_phrase() -> None:
    training = [dict.fromkeys(STATISTICS, 100.0) | {"mean": m} for m in (1200.0, 1500.0, 2100.0)]
    fitted = TrainingDistribution.fit(training)
    assert fitted.judge(training[0] | {"mean": 32000.0}) == [
        "mean 32000 (training 1200 to 2100): brighter than in training"
    ]
    assert fitted.judge(training[0] | {"saturated": 0.0}) == []  # fewer than in training is no harm


def test_statistics_against_what_was_drawn() -> None:
    rng = np.random.default_rng(2)
    noise = field_statistics(rng.normal(1000, 25, (300, 400)).astype(np.float32))
    assert noise["noise"] == pytest.approx(25, rel=0.1)
    assert noise["mean"] == pytest.approx(1000, rel=0.01)
    assert noise["background"] == pytest.approx(1000 - 2.326 * 25, rel=0.01)
    assert noise["bright"] == pytest.approx(1000 + 2.576 * 25, rel=0.01)
    assert noise["balance"] == pytest.approx(0.05, abs=0.08)
    clipped = np.minimum(rng.integers(0, 1000, (300, 400)), 899)
    assert field_statistics(clipped)["saturated"] == pytest.approx(0.101, abs=0.005)


def test_sharpness_sees_blur_but_neither_gain_nor_offset_nor_noise() -> None:
    for index in range(len(CHANNELS)):
        raw = field(0)[index].astype(np.float32)
        sharp = field_statistics(raw)["sharpness"]
        assert field_statistics(2.5 * raw + 700)["sharpness"] == pytest.approx(sharp, rel=1e-3)
        noisy = raw + np.random.default_rng(0).normal(0, 0.1 * raw.std(), raw.shape)
        assert field_statistics(noisy)["sharpness"] == pytest.approx(sharp, rel=0.03)
        assert field_statistics(gaussian_filter(raw, 2))["sharpness"] < 0.65 * sharp


def test_a_large_field_is_measured_in_its_middle() -> None:
    large = np.random.default_rng(0).integers(0, 99, (CORE + 40, CORE + 60)).astype(np.uint16)
    small = large[20:-20, 30:-30]
    for name in ("noise", "sharpness"):
        assert field_statistics(large)[name] == pytest.approx(
            field_statistics(small)[name], rel=0.03
        )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 65)])
def test_constant_fields_of_any_size(dtype: str, shape: tuple[int, int]) -> None:
    figures = field_statistics(np.full(shape, 7, dtype))
    assert np.isfinite(list(figures.values())).all()
    fitted = TrainingDistribution.fit([figures, figures])
    assert fitted.judge(figures) == []
    assert fitted.judge(field_statistics(np.zeros(shape, dtype)))


def test_float_images_of_any_range_are_judged_alike() -> None:
    fields = [field(seed)[1].astype(np.float32) for seed in FRESH]
    for scale, offset in ((1 / 65535, 0.0), (1.0, -240.0)):  # the background was subtracted
        fitted = TrainingDistribution.fit(
            [field_statistics(f * scale + offset) for f in fields[:6]]
        )
        assert fitted.judge(field_statistics(fields[6] * scale + offset)) == []
        assert fitted.judge(field_statistics(fields[6] * scale * 1.7 + offset))


def test_plain_data_round_trip() -> None:
    fitted = envelope("dna")
    assert TrainingDistribution.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_no_training_field() -> None:
    with pytest.raises(UserError, match="no training field"):
        TrainingDistribution.fit([])
