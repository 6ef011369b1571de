"""The simulated specimen: co-registered microscope fields of adherent cells, drawn from a model.

It shows what the paper images (sec. 2.2): phase contrast, the nucleus (`dapi`, `dna`), F-actin,
vinculin, and the Cell Painting channels `er`, `rna` (nucleoli and RNA), `golgi_actin` (Golgi,
membrane, F-actin) and `mito`. One specimen is drawn in three steps:

1. **Geometry.** Star-shaped cells, a nucleus in each, organelles placed relative to both. Where
   cells meet, each pixel belongs to the cell whose centre is relatively nearer.
2. **Optics.** Fluorescence is blurred by a Gaussian whose width grows with defocus (see
   `_stain_blur`), plus a wide haze of out-of-focus light. Phase contrast comes from the optical
   thickness through the transfer function of a Zernike microscope (see `_phase_contrast`).
3. **Camera.** Uneven illumination, Poisson shot noise, Gaussian read noise, offset and gain.

The relations that the paper tests hold by construction. The nucleus bulges, is smooth and carries
nucleoli, so phase contrast shows it. Focal adhesions, which hold the vinculin, sit at the ends of
stress fibres and have no optical thickness, so actin shows them and phase contrast does not. WGA
(in `golgi_actin`) and SYTO 14 (in `rna`) stain the nuclear envelope and the cytoplasm faintly, so
these two together tell of nucleus, ER and mitochondria. Stain strength varies between cells,
independently for each stain; no channel is a pixelwise function of another.

    python -m vfn.data.simulated --output DIR --fields 8 --channels phase dapi
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from vfn.errors import UserError
from vfn.system.files import make_folder, replacing

CHANNELS: tuple[str, ...] = (
    "phase", "dapi", "dna", "actin", "vinculin", "golgi_actin", "rna", "er", "mito",
)  # fmt: skip
PIXEL_SIZE = 0.65
"""Micrometres a pixel: a 20x objective on a camera with 13 um pixels, or 6.5 um binned 2x2."""
TREATMENTS: tuple[str, ...] = ("none", "mito_collapse")
Z_LIMIT = 50.0  # um; beyond it a field is a grey wash

# Optics
NA = 0.5  # of a 20x air objective
PHASE_WAVELENGTH = 0.55  # um, green filter
RING_TRANSMISSION = 0.25  # of the phase plate, in intensity
RING_WIDTH = 0.018  # cycles/um let through with the direct light; sets the reach of the halo (9 um)
CONDENSER_NA = 0.08  # half the width of the ring's light: how fast defocus blurs phase contrast
DEPTH = 1.5  # um, rms distance of what is stained from the plane z = 0
HAZE_SIGMA, HAZE_PART = 8.0, 0.18  # um, part of the fluorescent light that comes from out of focus

# Specimen, in um; refractive indices relative to the medium
MARGIN = 24.0  # drawn around the field and cut off, so that halos and blur know their surroundings
CELL_DENSITY = 2.2e-4  # cells a um^2
CELL_SPACING = 33.0  # least between cell centres: nuclei of 11 um, 4 um off centre, keep apart
CELL_RADIUS = (17.0, 26.0)
CELL_REACH = 48.0  # no cell is longer than this from its centre
NUCLEUS_RADIUS = (8.5, 11.0)  # the longer half axis
CYTOPLASM_INDEX, NUCLEUS_INDEX, NUCLEOLUS_INDEX, VESICLE_INDEX = 0.014, -0.006, 0.015, 0.03

# Camera
READ_NOISE = 3.0  # electrons
PHASE_ELECTRONS = 2100.0  # collected where the field is empty
# Offset and gain: a 12-bit-like signal of 4096 electrons fills 200..16584 of 16 bit, or 4..255 of 8 bit.
CAMERA = {"uint8": (4.0, 1 / 16), "uint16": (200.0, 4.0)}
VIGNETTING = 0.1  # loss of light at the corners

_ANGLES = 720  # entries of the outline tables, half a degree each
_SUB = 4  # cv2 draws at 1/16 pixel

Float = npt.NDArray[np.floating[Any]]  # maps are float32
Points = npt.NDArray[np.float64]


class _Cells(NamedTuple):
    """One row a cell; lengths in um, positions (y, x) on the canvas."""

    centre: Points  # (N, 2)
    axis: Points  # (N,) direction of elongation, radians
    outline: Points  # (N, _ANGLES) radius of the cell
    nucleus: Points  # (N, 2) centre of the nucleus
    nucleus_outline: Points  # (N, _ANGLES)
    height: Points  # (N,) of the cell body beside the nucleus


class _Maps(NamedTuple):
    """Pixel maps on the canvas, (H, W) each."""

    owner: npt.NDArray[np.int16]  # index of the cell, N outside of all cells
    level: Float  # 0 at the cell's centre, 1 at its outline and beyond
    inside: Float  # 1 inside of cells, 0 outside, soft over one pixel
    rim: Float  # um to the outline, where it is not covered by another cell; 0 outside
    edge: Float  # um to the nearest border, of contacts between cells too; 0 outside
    nucleus: Float  # 1 inside the nucleus, 0 outside, soft over one pixel
    dome: Float  # thickness of the nucleus relative to its middle, 0..1
    envelope: Float  # 1 at the rim of the nucleus, fading within 1 um
    perinuclear: Float  # 1 at the nucleus, fading over 9 um; 0 outside of cells


class _Stain(NamedTuple):
    """A stain and its light."""

    draw: Callable[["Specimen"], Float]  # its density, about 1 where it is bright
    wavelength: float  # um, of emission
    electrons: float  # collected at density 1
    background: float = 0.02  # density, everywhere


class Specimen:
    """One field of cells.

    The same seed, shape and pixel size give the same cells whatever channels or planes are
    rendered, and in whatever order. Structures are drawn when a channel first needs them.

    Args:
        seed: any integer from 0.
        shape: height and width of the field, pixels.
        pixel_size: um a pixel. Cells keep their size in um.
        treatment: "none", or "mito_collapse": mitochondria draw together at the nucleus, and no other
            channel changes.
        treated: share of the cells that it reaches.

    Raises:
        UserError: a negative seed, an empty field, a pixel size outside of 0.05..5 um, no such
            treatment or share.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, int] = (520, 696),
        pixel_size: float = PIXEL_SIZE,
        treatment: str = "none",
        treated: float = 1.0,
    ) -> None:
        if treatment not in TREATMENTS:
            raise UserError(f"treatment={treatment}: unknown; choose {', '.join(TREATMENTS)}")
        if not 0 <= treated <= 1:
            raise UserError(f"treated={treated}: give a share of the cells, 0 to 1")
        if seed < 0:
            raise UserError(f"seed {seed}: give 0 or more")
        if min(shape) < 1:
            raise UserError(f"field of {shape[0]}x{shape[1]} pixels: give 1 or more a side")
        if not 0.05 <= pixel_size <= 5:
            raise UserError(f"pixel size {pixel_size} um: give 0.05 to 5 um")
        self.seed, self.shape, self.pixel_size = seed, shape, pixel_size
        self.treatment, self.treated = treatment, treated
        self._margin = math.ceil(MARGIN / pixel_size)
        self._canvas = (shape[0] + 2 * self._margin, shape[1] + 2 * self._margin)

    def render(self, channel: str, z: float = 0.0, dtype: str = "uint16") -> npt.NDArray[Any]:
        """Render one channel, (H, W), as the camera gives it.

        Args:
            channel: one of `CHANNELS`.
            z: um out of focus, -50 to 50. The fluorescence PSF is symmetric in z, phase contrast
                is not.
            dtype: `uint16` (offset 200, bright structures 4000 to 16000) or `uint8` (offset 4,
                the same light over the full range). The background of `phase` is mid-grey.

        The noise is seeded by the specimen, the channel and z.

        Raises:
            UserError: the channel, the dtype or z is not one of the above.
        """
        _check(channel, dtype, z)
        z = float(z)
        if channel == "phase":
            electrons = PHASE_ELECTRONS * self._phase_contrast(z)
        else:
            stain = _STAINS[channel]
            density = self._stain_blur(stain.draw(self), stain.wavelength, z)
            electrons = stain.electrons * (density + stain.background)
        return self._expose(self._crop(electrons), channel, z, dtype)

    def treated_cells(self) -> npt.NDArray[np.bool_]:
        """Return the mask of the cells that the treatment reached, (H, W)."""
        return self._crop(self._treated)

    @cached_property
    def _treated(self) -> npt.NDArray[np.bool_]:
        """The same on the canvas. Drawn by a generator of its own: the same cells whatever is treated."""
        reached = self._rng("treatment").random(len(self._cells.centre) + 1) < self.treated
        reached[-1] = False
        return np.asarray(reached[self._maps.owner] & (self.treatment != "none"))

    # --- geometry -----------------------------------------------------------------------------

    def _rng(self, *key: str | int) -> np.random.Generator:
        """Generator for one purpose: nothing depends on what was drawn before."""
        words = [k if isinstance(k, int) else int.from_bytes(k.encode(), "big") for k in key]
        return np.random.default_rng([self.seed, *words])

    @cached_property
    def _cells(self) -> _Cells:
        rng = self._rng("cells")
        low, high = -CELL_REACH, np.array(self._canvas) * self.pixel_size + CELL_REACH
        kept = np.empty((0, 2))
        for _ in range(rng.poisson(CELL_DENSITY * np.prod(high - low))):
            for centre in rng.uniform(low, high, (10, 2)):
                if not (np.hypot(*(kept - centre).T) < CELL_SPACING).any():
                    kept = np.vstack([kept, centre])
                    break
        n = len(kept)
        theta = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
        axis = rng.uniform(0, np.pi, n)
        # Outline: an ellipse, pulled out at a few points where the cell holds on.
        stretch = rng.uniform(1.0, 1.3, n)
        outline = _ellipse(theta - axis[:, None], stretch[:, None], 1 / stretch[:, None])
        outline *= rng.uniform(*CELL_RADIUS, n)[:, None]
        for _ in range(5):
            where, pull = rng.uniform(0, 2 * np.pi, (n, 1)), rng.uniform(-0.1, 0.75, (n, 1))
            outline *= 1 + pull * np.exp(rng.uniform(4, 11, (n, 1)) * (np.cos(theta - where) - 1))
        long = rng.uniform(*NUCLEUS_RADIUS, n)[:, None]
        turn = axis[:, None] + rng.normal(0, 0.4, (n, 1))
        nucleus = _ellipse(theta - turn, long, long * rng.uniform(0.7, 0.95, (n, 1)))
        nucleus *= 1 + 0.04 * np.cos(3 * theta - rng.uniform(0, 7, (n, 1)))
        offset = rng.normal(0, 1.5, (n, 2)).clip(-3, 3)
        height = 2.6 * rng.lognormal(0, 0.2, n)
        return _Cells(kept, axis, np.minimum(outline, CELL_REACH), kept + offset, nucleus, height)

    @cached_property
    def _maps(self) -> _Maps:
        cells, px = self._cells, self.pixel_size
        owner = np.full(self._canvas, len(cells.centre), np.int16)
        level = np.ones(self._canvas, np.float32)
        rim = np.full(self._canvas, -9, np.float32)
        radial = np.full(self._canvas, 9, np.float32)  # 1 on the outline of the nucleus
        soft = np.zeros(self._canvas, np.float32)
        for i in range(len(cells.centre)):
            window, rho, reach = self._polar(cells.centre[i], cells.outline[i])
            nearer = rho / reach < level[window]
            level[window][nearer] = (rho / reach)[nearer]
            rim[window][nearer] = (reach - rho)[nearer]
            owner[window][nearer] = i
            window, rho, reach = self._polar(cells.nucleus[i], cells.nucleus_outline[i])
            radial[window] = np.minimum(radial[window], rho / reach)
            soft[window] = np.maximum(soft[window], np.clip((reach - rho) / px + 0.5, 0, 1))
        alone = np.ones(self._canvas, np.uint8)  # 0 where two cells touch
        cell = np.append(np.arange(len(cells.centre)), -1).astype(np.int16)[owner]
        for a, b in ((cell[:, 1:], cell[:, :-1]), (cell[1:], cell[:-1])):
            alone[: a.shape[0], : a.shape[1]] &= (a == b) | (np.minimum(a, b) < 0)
        contact = px * cv2.distanceTransform(alone, cv2.DIST_L2, 3)
        inside, rim = np.clip(rim / px + 0.5, 0, 1), np.maximum(rim, 0)
        edge = np.minimum(rim, _blur(contact, 0.7))
        away = px * cv2.distanceTransform((radial > 1).astype(np.uint8), cv2.DIST_L2, 3)
        within = px * cv2.distanceTransform((radial < 1).astype(np.uint8), cv2.DIST_L2, 3)
        dome = np.sqrt(np.clip(1 - radial**2, 0, 1))
        envelope = _fade(np.maximum(away, within), 1)
        perinuclear = _fade(away, 9) * (1 - _fade(edge, 3))
        return _Maps(owner, level, inside, rim, edge, soft, dome, envelope, perinuclear)

    def _polar(self, centre: Points, outline: Points) -> tuple[tuple[slice, slice], Any, Any]:
        """Polar coordinates around `centre`, in the window that holds `outline`.

        Returns the window, each pixel's distance from the centre, and the radius of the outline
        in the pixel's direction; both (h, w) in um.
        """
        px, half = self.pixel_size, outline.max() + self.pixel_size
        low = np.clip(np.floor((centre - half) / px), 0, self._canvas).astype(int)
        high = np.clip(np.ceil((centre + half) / px), 0, self._canvas).astype(int)
        y, x = (np.arange(a, b) * px - c for a, b, c in zip(low, high, centre, strict=True))
        yy, xx = (g.astype(np.float32) for g in np.meshgrid(y, x, indexing="ij"))
        turn = np.arctan2(yy, xx) * (_ANGLES / (2 * np.pi)) + _ANGLES
        window = slice(low[0], high[0]), slice(low[1], high[1])
        return window, np.hypot(yy, xx), outline.astype(np.float32)[turn.astype(int) % _ANGLES]

    def _per_cell(self, stain: str, spread: float = 0.2) -> Float:
        """Uptake of a stain by each cell: log-normal around 1; 0 outside of cells."""
        levels = self._rng("level", stain).lognormal(0, spread, len(self._cells.centre) + 1)
        levels[-1] = 0
        return levels.astype(np.float32)[self._maps.owner]

    def _noise(self, key: str, scale: float) -> Float:
        """Smooth Gaussian noise, (H, W), of zero mean and unit variance; `scale` in um."""
        noise = self._rng("noise", key).standard_normal(self._canvas, np.float32)
        sigma = scale / self.pixel_size
        # A Gaussian filter takes white noise to a standard deviation of 1 / (2 sigma sqrt(pi)).
        return _blur(noise, sigma) * np.float32(max(1.0, 2 * sigma * math.sqrt(math.pi)))

    def _pixels(self, um: Points) -> npt.NDArray[np.int32]:
        """(..., 2) positions (y, x) in um to (x, y) in the fixed-point pixels that cv2 draws."""
        return np.asarray(np.rint(um[..., ::-1] * (2**_SUB / self.pixel_size)), np.int32)

    def _blobs(
        self,
        centre: Points,
        radius: Points,
        strength: Points,
        angle: Points | float = 0.0,
        stretch: Points | float = 1.0,
    ) -> Float:
        """Ellipses on the canvas, 0..1, the brighter over the dimmer.

        centre (N, 2) um; radius (N,) um across `angle` (radians), `stretch` times it along;
        strength (N,) 0..1.
        """
        layer = np.zeros(self._canvas, np.uint8)
        corner = np.arange(16) * (np.pi / 8)
        turn = np.broadcast_to(angle, radius.shape)[:, None]
        long = (radius * stretch)[:, None] * np.cos(corner)
        outline = _vector(turn, long) + _vector(turn + np.pi / 2, radius[:, None] * np.sin(corner))
        order = np.argsort(strength)
        shapes = self._pixels(centre[:, None] + outline)[order]
        for shape, s in zip(shapes, strength[order].tolist(), strict=True):
            cv2.fillConvexPoly(layer, shape, round(255 * s), cv2.LINE_AA, _SUB)
        return layer.astype(np.float32) / 255

    def _lines(self, path: Points, strength: Points, width: float) -> Float:
        """Curves on the canvas, 0..1. path (N, P, 2) and width in um, strength (N,) 0..1."""
        layer = np.zeros(self._canvas, np.uint8)
        thickness = max(1, round(width / self.pixel_size))
        for s, curve in zip(strength, self._pixels(path), strict=True):
            cv2.polylines(
                layer, [curve], False, round(255 * float(s)), thickness, cv2.LINE_AA, _SUB
            )
        return layer.astype(np.float32) / 255

    # --- structures: (H, W) on the canvas, 0..1 -------------------------------------------------

    @cached_property
    def _nucleoli(self) -> Float:
        rng, cells = self._rng("nucleoli"), self._cells
        which = np.repeat(np.arange(len(cells.nucleus)), rng.integers(2, 6, len(cells.nucleus)))
        angle = rng.uniform(0, 2 * np.pi, len(which))
        reach = cells.nucleus_outline[which, (angle * _ANGLES / (2 * np.pi)).astype(int)]
        at = cells.nucleus[which] + _vector(angle, reach * rng.uniform(0.1, 0.65, len(which)))
        size = rng.uniform(0.7, 1.7, len(which))
        turn, stretch = rng.uniform(0, np.pi, len(which)), rng.uniform(1, 1.6, len(which))
        return self._blobs(at, size, np.ones(len(which)), turn, stretch)

    @cached_property
    def _reticulum(self) -> Float:
        """The sheets and tubules of the ER: lines along which smooth noise crosses zero."""
        fine = np.exp(-((self._noise("reticulum", 0.9) / np.float32(0.5)) ** 2))
        return np.asarray(fine * (0.75 + 0.25 * np.tanh(self._noise("sheets", 4.0))))

    @cached_property
    def _mitochondria(self) -> Float:
        """Threads that wander off from around the nucleus."""
        rng, cells = self._rng("mitochondria"), self._cells
        which = np.repeat(np.arange(len(cells.nucleus)), 75)
        n, steps = len(which), 16
        angle = rng.uniform(0, 2 * np.pi, n)
        start = np.abs(rng.normal(0, 8, n)) + NUCLEUS_RADIUS[0]
        heading = rng.uniform(0, 2 * np.pi, (n, 1)) + rng.normal(0, 0.35, (n, steps)).cumsum(1)
        path = _vector(heading, rng.uniform(0.4, 1.1, (n, 1))).cumsum(1)
        path += (cells.nucleus[which] + _vector(angle, start))[:, None]
        threads = self._lines(path, rng.uniform(0.45, 1, n), 0.6)
        maps = self._maps
        return threads * (1 - 0.9 * maps.nucleus) * (1 - _fade(maps.edge, 4))

    @cached_property
    def _golgi(self) -> Float:
        """A heap of small stacks on one side of the nucleus."""
        rng, cells = self._rng("golgi"), self._cells
        n, stacks = len(cells.nucleus), 26
        side = rng.uniform(0, 2 * np.pi, (n, 1)) + rng.normal(0, 0.38, (n, stacks))
        reach = np.take_along_axis(
            cells.nucleus_outline, (side * _ANGLES / (2 * np.pi)).astype(int) % _ANGLES, 1
        )
        where = cells.nucleus[:, None] + _vector(side, reach + rng.gamma(2, 1.1, (n, stacks)) - 0.5)
        at = where.reshape(-1, 2)
        size, light = rng.uniform(0.3, 0.7, len(at)), rng.uniform(0.3, 1, len(at))
        along = side.ravel() + np.pi / 2  # the envelope
        dots = self._blobs(at, size, light, along, rng.uniform(1, 3, len(at)))
        return dots * self._maps.inside

    @cached_property
    def _fibres(self) -> tuple[Points, Points]:
        """Stress fibres: near-parallel chords of the cell, bowed a little, in bundles.

        Returns:
            path (F, 6, 2) in um from end to end, strength (F,) 0..1.
        """
        rng, cells, px = self._rng("fibres"), self._cells, self.pixel_size
        which = np.repeat(np.arange(len(cells.centre)), rng.integers(14, 32, len(cells.centre)))
        n = len(which)
        bundle = rng.random(n) < 0.35  # a third of the fibres runs close to its predecessor
        angle = cells.axis[which] + rng.normal(0, 0.13, n)
        side = rng.uniform(-0.8, 0.8, n) * cells.outline[which].mean(1)
        bundle[1:] &= which[1:] == which[:-1]
        bundle[:1] = False
        for i in np.flatnonzero(bundle):
            angle[i] = angle[i - 1] + rng.normal(0, 0.04)
            side[i] = side[i - 1] + rng.choice([-1.3, 1.3])
        along, across = _vector(angle, np.ones(n)), _vector(angle + np.pi / 2, np.ones(n))
        middle = cells.centre[which] + across * side[:, None] + along * rng.normal(0, 4, (n, 1))
        # Walk from the middle both ways until the cell ends.
        t = np.arange(0, CELL_REACH, 0.5)
        ends = []
        for sign in (-1, 1):
            at = middle[:, None] + sign * t[:, None] * along[:, None]
            y, x = np.rint(at / px).astype(int).transpose(2, 0, 1)
            on = (y >= 0) & (y < self._canvas[0]) & (x >= 0) & (x < self._canvas[1])
            y, x = y * on, x * on
            on &= (self._maps.owner[y, x] == which[:, None]) & (self._maps.edge[y, x] > 1.2)
            on[:, -1] = False
            reach = t[on.argmin(1)] * rng.beta(6, 1, n)  # most fibres nearly reach the border
            ends.append(middle + sign * reach[:, None] * along)
        length = np.hypot(*(ends[1] - ends[0]).T)
        s = np.linspace(0, 1, 6)[:, None]
        bow = (4 * s * (1 - s)) * (rng.normal(0, 0.03, n) * length)[:, None, None]
        path = ends[0][:, None] * (1 - s) + ends[1][:, None] * s + bow * across[:, None]
        strength = 0.2 + 0.8 * rng.beta(1, 1.6, n)
        return path[length > 8], strength[length > 8]

    @cached_property
    def _stress_fibres(self) -> Float:
        path, strength = self._fibres
        order = strength.argsort()  # the bright ones over the dim ones
        return self._lines(path[order], strength[order], 0.7)

    @cached_property
    def _adhesions(self) -> Float:
        """Focal adhesions: short bars at both ends of the stress fibres, along them."""
        rng, (path, strength) = self._rng("adhesions"), self._fibres
        tip = np.concatenate([path[:, 0], path[:, -1]])
        inward = np.concatenate([path[:, 1] - path[:, 0], path[:, -2] - path[:, -1]])
        inward /= np.hypot(*inward.T)[:, None]
        strength = np.tile(strength, 2)
        length = (1.5 + 3 * strength) * rng.uniform(0.7, 1.3, len(tip))
        light = (0.2 + 0.8 * strength) * rng.uniform(0.7, 1, len(tip))
        width = rng.uniform(0.4, 0.6, len(tip))
        middle = tip + inward * length[:, None] / 2
        angle = np.arctan2(inward[:, 0], inward[:, 1])
        return self._blobs(middle, width, light, angle, length / 2 / width)

    @cached_property
    def _cortex(self) -> Float:
        """The actin rim of the cell, uneven along the border."""
        patchy = 0.6 + 0.4 * np.tanh(self._noise("cortex", 5.0))
        band = np.exp(-((self._maps.edge / 0.9 - 1) ** 2))
        return np.asarray(band * self._maps.inside * patchy)

    @cached_property
    def _thickness(self) -> Float:
        """Height of the cell (um): a thin sheet that rises to the nucleus."""
        maps = self._maps
        height = np.append(self._cells.height, 0).astype(np.float32)[maps.owner]
        body = 0.4 + height * (1 - maps.level**2) ** 1.3
        body = (body + 2.2 * maps.dome) * (1 - _fade(maps.rim, 1.5))
        return _blur(body, 0.7 / self.pixel_size)

    @cached_property
    def _vesicles(self) -> Float:
        """Dense droplets around the nucleus, and debris between the cells: phase contrast only."""
        rng, cells = self._rng("vesicles"), self._cells
        which = np.repeat(np.arange(len(cells.nucleus)), rng.poisson(10, len(cells.nucleus)))
        n = len(which)
        away = NUCLEUS_RADIUS[0] + np.abs(rng.normal(0, 5, n))
        at = cells.nucleus[which] + _vector(rng.uniform(0, 2 * np.pi, n), away)
        area, sides = self._canvas[0] * self._canvas[1] * self.pixel_size**2, np.array(self._canvas)
        debris = rng.uniform(0, sides * self.pixel_size, (rng.poisson(area / 7e3), 2))
        return self._blobs(
            np.concatenate([at, debris]),
            np.concatenate([rng.uniform(0.3, 0.8, n), rng.uniform(0.6, 2.2, len(debris))]),
            np.concatenate([rng.uniform(0.2, 0.8, n), rng.uniform(0.4, 1, len(debris))]),
        )

    # --- optics and camera ----------------------------------------------------------------------

    @cached_property
    def _optical_path(self) -> Float:
        """Optical path difference to the medium, um."""
        maps = self._maps
        grain = 1 + 0.12 * self._noise("grain", 0.8) * (1 - maps.nucleus)
        path = CYTOPLASM_INDEX * self._thickness * grain
        path += maps.dome * (4 * NUCLEUS_INDEX + 2.5 * NUCLEOLUS_INDEX * self._nucleoli)
        path += 0.006 * maps.envelope * maps.inside + VESICLE_INDEX * self._vesicles
        return path

    def _phase_contrast(self, z: float) -> Float:
        """Phase contrast image of the canvas; 1 is the background.

        The specimen is a phase object exp(i phi), phi = 2 pi OPD / wavelength. Its spectrum is
        multiplied by [1 - R + R sqrt(T) exp(-i pi/2)] P F: the phase plate R holds the direct
        light and, being no point, the lowest frequencies, which gives halo and shade-off (Zernike
        1942; Yin et al., Med. Image Anal. 16, 2012, 1047); P is the pupil; F is Fresnel's factor
        exp(-i pi lambda z f^2) (Goodman, Introduction to Fourier Optics, ch. 4), damped since
        light that comes from the ring at a tilt arrives shifted by z CONDENSER_NA.
        """
        phi = (2 * np.pi / PHASE_WAVELENGTH) * self._optical_path
        fy, fx = (np.fft.fftfreq(n, self.pixel_size).astype(np.float32) for n in self._canvas)
        f2 = fy[:, None] ** 2 + fx**2  # (cycles/um)^2
        plate = np.exp(-f2 / (2 * RING_WIDTH**2))
        pupil = np.exp(-((f2 / (2 * NA / PHASE_WAVELENGTH) ** 2) ** 2))
        fresnel = 1j * np.pi * PHASE_WAVELENGTH * z + 2 * (np.pi * CONDENSER_NA * z) ** 2
        transfer = 1 - plate - 1j * math.sqrt(RING_TRANSMISSION) * plate
        transfer *= pupil * np.exp(-f2 * fresnel)
        image = np.fft.ifft2(np.fft.fft2(np.exp(1j * phi)) * transfer)
        return np.asarray((image.real**2 + image.imag**2) / RING_TRANSMISSION)

    def _stain_blur(self, density: Float, wavelength: float, z: float) -> Float:
        """Widefield image of a stain in a plane `z` um out of focus.

        A Gaussian of sigma(z)^2 = (0.225 wavelength / NA)^2 + (z^2 + DEPTH^2) (tan(alpha) / 2)^2,
        where sin(alpha) = NA in air. The first term is the in-focus PSF (Zhang, Zerubia and
        Olivo-Marin, Appl. Opt. 46, 2007, 1819); the second gives the spread of the geometrical
        blur disc, whose radius is z tan(alpha). To it a haze of out-of-focus light is added.
        """
        sharp = 0.225 * wavelength / NA
        spread = math.hypot(z, DEPTH) * NA / math.sqrt(1 - NA**2) / 2
        image = _blur(density, math.hypot(sharp, spread) / self.pixel_size)
        haze = _blur(image, HAZE_SIGMA / self.pixel_size)
        return (1 - HAZE_PART) * image + HAZE_PART * haze

    def _crop(self, canvas: npt.NDArray[Any]) -> npt.NDArray[Any]:
        m = self._margin
        return canvas[m : m + self.shape[0], m : m + self.shape[1]]

    def _expose(self, electrons: Float, channel: str, z: float, dtype: str) -> npt.NDArray[Any]:
        rng = self._rng("camera", channel, round((z + Z_LIMIT) * 1000))
        height, width = self.shape
        # The lamp's centre is a little off; it stays for all planes of a channel.
        cy, cx = self._rng("lamp", channel).uniform(-0.3, 0.3, 2)
        y, x = np.linspace(-1, 1, height) - cy, np.linspace(-1, 1, width) - cx
        light = 1 - VIGNETTING * (y[:, None] ** 2 + x**2) / 2
        caught = rng.poisson(electrons * light).astype(np.float32)
        caught += READ_NOISE * rng.standard_normal(self.shape, np.float32)
        offset, gain = CAMERA[dtype]
        return np.asarray(np.clip(np.rint(caught * gain + offset), 0, np.iinfo(dtype).max), dtype)


