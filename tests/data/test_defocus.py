"""Defocus by the physics of the microscope, against numerical integration and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import j0

from vfn.data.defocus import NODES, Optics, _phase, defocus, noise_of, otf
from vfn.errors import UserError

OPTICS = Optics(na=0.45, wavelength=0.46, pixel_size=0.65)


def psf(optics: Optics, radius: np.ndarray, z: float) -> np.ndarray:
    """Point spread function at `radius` (n,) um from the axis, `z` um from focus; 1 at focus on axis."""
    node, weight = np.polynomial.legendre.leggauss(4 * NODES)
    rho = (node + 1) / 2
    wave = 2 * math.pi * optics.na / optics.wavelength
    phase = np.exp(1j * _phase(optics, rho**2, z))
    field = (j0(wave * radius[:, None] * rho) * phase * rho * weight).sum(1)
    return np.asarray(np.abs(field) ** 2)  # the integral of rho is 1/2, of the weights 2


def born_wolf(optics: Optics, radius: float, z: float) -> float:
    """|integral of J0(k NA r rho) exp(i phase) rho|^2, adaptively, 1 at focus on the axis."""
    wave = 2 * math.pi / optics.wavelength

    def part(function, rho: float) -> float:  # type: ignore[no-untyped-def]
        sine = rho * optics.na / optics.index
        phase = wave * optics.index * z * math.sqrt(1 - sine**2)
        return float(j0(wave * optics.na * radius * rho)) * function(phase) * rho

    real, imaginary = (
        quad(lambda rho, f=f: part(f, rho), 0, 1, limit=400, epsabs=1e-10)[0]  # type: ignore[misc]
        for f in (math.cos, math.sin)
    )
    return 4 * (real**2 + imaginary**2)


@pytest.mark.parametrize("z", [0.0, 3.0, -10.0, 32.0])
@pytest.mark.parametrize("radius", [0.0, 0.4, 2.0, 9.0])
def test_point_spread_function_is_the_born_wolf_integral(radius: float, z: float) -> None:
    """The quadrature agrees with an adaptive one."""
    assert psf(OPTICS, np.array([radius]), z)[0] == pytest.approx(
        born_wolf(OPTICS, radius, z), abs=1e-8
    )


def test_first_zero_is_that_of_airy() -> None:
    """0.61 wavelength / NA in focus."""
    radius = 0.6098 * OPTICS.wavelength / OPTICS.na
    assert psf(OPTICS, np.array([radius]), 0.0)[0] < 1e-6


def test_transfer_in_focus_is_the_diffraction_limit() -> None:
    """Closed form of the autocorrelation of a disc (Goodman, Fourier Optics)."""
    s = np.linspace(0, 1.2, 40)
    inside = np.minimum(s, 1)
    known = 2 / math.pi * (np.arccos(inside) - inside * np.sqrt(1 - inside**2))
    assert otf(OPTICS, s * OPTICS.cutoff, 0.0) == pytest.approx(known, abs=2e-5)


@pytest.mark.parametrize("z", [2.0, 10.0])
def test_transfer_is_the_hankel_transform_of_the_point_spread_function(z: float) -> None:
    """The two ways to the same blur, pupil autocorrelation and point spread function, agree."""
    radius = np.linspace(0, 120, 8_001)  # rings of light far out carry little, but not nothing
    spread = psf(OPTICS, radius, z) * radius
    frequency = np.array([0.05, 0.2, 0.5])
    transform = [np.trapezoid(spread * j0(2 * math.pi * f * radius), radius) for f in frequency]
    assert otf(OPTICS, frequency, z) == pytest.approx(
        np.array(transform) / np.trapezoid(spread, radius), abs=0.01
    )


@settings(max_examples=20, deadline=None)
@given(z=st.floats(0.1, 50), f=st.floats(0, 1.5))
def test_transfer_is_even_bounded_and_falls(z: float, f: float) -> None:
    """Above and below focus alike, and never more than in focus."""
    there = otf(OPTICS, np.array([f]), z)[0]
    assert there == pytest.approx(otf(OPTICS, np.array([f]), -z)[0], abs=1e-12)
    assert abs(there) <= otf(OPTICS, np.array([f]), 0.0)[0] + 1e-9


def field(side: int = 200) -> np.ndarray:
    """Discs on a dark ground, uint16."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side), 300.0)
    for cy, cx in rng.uniform(10, side - 10, (12, 2)):
        image += 6000 * (np.hypot(y - cy, x - cx) < 8)
    return image.astype(np.uint16)


def test_light_is_kept_and_detail_lost() -> None:
    """The mean stays, the variance falls with every um."""
    image = field()
    planes = [defocus(image, OPTICS, z).astype(float) for z in (0, 2, 4, 8, 16)]
    assert all(plane.mean() == pytest.approx(image.mean(), rel=0.02) for plane in planes)
    spreads = [plane.std() for plane in planes]
    assert spreads == sorted(spreads, reverse=True)
    assert np.array_equal(planes[0], image)
    assert np.array_equal(defocus(image, OPTICS, -4), defocus(image, OPTICS, 4))


def test_constant_field_stays() -> None:
    """Edges neither darken nor ring."""
    image = np.full((70, 90), 1234, np.uint16)
    assert np.array_equal(defocus(image, OPTICS, 10), image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_dtype_is_kept(dtype: str) -> None:
    """And whole numbers are clipped to their range."""
    image = np.zeros((70, 70), dtype)
    image[30:40] = np.iinfo(dtype).max if dtype != "float32" else 1.0
    assert defocus(image, OPTICS, 6, seed=1).dtype == image.dtype


def test_noise_of_a_camera_is_measured() -> None:
    """Gain and floor of simulated photon and read noise, within a fifth."""
    rng = np.random.default_rng(3)
    light = np.tile(np.linspace(100, 4000, 400), (400, 1))
    image = 4 * rng.poisson(light / 4) + rng.normal(0, 9, light.shape)
    gain, floor = noise_of(np.rint(image).astype(np.uint16))
    assert gain == pytest.approx(4, rel=0.2)
    assert gain * 2000 + floor == pytest.approx(4 * 2000 + 81, rel=0.1)


def test_noise_that_blur_removed_is_put_back() -> None:
    """A noisy flat field is as noisy after defocus, and not without a seed."""
    rng = np.random.default_rng(5)
    image = np.rint(rng.normal(2000, 40, (300, 300))).astype(np.uint16)
    assert defocus(image, OPTICS, 8, seed=1).std() == pytest.approx(40, rel=0.1)
    assert defocus(image, OPTICS, 8).std() < 20
    assert np.array_equal(defocus(image, OPTICS, 8, seed=1), defocus(image, OPTICS, 8, seed=1))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"na": 1.2}, "data.na=1.2"),
        ({"na": 0.0}, "data.na=0"),
        ({"wavelength": 520.0}, "data.wavelength=520"),
        ({"pixel_size": 0.0}, "data.pixel_size=0"),
    ],
)
def test_impossible_optics_are_refused(keys: dict[str, float], words: str) -> None:
    """Nanometres, for instance."""
    with pytest.raises(UserError, match=words):
        Optics(**{"na": 0.45, "wavelength": 0.46, "pixel_size": 0.65, **keys})


def test_depth_without_end_is_refused() -> None:
    """Also what is no number."""
    with pytest.raises(UserError, match="too far out of focus"):
        defocus(field(), OPTICS, math.nan)
