"""How far two channels of one field are shifted against each other, where transmitted light is one.

Plain correlation fails there: in phase contrast a nucleus is bright, dark or only an outline. What two
channels share is where structures lie. Each plane is therefore shown in two ways, both evened out
by their local mean and spread: its grey value, and the logarithm of its gradient magnitude (how much
edge there is, whatever its sign; Haber and Modersitzki, MICCAI 2006, LNCS 4191, 726-733, register
modalities by gradients). All four relations of the two planes (edge to edge, grey to grey, grey to edge, edge to
grey) are correlated by FFT in blocks of the field, partly whitened so that peaks are sharp (phase
correlation whitens wholly: Kuglin and Hines, 1975).

The blocks are independent witnesses. Leaving out one after the other (the jackknife: Efron, *The
Jackknife, the Bootstrap and Other Resampling Plans*, 1982) gives the standard error of the peak's
place, and their spread tells whether the peak stands out from its best rival. The relation with the
smallest error gives the shift; others that are sure of another shift take its confidence.
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
SMALLEST = 32  # px; smaller planes give no verdict
ERROR = 1.0  # px; a standard error of the shift that halves the confidence
DISTINCT = 2.2  # how many standard errors the peak stands above its rival at half confidence
AGREEMENT = 2.0  # px; relations that differ by more contradict each other

GRID = 512  # long side of the grid on which planes are compared, at most
BLOCK = 88  # side of a block in grid pixels, about
TAPER = 8  # grid pixels over which a block fades in
EDGE_SIGMA = 0.85  # blur before the gradient
EVEN_SIGMA = 10.0  # grid pixels; structures much wider than this are illumination
WHITENING = 0.5  # power of the amplitude spectrum that is divided out; 1 is phase correlation
CUT_OFF = 0.4  # cycles a grid pixel
RIVAL = 3.0  # grid pixels; a second peak farther off than this is a rival
# Which showing of the reference goes with which of the moving plane; 0 edges, 1 grey values. Edges
# agree with a plus sign, or not at all; the others may have either.
RELATIONS = ((0, 0, False), (1, 1, True), (1, 0, True), (0, 1, True))


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
        """Whether the shift may be reported; a shift that is not sure is no verdict."""
        return self.confidence >= SURE


NO_VERDICT = Shift(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Features:
    """What is computed once of a plane; see `features`.

    Attributes:
        shape: (H, W) of the plane.
        step: px a grid pixel.
        block: (h, w) of a block in grid pixels.
        spectra: (2, blocks, FFT rows, FFT columns // 2 + 1), whitened; None if the plane is too
            small or shows nothing.
        power: mean over the blocks of the squared amplitudes, (2, rows, columns).
    """

    shape: tuple[int, int]
    step: float
    block: tuple[int, int]
    spectra: npt.NDArray[np.complex64] | None = None
    power: Float | None = None


def features(plane: npt.NDArray) -> Features:
    """Prepare a plane (H, W), uint8, uint16 or float32, for `measure_shift`. Thread-safe."""
    height, width = plane.shape
    step = _step(max(height, width))
    rows, columns = round(height / step), round(width / step)
    down, across = max(2, round(rows / BLOCK)), max(2, round(columns / BLOCK))
    block = rows // down, columns // across
    nothing = Features((height, width), step, block)
    if min(height, width) < SMALLEST:
        return nothing
    # Edges are taken at twice the resolution of the grid: half of what they tell is finer than it.
    fine = _resize(plane, round(2 * height / step), round(2 * width / step)) if step > 2 else plane
    grey = _compress(fine.astype(np.float32, copy=False))
    if grey is None:
        return nothing
    showings = [_even(_resize(image, rows, columns)) for image in (_edges(grey), grey)]
    window = np.outer(_taper(block[0]), _taper(block[1]))
    cut = np.stack([_cut(image, block, down, across) for image in showings])
    cut -= ((cut * window).sum((-2, -1)) / window.sum())[..., None, None]
    spectra = fft.rfft2(cut * window, _fft_shape(block, step), workers=1)
    power = (spectra.real**2 + spectra.imag**2).mean(1)
    if not (power.sum((-2, -1)) > 0).all():
        return nothing
    weight = np.stack([_whitening(p, spectra.shape[-2]) for p in power])
    return Features((height, width), step, block, spectra * weight[:, None], power * weight**2)


def measure_shift(reference: Features, moving: Features) -> Shift:
    """Shift between two planes of one size, within +-`REACH` px. Thread-safe.

    Raises:
        ValueError: planes of different size.
    """
    if reference.shape != moving.shape:
        raise ValueError(f"planes of different size: {reference.shape} and {moving.shape}")
    found = [peak for relation in RELATIONS if (peak := _relate(reference, moving, *relation))]
    if not found:
        return NO_VERDICT
    best = min(found, key=lambda peak: (peak.confidence < SURE, peak.error))
    doubt = [
        peak.confidence
        for peak in found
        if math.hypot(peak.dy - best.dy, peak.dx - best.dx) > AGREEMENT
    ]
    # Confidence in another shift is doubt in this one.
    return Shift(best.dy, best.dx, min(best.confidence, 1 - max(doubt, default=0.0)))


class _Peak(NamedTuple):
    """Place (px), its standard error (px), and the confidence of one relation."""

    dy: float
    dx: float
    error: float
    confidence: float


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
    rival = np.unravel_index(np.argmax(np.where(away, height, -np.inf)), total.shape)
    lead = maps[:, y, x] - maps[(slice(None), *rival)] * (np.sign(total[rival]) if either else 1)
    spread = float(lead.std(ddof=1)) / math.sqrt(count)
    distinct = max(float(lead.mean()), 0.0) / spread if spread > 0 else 0.0
    confidence = min(1 / (1 + (error / ERROR) ** 2), distinct**2 / (distinct**2 + DISTINCT**2))
    place = (float(row) - reach) * reference.step, (float(column) - reach) * reference.step
    return _Peak(*place, error, confidence)


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
    return (
        int(fft.next_fast_len(block[0] + _lags(step), real=True)),
        int(fft.next_fast_len(block[1] + _lags(step), real=True)),
    )


def _resize(image: npt.NDArray, rows: int, columns: int) -> npt.NDArray:
    if image.shape == (rows, columns):
        return image
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA))


def _compress(image: Float) -> Float | None:
    """Grey values about their median, so that a few bright cells do not outweigh the others; None
    for a plane that shows nothing."""
    some = image[::4, ::4]
    middle = float(np.median(some))
    spread = float(np.percentile(np.abs(some - middle), 75))
    if not spread > 0:
        spread = float(some.std())
    if not (spread > 0 and math.isfinite(spread)):
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


def _even(image: Float) -> Float:
    """Free of local mean and spread, the tails drawn in."""
    detail = image - _wide_blur(image)
    spread = np.sqrt(_wide_blur(detail * detail))
    detail /= spread + 0.2 * spread.mean() + 1e-9
    return np.asarray(detail / np.sqrt(1 + detail * detail / 9))


def _wide_blur(image: Float) -> Float:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), EVEN_SIGMA))


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


def _whitening(power: Float, rows: int) -> Float:
    """Weight of each frequency: the mean amplitude at its radius, less of the finest."""
    columns = 2 * (power.shape[1] - 1)
    radius = np.hypot(fft.fftfreq(rows)[:, None], np.arange(power.shape[1]) / columns)
    ring = (radius * 64).astype(int)
    mean = np.bincount(ring.ravel(), power.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    flat = (mean[ring] + 1e-9 * mean.max()) ** (-WHITENING / 2)
    return np.asarray(flat * np.exp(-((radius / CUT_OFF) ** 4)), np.float32)
