"""From measures of focus to micrometres: a scale that is calibrated on defocus series.

One linear index of the spectral features (ridge regression on |z|), then a monotone curve from the
index to |z| (isotonic regression over the depths of the series, linear between them). Few numbers,
each of which can be looked at, and nothing beyond the depths that were seen: outside of them the
answer is the last depth, which reads "at least". A second index is fitted for single tiles, whose
spectra are noisier.

The error is measured, not assumed: with each field left out in turn, |z| is estimated by the scale
of the others. An interval around a new estimate is where the true depths of the held-out planes with
the most similar estimates lay.

In fluorescence the blur is the same above and below focus, so the sign cannot be told.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression  # type: ignore[attr-defined]

from vfn.errors import UserError
from vfn.refocus.measures import BANDS, TILE, Spectrum, mean_spectrum, tile_corners, tile_spectra

Float = NDArray[np.float64]

RIDGE = 1e-2  # of the standardised features
LEAST_SPREAD = 0.05  # decades; a feature that varies less is not blown up to unit variance
KEPT = 1000  # held-out estimates that the intervals are read from
NEAREST = 0.1  # share of them that count as similar, 10 at least
COVERAGE = 0.9  # of the intervals
TILES_FITTED = 20_000  # at most, spread over the planes
ANCHOR_SHARE = 0.25  # of the fields of a data set: those that are taken to be in focus


class FocusSample(NamedTuple):
    """One plane of a defocus series: the field it belongs to, z (um from focus), image (H, W)."""

    field: str
    z: float
    image: NDArray[np.generic]


class FocusScore(NamedTuple):
    """Distance from focus of one image.

    Attributes:
        um: |z|; NaN where the image shows nothing. At the end of the scale it means "at least".
        low, high: between which the true |z| lay for 90 % of the held-out planes that looked alike;
            NaN where the series had one field alone.
    """

    um: float
    low: float
    high: float


class FocusMap(NamedTuple):
    """Distance from focus of the tiles of one image, (rows, columns) each; see `FocusScore`.

    Attributes:
        tops, lefts: corners of the tiles (px).
        tile: side (px).
    """

    um: Float
    low: Float
    high: Float
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    tile: int


@dataclass(frozen=True)
class _Index:
    """Features -> |z|.

    Attributes:
        centre, spread, weights: (BANDS,) of the linear index.
        depths: um, ascending; `values`: the index there, never falling.
        estimates, truths: |z| of held-out planes, sorted by estimate; empty for a single field.
    """

    centre: Float
    spread: Float
    weights: Float
    depths: Float
    values: Float
    estimates: Float
    truths: Float

    def um(self, features: Float) -> Float:
        """(..., BANDS) -> (...,) |z| in um."""
        index = (features - self.centre) / self.spread @ self.weights
        # np.interp wants the index to rise: depths that cannot be told apart are a step.
        rising = self.values + 1e-9 * np.arange(len(self.values))
        return np.asarray(np.interp(index, rising, self.depths))

    def interval(self, um: Float) -> tuple[Float, Float]:
        """Lower and upper end for each estimate (n,)."""
        if not len(self.estimates):
            return np.full_like(um, math.nan), np.full_like(um, math.nan)
        count = min(len(self.estimates), max(10, round(NEAREST * len(self.estimates))))
        start = np.searchsorted(self.estimates, um) - count // 2
        start = np.clip(start, 0, len(self.estimates) - count)
        alike = self.truths[start[:, None] + np.arange(count)]
        low, high = np.quantile(alike, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=1)
        return np.minimum(low, um), np.maximum(high, um)

    def rate(self, spectrum: Spectrum) -> tuple[Float, Float, Float]:
        """Return estimate, lower and upper end, (...,) each; NaN where nothing is shown."""
        um = np.full(spectrum.floor.shape, math.nan)
        low, high = um.copy(), um.copy()
        shows = spectrum.shows
        if shows.any():
            um[shows] = self.um(spectrum.features[shows])
            low[shows], high[shows] = self.interval(um[shows])
        return um, low, high

    def to_dict(self) -> dict[str, list[float]]:
        return {key: getattr(self, key).tolist() for key in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "_Index":
        return cls(**{key: np.asarray(data[key], float) for key in cls.__dataclass_fields__})


class _Measured(NamedTuple):
    """Features (n, BANDS) of one plane or its tiles, its |z| and the number of its field."""

    features: Float
    z: float
    field: int


def _fit(features: Float, z: Float) -> _Index:
    """Fit an index, without held-out estimates."""
    centre, spread = features.mean(0), features.std(0) + LEAST_SPREAD
    x = (features - centre) / spread
    normal = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(normal, x.T @ (z - z.mean()))
    depths = np.unique(z)
    means = np.array([(x[z == depth] @ weights).mean() for depth in depths])
    values = np.asarray(isotonic_regression(means).x)
    return _Index(centre, spread, weights, depths, values, np.empty(0), np.empty(0))


def _fit_held_out(measured: Sequence[_Measured]) -> _Index:
    """Fit an index, with estimates of each field by the scale of the others."""
    features = np.concatenate([one.features for one in measured])
    counts = [len(one.features) for one in measured]
    z = np.repeat([one.z for one in measured], counts)
    fields = np.repeat([one.field for one in measured], counts)
    index = _fit(features, z)
    estimates = np.full(len(z), math.nan)
    folds = fields % min(int(fields.max()) + 1, 20)  # of many fields some are left out together
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        if set(z[~out]) >= set(z[out]):
            estimates[out] = _fit(features[~out], z[~out]).um(features[out])
    known = np.flatnonzero(np.isfinite(estimates))
    known = known[np.argsort(estimates[known], kind="stable")]
    known = known[np.linspace(0, len(known) - 1, min(len(known), KEPT)).astype(int)]
    return replace(index, estimates=estimates[known], truths=z[known])


@dataclass(frozen=True)
class FocusScale:
    """Estimates the distance from focus of fields and tiles.

    Attributes:
        whole, parts: of fields, and of tiles.
        tile: side of the tiles (px).
        pixel_size: um a pixel of the series, None if not known.
        sharp: (BANDS,) mean features of the plane nearest to focus.
    """

    whole: _Index
    parts: _Index
    tile: int
    pixel_size: float | None
    sharp: Float

    @classmethod
    def fit(
        cls, samples: Iterable[FocusSample], pixel_size: float | None = None, tile: int = TILE
    ) -> "FocusScale":
        """Calibrate on the planes of one or more fields.

        Args:
            samples: read once, one image at a time.

        Raises:
            UserError: fewer than two depths among the planes that show something.
        """
        names: dict[str, int] = {}
        planes: list[_Measured] = []
        parts: list[_Measured] = []
        for sample in samples:
            spectrum = tile_spectra(sample.image, tile)
            mean = mean_spectrum(spectrum)
            if mean.shows:
                place = abs(float(sample.z)), names.setdefault(sample.field, len(names))
                planes.append(_Measured(mean.features[None], *place))
                parts.append(_Measured(spectrum.features[spectrum.shows], *place))
        depths = {plane.z for plane in planes}
        if len(depths) < 2:
            raise UserError(
                f"focus: planes at {len(depths)} depth(s) that show a specimen; a scale needs two or "
                "more distances from focus"
            )
        step = max(1, sum(len(part.features) for part in parts) // TILES_FITTED)
        of_tiles = _fit_held_out([p._replace(features=p.features[::step]) for p in parts])
        nearest = [plane.features for plane in planes if plane.z == min(depths)]
        sharp = np.concatenate(nearest).mean(0)
        return cls(_fit_held_out(planes), of_tiles, tile, pixel_size, sharp)

    @property
    def depths(self) -> tuple[float, ...]:
        """|z| of the series, um, ascending."""
        return tuple(self.whole.depths.tolist())

    def errors(self, tiles: bool = False) -> dict[float, tuple[float, float]]:
        """Held out, for each depth: mean absolute error and mean error (estimate - truth), um.

        Empty where the series had one field alone.
        """
        index = self.parts if tiles else self.whole
        off = index.estimates - index.truths
        by_depth = {float(depth): off[index.truths == depth] for depth in np.unique(index.truths)}
        return {z: (float(np.abs(own).mean()), float(own.mean())) for z, own in by_depth.items()}

    def mean_error(self, tiles: bool = False) -> float:
        """Mean absolute error over all held-out planes, um; NaN for a single field."""
        index = self.parts if tiles else self.whole
        if not len(index.estimates):
            return math.nan
        return float(np.abs(index.estimates - index.truths).mean())

    def __str__(self) -> str:
        error = self.mean_error()
        known = (
            "error not known (one field)" if math.isnan(error) else f"+- {error:.2g} um held out"
        )
        return f"{self.depths[0]:g} to {self.depths[-1]:g} um, {known}"

    def score(self, image: NDArray[np.generic]) -> FocusScore:
        """Distance from focus of a whole image (H, W) in grey values.

        Raises:
            ValueError: less than 64 pixels a side.
        """
        return self.rate(mean_spectrum(tile_spectra(image, self.tile)))

    def rate(self, spectrum: Spectrum) -> FocusScore:
        """The score of an image whose mean spectrum is known."""
        um, low, high = map(float, self.whole.rate(spectrum))
        return FocusScore(um, low, high)

    def rate_tiles(self, spectrum: Spectrum, shape: tuple[int, ...]) -> FocusMap:
        """The map of an image (H, W) of this shape whose tiles' spectra are known."""
        tops, lefts, side = tile_corners(shape, self.tile)
        return FocusMap(*self.parts.rate(spectrum), tuple(tops), tuple(lefts), side)

    def anchored(self, spectra: Sequence[Spectrum]) -> "FocusScale":
        """This scale for another stain: moved so that its sharpest fields come out in focus.

        Another stain has another texture, which shifts all its features by about the same at every
        depth. A quarter of the fields, those that this scale finds sharpest, are taken to be as sharp as the
        series' plane nearest to focus.

        Args:
            spectra: mean spectra of the fields of that stain.

        Raises:
            UserError: none of them shows anything.
        """
        shown = [spectrum for spectrum in spectra if spectrum.shows]
        if not shown:
            raise UserError(
                "focus: no field shows a specimen; leave out empty fields by data.exclude"
            )
        features = np.stack([spectrum.features for spectrum in shown])
        order = np.argsort((features - self.whole.centre) / self.whole.spread @ self.whole.weights)
        taken = order[: max(1, round(ANCHOR_SHARE * len(order)))]
        move = np.median(features[taken], 0) - self.sharp
        whole, parts = (replace(i, centre=i.centre + move) for i in (self.whole, self.parts))
        return replace(self, whole=whole, parts=parts, sharp=self.sharp + move)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {
            "whole": self.whole.to_dict(),
            "tiles": self.parts.to_dict(),
            "tile": self.tile,
            "pixel_size": self.pixel_size,
            "sharp": self.sharp.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "FocusScale":
        """The inverse of `to_dict`.

        Raises:
            UserError: not what `to_dict` writes.
        """
        try:
            whole, parts = _Index.from_dict(data["whole"]), _Index.from_dict(data["tiles"])
            if whole.weights.shape != (BANDS,) or parts.weights.shape != (BANDS,):
                raise ValueError("another number of bands")
            pixel_size = data["pixel_size"]
            sharp = np.asarray(data["sharp"], float)
            return cls(whole, parts, int(data["tile"]), pixel_size, sharp)
        except (KeyError, TypeError, ValueError) as exc:
            raise UserError(
                f"focus: is no scale of this version ({exc}); calibrate again by "
                "python -m vfn.focus data=... output=DIR"
            ) from exc