# --- stains: density on the canvas, about 1 where bright ------------------------------------------


def _draw_dna(s: Specimen) -> Float:
    chromatin = (0.72 + 0.13 * s._noise("chromatin", 0.9)) * (1 - 0.4 * s._nucleoli)
    depth = s._maps.nucleus * (0.6 + 0.4 * s._maps.dome)
    return np.asarray(s._per_cell("dna", 0.18) * depth * chromatin)


def _draw_actin(s: Specimen) -> Float:
    mesh = 0.03 * s._thickness
    return np.asarray(s._per_cell("actin") * (0.85 * s._stress_fibres + 0.6 * s._cortex + mesh))


def _draw_vinculin(s: Specimen) -> Float:
    cytoplasm = 0.03 + 0.015 * s._thickness
    return np.asarray(s._per_cell("vinculin", 0.15) * (0.9 * s._adhesions + cytoplasm))


def _draw_golgi_actin(s: Specimen) -> Float:
    maps = s._maps
    actin = s._per_cell("actin") * (0.4 * s._stress_fibres + 0.35 * s._cortex)
    membrane = 0.05 + 0.035 * s._thickness + 0.12 * maps.envelope
    secretory = 0.10 * maps.perinuclear * s._reticulum * (1 - 0.8 * maps.nucleus)
    wga = s._per_cell("wga") * (0.75 * s._golgi + membrane + secretory)
    return np.asarray(actin + wga)


