"""Shift between two channels of one field, of which one may be transmitted light.

Plain correlation fails there: in phase contrast a nucleus is bright, dark or only an outline. What two
channels share is where structures lie. Each plane is therefore shown in two ways, both evened out
by their local mean and spread: its grey value, and the logarithm of its gradient magnitude (how much
edge there is, whatever its sign; Haber and Modersitzki, MICCAI 2006, LNCS 4191, 726-733, register
modalities by gradients). All four relations of the two planes (edge to edge, grey to grey, grey to edge, edge to
grey) are correlated by FFT in blocks of the field. Whitening (phase correlation: Kuglin and Hines,
1975) was left out: it lifts the leakage of the blocks' borders, which draws peaks towards no shift.

The blocks are independent witnesses. Leaving out one after the other (the jackknife: Efron, *The
Jackknife, the Bootstrap and Other Resampling Plans*, 1982) gives the standard error of the peak's
place, and their spread tells whether the peak stands out from its best rival. Relations that stand out
are averaged in the manner of random effects (DerSimonian and Laird, 1986), so that their
disagreement adds to the error. Grey to grey alone is not believed: where light is refracted, as in
phase contrast with a relief, grey values lie beside what casts them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

Float = npt.NDArray[np.float32]

REACH = 16  # px; the largest shift that is looked for, along either axis
SURE = 0.5  # confidence from which on a shift counts as known
ERROR = 0.8  # px; a standard error of the shift that halves the confidence
DISTINCT = 2.3  # how many standard errors the peak stands above its rival at half confidence
BIAS = 0.4  # px; what a relation may be off that its blocks do not tell
OUTVOTED = 0.25  # a relation with a smaller share of the weight may be left out

GRID = 512  # long side of the grid on which planes are compared, at most
BLOCK = 88  # side of a block in grid pixels, about
TAPER = 8  # grid pixels over which a block fades in
EDGE_SIGMA = 0.85  # blur before the gradient
EVEN_EDGES, EVEN_GREY = 10.0, 4.0  # grid pixels; what is much wider is taken out of either showing
RIVAL = 3.0  # grid pixels; a second peak farther off than this is a rival
# Which showing of the reference goes with which of the moving plane; 0 edges, 1 grey values. Edges
# agree with a plus sign, or not at all; the others may have either.
GREY_TO_GREY = (1, 1, True)
RELATIONS = ((0, 0, False), GREY_TO_GREY, (1, 0, True), (0, 1, True))


@dataclass(frozen=True)
class Shift:
    """`moving[y + dy, x + dx]` shows what `reference[y, x]` shows.

    Attributes:
        dy, dx: px, within +-`REACH`; 0 where nothing was found.
        confidence: 0 to 1.
    """

    dy: float
    dx: float
    confidence: float

    @property
    def sure(self) -> bool:
        """True if the shift may be reported; a shift that is not sure is no verdict."""
        return self.confidence >= SURE


NO_VERDICT = Shift(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Features:
    """Spectra of a plane, which are computed once; see `features`.

    Attributes:
        shape: (H, W) of the plane.
        step: px a grid pixel.
        block: (h, w) of a block in grid pixels.
        spectra: (2, blocks, FFT rows, FFT columns // 2 + 1) of edges and grey values; None if the
            plane is too small or shows nothing.
    """

    shape: tuple[int, int]
    step: float
    block: tuple[int, int]
    spectra: npt.NDArray[np.complex64] | None = None


def features(plane: npt.NDArray) -> Features:
    """Prepare a plane (H, W), whole numbers or finite float32, for `measure_shift`. Thread-safe.

    A plane of less than 68 px a side, or with more than half of its pixels at its largest value
    (saturated, constant), gives no verdict.
    """
    height, width = plane.shape
    step = _step(max(height, width))
    rows, columns = round(height / step), round(width / step)
    room = 2 * _lags(step)  # a block must hold the shifts that are looked for
    down, across = (max(2, min(3, n // room), round(n / BLOCK)) for n in (rows, columns))
    block = rows // down, columns // across
    nothing = Features((height, width), step, block)
    if min(block) < room:
        return nothing
    # Edges are taken at twice the resolution of the grid: half of what they tell is finer than it.
    fine = _resize(plane, round(2 * height / step), round(2 * width / step)) if step > 2 else plane
    grey = _compress(fine.astype(np.float32, copy=False))
    if grey is None:
        return nothing
    showings = (
        _even(_resize(_edges(grey), rows, columns), EVEN_EDGES),
        _even(_resize(grey, rows, columns), EVEN_GREY),
    )
    window = np.outer(_taper(block[0]), _taper(block[1]))
    cut = np.stack([_cut(image, block, down, across) for image in showings])
    cut -= ((cut * window).sum((-2, -1)) / window.sum())[..., None, None]
    spectra = fft.rfft2(cut * window, _fft_shape(block, step), workers=1)
    return Features((height, width), step, block, spectra)


def measure_shift(reference: Features, moving: Features, alike: bool = False) -> Shift:
    """Shift between two planes of one size, within +-`REACH` px. Thread-safe.

    Args:
        reference: features of one plane.
        moving: features of the other one.
        alike: both show the same stain, as a prediction and its truth do. Edges are then not compared
            with grey values, which lie beside them by a part of a pixel.

    Raises:
        ValueError: planes of different size.
    """
    if reference.shape != moving.shape:
        raise ValueError(f"planes of different size: {reference.shape} and {moving.shape}")
    relations = [relation for relation in RELATIONS if not alike or relation[0] == relation[1]]
    found = {relation: _relate(reference, moving, *relation) for relation in relations}
    clear = {r: p for r, p in found.items() if p and p.distinct >= 0.5 and p.error < 2 * ERROR}
    if set(clear) <= {GREY_TO_GREY}:
        return NO_VERDICT
    dy, dx, variance = _pool(list(clear.values()))
    close = 1 / (1 + variance / ERROR**2)
    return Shift(dy, dx, min(close, max(p.distinct for p in clear.values())))


class _Peak(NamedTuple):
    """Place (px) of one relation, its standard error (px), and how far it stands out, 0 to 1."""

    dy: float
    dx: float
    error: float
    distinct: float


def _pool(peaks: list[_Peak]) -> tuple[float, float, float]:
    """Mean place (px) of the relations, and its variance (px^2). Where three or more speak, the one
    that agrees least is left out if it has little weight."""
    place = np.array([(peak.dy, peak.dx) for peak in peaks])
    weight = np.array([1 / (peak.error**2 + BIAS**2) for peak in peaks])
    heard = [weight]
    if len(peaks) > 2:
        few = np.flatnonzero(weight < OUTVOTED * weight.sum())
        heard += [np.where(np.arange(len(peaks)) == one, 0, weight) for one in few]
    return min((_mean(place, w) for w in heard), key=lambda pooled: pooled[2])


def _mean(place: npt.NDArray, weight: npt.NDArray) -> tuple[float, float, float]:
    total = weight.sum()
    dy, dx = weight @ place / total
    scatter = weight @ ((place - (dy, dx)) ** 2).sum(1) / total
    return float(dy), float(dx), float(1 / total + scatter)


def _relate(reference: Features, moving: Features, a: int, b: int, either: bool) -> _Peak | None:
    """The peak of the correlation of showing `a` with showing `b`; `either` sign counts if asked."""
    if reference.spectra is None or moving.spectra is None:
        return None
    maps = _correlate(reference.spectra[a], moving.spectra[b], reference)
    total = maps.sum(0)
    if either and -total.min() > total.max():
        maps, total = -maps, -total
    reach = total.shape[0] // 2
    count = len(maps)
    (row,), (column,) = top = _summit(total[None])
    if max(abs(row - reach), abs(column - reach)) > REACH / reference.step:
        return None
    without = np.stack(_summit(total - maps))
    error = math.sqrt((count - 1) * without.var(1).sum()) * reference.step
    y, x = (round(float(t[0])) for t in top)
    height = np.abs(total) if either else total
    away = np.hypot(*np.ogrid[-y : len(total) - y, -x : len(total) - x]) > RIVAL
    far = divmod(int(np.argmax(np.where(away, height, -np.inf))), total.shape[1])
    sign = np.sign(total[far]) if either else 1
    lead = maps[:, y, x] - sign * maps[:, far[0], far[1]]
    spread = float(lead.std(ddof=1)) / math.sqrt(count)
    score = max(float(lead.mean()), 0.0) / spread if spread > 0 else 0.0
    place = (float(row) - reach) * reference.step, (float(column) - reach) * reference.step
    return _Peak(*place, error, score**2 / (score**2 + DISTINCT**2))


def _correlate(a: npt.NDArray[np.complex64], b: npt.NDArray[np.complex64], like: Features) -> Float:
    """(blocks, lags, lags): correlation of each block, lag 0 in the middle, free of the overlap
    of the windows, which would draw peaks towards lag 0."""
    shape = _fft_shape(like.block, like.step)
    reach = _lags(like.step)
    whole = fft.irfft2(np.conj(a) * b, shape, workers=1)
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    overlap = [
        np.correlate(_taper(n), _taper(n), "full")[n - 1 - reach : n + reach] for n in like.block
    ]
    return np.asarray(whole[:, rows, columns] / np.outer(*overlap), np.float32)


def _summit(maps: Float) -> tuple[npt.NDArray, npt.NDArray]:
    """Row and column of the highest point of each of (N, n, n), by a parabola along each axis."""
    n = maps.shape[-1]
    index = np.arange(len(maps))
    row, column = np.divmod(maps.reshape(len(maps), -1).argmax(1), n)
    y, x = np.clip(row, 1, n - 2), np.clip(column, 1, n - 2)
    top = maps[index, y, x]
    return (
        y + _vertex(maps[index, y - 1, x], top, maps[index, y + 1, x]),
        x + _vertex(maps[index, y, x - 1], top, maps[index, y, x + 1]),
    )


def _vertex(before: npt.NDArray, top: npt.NDArray, after: npt.NDArray) -> npt.NDArray:
    bend = before - 2 * top + after
    return np.clip((before - after) / np.where(bend < 0, 2 * bend, np.inf), -1, 1)


def _step(long: int) -> float:
    """Px a grid pixel: small planes are compared as they are, middle ones at half resolution."""
    return 1.0 if long < 400 else max(2.0, long / GRID)


def _lags(step: float) -> int:
    return math.ceil(REACH / step) + 1


def _fft_shape(block: tuple[int, int], step: float) -> tuple[int, int]:
    """Room for the lags, so that blocks do not wrap around."""
    rows, columns = (cv2.getOptimalDFTSize(n + _lags(step)) for n in block)
    return rows, columns


def _resize(image: npt.NDArray, rows: int, columns: int) -> npt.NDArray:
    if image.shape == (rows, columns):
        return image
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA))


def _compress(image: Float) -> Float | None:
    """Grey values about their median, so that a few bright cells do not outweigh the others; None
    for a plane that is constant or saturated."""
    some = image[::4, ::4]
    middle = float(np.median(some))
    spread = float(np.percentile(np.abs(some - middle), 75))
    if spread == 0:  # an empty background, cut off at one value
        spread = float(some.std())
    if spread == 0 or middle == some.max():
        return None
    return np.arcsinh((image - middle) / (3 * spread))


def _edges(image: Float) -> Float:
    smooth = cv2.GaussianBlur(image, (0, 0), EDGE_SIGMA)
    size = cv2.magnitude(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8),
        cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8),
    )
    floor = 0.3 * float(size.mean()) + 1e-6  # noise of an empty background is no edge
    return np.asarray(cv2.log(size + floor), np.float32)


def _even(image: Float, sigma: float) -> Float:
    """Free of local mean and spread, the tails drawn in."""
    detail = image - _blur(image, sigma)
    spread = np.sqrt(np.maximum(_blur(detail * detail, sigma), 0))  # running sums may round below 0
    detail /= spread + 0.2 * spread.mean() + 1e-9
    return np.asarray(detail / np.sqrt(1 + detail * detail / 9))


def _blur(image: Float, sigma: float) -> Float:
    """Two box filters with the variance of a Gaussian, at a cost that does not grow with `sigma`."""
    side = 2 * round(math.sqrt(6 * sigma**2 + 1) / 2 - 0.5) + 1
    return np.asarray(cv2.blur(cv2.blur(image, (side, side)), (side, side)), np.float32)


def _taper(n: int) -> Float:
    """(n,) window: a cosine over `TAPER` pixels, or a quarter of a small block, at either end."""
    width = max(1, min(TAPER, n // 4))
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(width) + 0.5) / width)
    return np.concatenate([rise, np.ones(n - 2 * width), rise[::-1]]).astype(np.float32)


def _cut(image: Float, block: tuple[int, int], down: int, across: int) -> Float:
    """(blocks, h, w); what is left over at the far edges, less than a pixel a block, is dropped."""
    h, w = block
    whole = image[: down * h, : across * w].reshape(down, h, across, w)
    return np.asarray(whole.swapaxes(1, 2).reshape(-1, h, w))
