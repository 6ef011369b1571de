"""Signal of other channels in a prediction: against SciPy, and mixed in on purpose."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress

from vfn.metrics.bleeding import bleeding


def stains(count=3, shape=(200, 240), seed=0):
    """Stains of 0 to 1000 grey levels that have half of their structure in common."""
    rng = np.random.default_rng(seed)
    own = [gaussian_filter(rng.normal(size=shape), 3) for _ in range(count + 1)]
    images = [one + own[-1] for one in own[:-1]]
    return [1000 * (image - image.min()) / np.ptp(image) for image in images]


def width(image):
    low, high = np.percentile(image, (0.1, 99.9))
    return high - low


def test_slope_equals_scipy():
    truth, other, _ = stains()
    prediction = truth + np.random.default_rng(1).normal(0, 50, truth.shape) + 0.1 * other
    found = bleeding(prediction, truth, 800.0, [("er", other)], [])
    line = linregress((other / width(other)).ravel(), ((prediction - truth) / 800).ravel())
    assert found.slope == pytest.approx(line.slope, rel=0.01)
    assert found.channel == "er"


@pytest.mark.parametrize("share", [0.2, -0.2])
def test_what_is_mixed_in_has_its_share_and_its_name(share):
    truth, er, mito = stains()
    mixed = truth + share * width(truth) * er / width(er)
    found = bleeding(mixed, truth, width(truth), [("mito", mito), ("er", er)], [])
    assert found.channel == "er"
    assert found.slope == pytest.approx(share, rel=0.02)


def test_the_best_linear_map_bleeds_into_nothing():
    truth, er, mito = stains()
    design = np.stack([er.ravel(), mito.ravel(), np.ones(er.size)], axis=1)
    fit = np.linalg.lstsq(design, truth.ravel(), rcond=None)[0]
    prediction = (design @ fit).reshape(truth.shape)
    assert np.corrcoef(prediction.ravel(), truth.ravel())[0, 1] < 0.9
    inputs = [("er", er), ("mito", mito)]
    assert abs(bleeding(prediction, truth, width(truth), inputs, []).slope) < 0.001


def test_a_stain_that_was_not_seen_counts_only_if_it_is_added():
    truth, er, mito = stains()
    fit = np.polyfit(er.ravel(), truth.ravel(), 1)
    prediction = np.polyval(fit, er)  # falls short of the truth where mito is bright
    error = prediction - truth
    assert linregress(mito.ravel(), error.ravel()).slope < -0.1
    found = bleeding(prediction, truth, width(truth), [("er", er)], [("mito", mito)])
    assert abs(found.slope) < 0.001
    mixed = truth + 0.2 * width(truth) * mito / width(mito)
    found = bleeding(mixed, truth, width(truth), [], [("mito", mito)])
    assert (found.channel, found.slope) == ("mito", pytest.approx(0.2, rel=0.02))


def test_dtypes_and_channels_that_show_nothing():
    truth, er, _ = (image.astype(np.uint16) for image in stains())
    flat = np.full_like(truth, 9)
    assert bleeding(truth, truth, 800.0, [], []) is None
    assert bleeding(truth, truth, 800.0, [("flat", flat)], []) is None
    assert bleeding(truth, truth, 800.0, [("flat", flat)], [("er", er)]).slope == 0
    darker = (truth // 2).astype(np.uint16)  # whole numbers below the truth's
    assert bleeding(darker, truth, 800.0, [("er", er)], []).slope < -0.1