def _draw_rna(s: Specimen) -> Float:
    maps = s._maps
    ribosomes = (0.12 + 0.3 * maps.perinuclear) * (0.7 + 0.3 * s._reticulum)
    cytoplasm = (ribosomes + 0.08 * s._mitochondria) * (1 - 0.55 * maps.nucleus) * maps.inside
    return np.asarray(s._per_cell("rna") * (cytoplasm + 0.6 * s._nucleoli * maps.nucleus))


def _draw_er(s: Specimen) -> Float:
    maps = s._maps
    network = 0.4 + 0.6 * s._reticulum * (1 - 0.4 * s._mitochondria)
    sheet = (0.08 + 0.85 * maps.perinuclear) * network * (1 - 0.7 * maps.nucleus)
    border = 1 - _fade(maps.edge, 2)
    return np.asarray(s._per_cell("er") * (sheet + 0.15 * maps.envelope) * border)


def _draw_mito(s: Specimen) -> Float:
    maps = s._maps
    haze = 0.03 * s._thickness * (1 - 0.6 * maps.nucleus)
    crowd = 0.25 + 0.75 * maps.perinuclear
    # A stressed cell draws its mitochondria together at the nucleus; no other stain tells.
    crowd = np.where(s._treated, np.float32(1.7) * maps.perinuclear**4, crowd)
    return np.asarray(s._per_cell("mito", 0.25) * crowd * (0.85 * s._mitochondria + haze))


