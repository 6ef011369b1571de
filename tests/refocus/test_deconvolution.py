"""The classical baseline of refocusing: it must be as good as it can be, or beating it says nothing."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vfn.data.simulated import Specimen
from vfn.refocus.deconvolution import Deconvolution, Pair


def pairs(sigma: float, seeds: range, z: float = 5.0) -> list[Pair]:
    """Fields under a known blur and a little noise."""
    found = []
    for seed in seeds:
        sharp = Specimen(seed, (128, 128)).render("dna").astype(float)
        noise = np.random.default_rng(seed).normal(0, 5, sharp.shape)
        found.append(Pair(z, gaussian_filter(sharp, sigma, mode="reflect") + noise, sharp))
    return found


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("sigma", [1.5, 4.0])
def test_a_known_blur_is_found_and_undone(sigma: float) -> None:
    fitted = Deconvolution.fit(pairs(sigma, range(3)))
    assert fitted.filters[5.0].sigma == pytest.approx(sigma, rel=0.45)  # of a grid
    (new,) = pairs(sigma, range(10, 11))
    done = fitted.filters[5.0].apply(new.blurred)
    assert rms(done, new.sharp) < 0.75 * rms(new.blurred, new.sharp)


def test_on_its_own_fields_it_is_never_worse_than_scaling() -> None:
    """Doing nothing is among what is tried."""
    for one in (
        pairs(2.0, range(2)),
        [
            Pair(5.0, np.random.default_rng(0).random((64, 64)), p.sharp[:64, :64])
            for p in pairs(2.0, range(2))
        ],
    ):
        fitted = Deconvolution.fit(one).filters[5.0]
        after = np.mean([rms(fitted.apply(p.blurred), p.sharp) ** 2 for p in one])
        x = np.concatenate([p.blurred.ravel() for p in one])
        t = np.concatenate([p.sharp.ravel() for p in one])
        line = np.polyval(np.polyfit(x, t, 1), x)
        assert after <= np.mean((line - t) ** 2) * (1 + 1e-6)


def test_above_and_below_focus_share_a_filter() -> None:
    both = [*pairs(2.0, range(2), -4.0), *pairs(2.0, range(2, 4), 4.0), *pairs(4.0, range(2), 8.0)]
    fitted = Deconvolution.fit(both)
    assert list(fitted.filters) == [4.0, 8.0]
    image = both[0].blurred.astype(np.uint16)
    assert np.array_equal(fitted.apply(image, -4), fitted.apply(image, 4))
    assert np.array_equal(fitted.apply(image, 30), fitted.apply(image, 8))  # the nearest
    assert fitted.apply(image, 4).dtype == np.uint16
    again = Deconvolution.from_dict(fitted.to_dict())
    assert np.array_equal(again.apply(image, 4), fitted.apply(image, 4))


def test_grey_values_do_not_matter() -> None:
    """Ten times the light gives ten times the result."""
    one = pairs(2.0, range(2))
    ten = [Pair(p.z, 10 * p.blurred, 10 * p.sharp) for p in one]
    a, b = (Deconvolution.fit(some).filters[5.0] for some in (one, ten))
    assert (a.sigma, a.balance) == (b.sigma, b.balance)
    assert b.apply(ten[0].blurred) == pytest.approx(
        10 * a.apply(one[0].blurred), rel=1e-6, abs=1e-3
    )
