"""Sharp fields put out of focus by the physics of the microscope: training data for refocusing.

A thin fluorescent specimen is imaged incoherently: the image is its light convolved with the point
spread function, of which the optical transfer function H(f, z) is the Fourier transform. H is the
autocorrelation of the pupil, a disc of radius NA / wavelength whose phase at defocus z is
2 pi z sqrt((n / wavelength)^2 - f^2) (scalar theory: Born and Wolf, Principles of Optics, sec. 8.8, with the phase of
Gibson and Lanni 1992 where all indices match). It is real, since the phase is symmetric, the same for
z and -z, and computed for each frequency by Gauss-Legendre quadrature over the lens in which the two pupils
overlap.

A sharp photograph has the blur of focus in it already, so its spectrum is multiplied by
H(z) / H(0), not by H(z). Where H(0) is below `FLOOR` nothing of the specimen reached the camera and nothing
is kept.

Blur also takes the camera's noise away, which would make the task easier than it is at the
microscope, where every plane is photographed anew. The noise is measured in the sharp image
(variance against grey value) and what the blur removed of it is put back, seeded by the plane and z.

What the model leaves out: the thickness of the specimen, aberrations, and light from far out of
focus. psfmodels (Gibson-Lanni, vectorial) is under GPL-3 and needs a compiler on some platforms, so
it is not used; the tests integrate the Born-Wolf formula.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from vfn.data.cache import code_digest
from vfn.data.discovery.fields import ImageSource
from vfn.data.intensity import to_dtype
from vfn.errors import UserError

Float = NDArray[np.float64]

NODES = 96  # of the quadrature along each axis of the lens
RADII = 256  # frequencies at which H is computed; between them it is interpolated
FLOOR = 0.02  # of H(0), of 1
MARGIN = 16  # px around the image beside the width of the blur
NOISE_BINS = 24  # of grey value
Z_LIMIT = 100.0  # um


@dataclass(frozen=True)
class Optics:
    """A widefield microscope.

    Attributes:
        na: numerical aperture.
        wavelength: of the emission, um, in vacuum.
        pixel_size: um a pixel, in the specimen.
        index: refractive index between objective and specimen.

    Raises:
        UserError: none of which light could pass.
    """

    na: float
    wavelength: float
    pixel_size: float
    index: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.na < self.index:
            raise UserError(
                f"data.na={self.na:g}: must lie between 0 and the index, {self.index:g} "
                "(data.index: air 1.0, water 1.33, oil 1.515)"
            )
        if not 0.2 <= self.wavelength <= 2:
            raise UserError(f"data.wavelength={self.wavelength:g}: give micrometres, 0.2 to 2")
        if not 0.01 <= self.pixel_size <= 20:
            raise UserError(f"data.pixel_size={self.pixel_size:g}: give micrometres, 0.01 to 20")

    @property
    def cutoff(self) -> float:
        """Finest frequency that passes, cycles/um."""
        return 2 * self.na / self.wavelength


def otf(optics: Optics, frequency: NDArray[Any], z: float) -> Float:
    """Optical transfer function at `frequency` (n,) cycles/um, `z` um from focus; 1 at 0."""
    shift = np.asarray(frequency, float)[:, None, None] / (optics.cutoff / 2)  # in pupil radii
    node, weight = np.polynomial.legendre.leggauss(NODES)
    half = np.clip(shift / 2, 0, 1)  # the two discs lie at +- half
    y = np.sqrt(1 - half**2) * (node[None, :, None] + 1) / 2  # upper half of the lens
    reach = np.sqrt(np.maximum(1 - y**2, 0)) - half
    x = np.maximum(reach, 0) * node[None, None, :]
    area = (weight[:, None] * weight) * np.sqrt(1 - half**2) / 2 * np.maximum(reach, 0)
    right, left = (_phase(optics, (x + side) ** 2 + y**2, z) for side in (half, -half))
    # Upper and lower half are alike; the imaginary part is odd in x and cancels.
    return np.asarray(2 * (area * np.cos(right - left)).sum((1, 2)) / math.pi)


def _phase(optics: Optics, radius2: Float, z: float) -> Float:
    """Phase of the pupil at a squared radius in pupil radii, against its centre."""
    sine2 = np.clip(radius2, 0, 1) * (optics.na / optics.index) ** 2
    wave = 2 * math.pi * optics.index / optics.wavelength
    return np.asarray(wave * z * (np.sqrt(1 - sine2) - 1))


@lru_cache(maxsize=64)
def _ratio(optics: Optics, z: float) -> tuple[Float, Float]:
    """Frequencies (cycles/um) and H(z) / H(0) there."""
    reach = min(optics.cutoff, math.sqrt(0.5) / optics.pixel_size)  # corner of the spectrum
    frequency = np.linspace(0, reach, RADII)
    sharp = otf(optics, frequency, 0.0)
    ratio = np.where(sharp > FLOOR, otf(optics, frequency, z) / np.maximum(sharp, FLOOR), 0)
    return frequency, ratio


def defocus(
    image: NDArray[np.generic], optics: Optics, z: float, seed: int | None = None
) -> NDArray[Any]:
    """Blur a sharp image as it would be `z` um out of focus.

    Args:
        image: (H, W) grey values, of whole numbers or float32.
        seed: of the noise that takes the place of the one that blur removes; None adds none.

    Returns:
        (H, W) in the dtype of the image.

    Raises:
        UserError: z beyond 100 um.
    """
    if not abs(z) <= Z_LIMIT:  # also refuses NaN
        raise UserError(f"z = {z:g} um: too far out of focus; give -{Z_LIMIT:g} to {Z_LIMIT:g} um")
    if z == 0:
        return image.copy()
    tangent = optics.na / math.sqrt(optics.index**2 - optics.na**2)
    margin = MARGIN + math.ceil(2 * abs(z) * tangent / optics.pixel_size)
    x = np.pad(image.astype(np.float32), margin, mode="symmetric")
    size = [fft.next_fast_len(side, real=True) for side in x.shape]  # type: ignore[no-untyped-call]
    padding = [(0, want - side) for want, side in zip(size, x.shape, strict=True)]
    x = np.pad(x, padding, mode="symmetric")
    radius = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    frequency, ratio = _ratio(optics, abs(float(z)))
    transfer = np.interp(radius / optics.pixel_size, frequency, ratio, right=0).astype(np.float32)
    blurred = fft.irfft2(fft.rfft2(x) * transfer, size)
    blurred = blurred[margin:, margin:][: image.shape[0], : image.shape[1]]
    if seed is not None:
        gain, floor = noise_of(image)
        twice = np.full(transfer.shape[1], 2.0)
        twice[0] = 1
        kept = float((transfer**2 * twice).sum() / (size[0] * size[1]))  # share of white noise
        variance = np.maximum(gain * blurred + floor, 0) * max(0.0, 1 - kept)
        noise = np.random.default_rng(seed).standard_normal(image.shape)
        blurred = blurred + np.sqrt(variance) * noise
    return to_dtype(blurred, image.dtype.name)


def noise_of(image: NDArray[np.generic]) -> tuple[float, float]:
    """Estimate the variance of the camera's noise as (gain, floor): gain * grey value + floor.

    Noise is what a filter finds that sees neither planes nor edges along the axes (Immerkaer 1996, Comput.
    Vis. Image Underst. 64, 300); in each of some bins of local grey value its median, which few fine
    details do not move; a line through the bins.
    """
    x = image.astype(np.float32)
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6  # of unit variance
    residual = np.abs(cv2.filter2D(x, -1, mask))[1:-1, 1:-1].ravel()
    level = cv2.blur(x, (3, 3))[1:-1, 1:-1].ravel()
    order = np.argsort(level)
    levels, variances = [], []
    for part in np.array_split(order, NOISE_BINS):
        if len(part):
            levels.append(float(level[part].mean()))
            variances.append((float(np.median(residual[part])) / 0.6745) ** 2)  # of a normal
    spread = np.ptp(levels)
    if not spread:
        return 0.0, variances[0]
    gain, floor = np.polyfit(levels, variances, 1, w=1 / (1 + np.array(variances)))
    if gain < 0:
        return 0.0, float(np.median(variances))
    return float(gain), float(floor)


@dataclass(frozen=True)
class DefocusedPlane:
    """A plane out of focus, computed from the sharp one when it is read.

    Attributes:
        sharp: the plane in focus.
        z: um.
        noise: put back what the blur removes of the camera's noise.
    """

    sharp: ImageSource
    z: float
    optics: Optics
    noise: bool

    def read(self) -> NDArray[Any]:
        """Pixels (H, W) in the dtype of the sharp plane."""
        image = np.ascontiguousarray(self.sharp.read())
        # Of the pixels, not of the path: the same noise wherever the files lie.
        digest = hashlib.blake2b(image.tobytes() + f"{self.z:g}".encode(), digest_size=8).digest()
        seed = int.from_bytes(digest, "big") if self.noise else None
        return defocus(image, self.optics, self.z, seed)

    @property
    def pixel_size(self) -> float:
        """Micrometres a pixel."""
        return self.optics.pixel_size

    @property
    def key(self) -> str:
        """Everything that the pixels depend on, this module included."""
        return f"{self.sharp.key} z {self.z:g} {self.optics} {self.noise} {code_digest(__file__)}"

    def __str__(self) -> str:
        return f"{self.sharp} at {self.z:g} um"