_STAINS: dict[str, _Stain] = {
    "dapi": _Stain(_draw_dna, 0.46, 3000),
    "dna": _Stain(_draw_dna, 0.46, 3000),
    "actin": _Stain(_draw_actin, 0.57, 3500),
    "vinculin": _Stain(_draw_vinculin, 0.52, 3000, 0.03),
    "golgi_actin": _Stain(_draw_golgi_actin, 0.60, 3600),
    "rna": _Stain(_draw_rna, 0.56, 4000, 0.03),
    "er": _Stain(_draw_er, 0.52, 3500),
    "mito": _Stain(_draw_mito, 0.67, 4000),
}


def _fade(distance: Float, length: float) -> Float:
    """1 at the distance 0, 1/e at `length`."""
    return np.asarray(np.exp(distance / -np.float32(length)))


def _vector(angle: Points, length: Points) -> Points:
    """(..., 2) as (y, x); the angle is that of `numpy.arctan2(y, x)`."""
    return np.stack([np.sin(angle) * length, np.cos(angle) * length], -1)


def _ellipse(theta: Points, a: Points, b: Points) -> Points:
    """Radius of an ellipse with half axes a (along theta = 0) and b."""
    return np.asarray(a * b / np.hypot(b * np.cos(theta), a * np.sin(theta)))


def _blur(image: Float, sigma: float) -> Float:
    """Gaussian filter; `sigma` in pixels. Wide ones work on a smaller image, which is as good."""
    height, width = image.shape
    if sigma > 6:
        step = int(sigma / 3)
        small = (-(-width // step), -(-height // step))
        coarse: Float = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA))
        return np.asarray(cv2.resize(_blur(coarse, sigma / step), (width, height)), np.float32)
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float32)


def _check(channel: str, dtype: str, z: float) -> None:
    for what, given, known in (("channel", channel, CHANNELS), ("dtype", dtype, CAMERA)):
        if given not in known:
            raise UserError(f"{what} {given!r}: is not simulated; choose from {', '.join(known)}")
    if not abs(z) <= Z_LIMIT:  # also refuses NaN
        raise UserError(f"z = {z} um: too far out of focus; give -{Z_LIMIT:g} to {Z_LIMIT:g} um")


def simulate_field(
    seed: int,
    shape: tuple[int, int] = (520, 696),
    channels: Sequence[str] = CHANNELS,
    dtype: str = "uint16",
    pixel_size: float = PIXEL_SIZE,
) -> npt.NDArray[Any]:
    """Render a `Specimen` in focus, (C, H, W) in the order of `channels`. Raises as it does."""
    specimen = Specimen(seed, shape, pixel_size)
    return np.stack([specimen.render(channel, 0.0, dtype) for channel in channels])


def write_fields(
    output: Path,
    seeds: Sequence[int],
    channels: Sequence[str] = CHANNELS,
    shape: tuple[int, int] = (520, 696),
    z: Sequence[float] = (0.0,),
    dtype: str = "uint16",
) -> list[Path]:
    """Write one TIFF a field, plane and channel: `sim0003_phase.tif`.

    With more than one plane, z stands in the name: `sim0003_z-10_actin.tif`. The pixel size (um)
    stands in the ImageJ resolution tags.

    Raises:
        UserError: as `Specimen` does, before anything is written, or `output` cannot be written.
    """
    for plane, channel in product(z, channels):
        _check(channel, dtype, plane)
    specimens = [Specimen(seed, shape) for seed in seeds]  # lazy: checks the arguments
    make_folder(output)
    written = []
    for specimen, plane, channel in product(specimens, z, channels):
        where = f"_z{plane:g}" if len(z) > 1 else ""
        path = output / f"sim{specimen.seed:04d}{where}_{channel}.tif"
        with replacing(path) as temporary:
            tifffile.imwrite(
                temporary, specimen.render(channel, plane, dtype), imagej=True,
                resolution=(1 / PIXEL_SIZE, 1 / PIXEL_SIZE), metadata={"unit": "um", "axes": "YX"},
            )  # fmt: skip
        written.append(path)
    return written


EXAMPLES = f"""channels: {", ".join(CHANNELS)}

examples:
  python -m vfn.data.simulated --output images --fields 12 --channels phase dapi
  python -m vfn.data.simulated --output new --fields 2 --first-seed 1000 --channels phase
  python -m vfn.data.simulated --output stacks --channels actin --z -10 -6 0 6 10 --dtype uint8

exit codes: 0 done, 2 your input is wrong (one line says what)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code, 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        "python -m vfn.data.simulated",
        description="Draw fields of simulated cells: one TIFF a field, plane and channel.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the TIFF files")
    parser.add_argument("--fields", type=int, default=8, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first field")
    parser.add_argument("--channels", nargs="+", default=CHANNELS, metavar="CHANNEL")
    parser.add_argument("--size", type=int, nargs=2, default=(520, 696), metavar=("H", "W"))
    parser.add_argument("--z", type=float, nargs="+", default=(0.0,), help="um out of focus")
    parser.add_argument("--dtype", default="uint16", help="uint8 or uint16")
    args = parser.parse_args(argv)
    seeds = range(args.first_seed, args.first_seed + args.fields)
    try:
        paths = write_fields(
            args.output, seeds, args.channels, tuple(args.size), args.z, args.dtype
        )
    except UserError as exc:
        print(exc, file=sys.stderr)
        return 2
    print(f"{len(paths)} images of {len(seeds)} fields in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
