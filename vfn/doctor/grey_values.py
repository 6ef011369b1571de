"""Findings on grey values: bit depth, saturation, empty images."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from vfn.data.config import DataConfig
from vfn.data.images import EXACT
from vfn.data.intensity import stretched
from vfn.doctor.findings import DAMAGED, FATAL, LOOK, NOTE, Finding, of_field
from vfn.doctor.measure import PlaneStats

CLIPPED_NOTE, CLIPPED, CLIPPED_AWAY = 0.0005, 0.01, 0.5  # share of the pixels
# Share of the 4x4 blocks that stand out. One nucleus of 25 pixels in 520x696 is 0.0014.
EMPTY = 0.0003
SCALED, SCALED_FIELDS, OFFSET = 4.0, 4, 20  # bit depth: factor, fields, least background level


def bit_depths(
    planes: Mapping[str, PlaneStats], name: str, config: DataConfig
) -> Iterator[Finding]:
    """Mixed bit depths; one depth throughout that is not the dtype's."""
    # What is empty or saturated is told by itself.
    whole = {
        n: p for n, p in planes.items()
        if "int" in p.dtype and not empty(p) and p.top < CLIPPED
    }  # fmt: skip
    if not whole:
        return
    usual = Counter(p.step for p in whole.values()).most_common(1)[0][0]
    odd = {
        n: f"its grey values go in steps of {p.step}, those of most fields in steps of {usual}"
        for n, p in whole.items()
        if p.step != usual
    }
    for field, reason in {**odd, **_scaled(whole), **odd}.items():
        yield of_field(
            "depth", field, f"{field}: {name} has another bit depth or scale than the rest: {reason}.",
            "export all fields in the same way, without stretching the grey values", name,
        )  # fmt: skip
    yield from _unused_bits(whole, usual, name, config)


def _unused_bits(
    whole: Mapping[str, PlaneStats], usual: int, name: str, config: DataConfig
) -> Iterator[Finding]:
    """Note a channel that uses fewer bits than its dtype has, or more than networks see.

    Args:
        usual: step of the grey values in most fields.
    """
    bits = max(p.depth for p in whole.values() if p.step == usual)
    kind = next(iter(whole.values())).dtype
    if usual > 1:
        yield Finding(
            "bits", NOTE,
            f"{name} is {bits}-bit data in {kind}: all grey values are multiples of {usual}, "
            f"at most {2**bits} of them.",
            "export the camera's own grey values if they still exist; else it trains as it is",
            channel=name,
        )  # fmt: skip
    elif any(max(abs(p.low), p.high) > EXACT for p in whole.values()):
        yield Finding(
            "bits", NOTE, f"{name} has whole numbers beyond {EXACT:,}, which networks see rounded to 24 bits.",
            "nothing, unless such small differences mean something",
            channel=name,
        )  # fmt: skip
    elif kind == "uint16" and (bits <= 8 or (bits <= 14 and config.range == "full")):
        yield Finding(
            "bits", NOTE, f"{name} uses {bits} of 16 bits.",
            "data.range=percentile (the default) fits the range to the data; data.range=full "
            "would make it dark",
            channel=name,
        )  # fmt: skip


def _scaled(planes: Mapping[str, PlaneStats]) -> dict[str, str]:
    """Fields whose grey values are those of another camera setting: field -> how one sees it."""
    odd = {}
    background = float(np.median([p.quantiles[0] for p in planes.values()]))
    brightest = float(np.median([p.quantiles[4] for p in planes.values()]))
    for name, p in planes.items():
        ceiling = p.top > 0 and p.step == 1 and p.high + 1 in (256, 1024, 4096, 16384)
        if ceiling and brightest > 2 * (p.high + 1):
            odd[name] = f"it is cut off at {p.high:g}, most fields go beyond {brightest:g}"
        elif len(planes) >= SCALED_FIELDS and background >= OFFSET:
            factors = (p.quantiles[0] / background, p.quantiles[4] / brightest)
            if min(factors) > SCALED:
                odd[name] = f"background and bright pixels are about {factors[1]:.3g} times higher"
            elif max(factors) < 1 / SCALED:
                times = 1 / factors[1] if factors[1] > 0 else math.inf
                odd[name] = f"background and bright pixels are about {times:.3g} times lower"
    return odd


def saturation(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
    """Find fields whose brightest pixels are cut off."""
    shares = {n: p.top for n, p in planes.items() if not p.constant}
    if not shares:
        return
    clipped = {n: share for n, share in shares.items() if share >= CLIPPED}
    worst = max(shares, key=lambda n: shares[n])
    advice = "shorten the exposure or lower the gain"
    if len(clipped) > DAMAGED * len(planes):
        typical = float(np.median(list(shares.values())))
        yield Finding(
            "saturated", FATAL if typical > CLIPPED_AWAY else LOOK,
            f"{name} is over-exposed: in {len(clipped)} of {len(planes)} fields 1 % of the pixels or "
            f"more are cut off at the top, most in {worst} ({100 * shares[worst]:.3g} %).",
            f"{advice} and take it again; cut-off pixels carry no intensity",
            tuple(clipped), name,
        )  # fmt: skip
        return
    for field, share in clipped.items():
        yield of_field(
            "saturated", field,
            f"{field}: {100 * share:.3g} % of the pixels of {name} are cut off at "
            f"{planes[field].high:g}.", f"{advice} and take it again, or leave the field out", name,
        )  # fmt: skip
    some = [n for n, share in shares.items() if CLIPPED_NOTE <= share < CLIPPED]
    if some:
        most = max(some, key=lambda n: shares[n])
        yield Finding(
            "saturated", NOTE,
            f"{name}: the brightest pixels are cut off in {len(some)} of {len(planes)} fields, at "
            f"most {100 * shares[most]:.2g} % of them ({most}).",
            "harmless for debris or a few bright cells; else shorten the exposure",
            tuple(some), name,
        )  # fmt: skip


def stretching(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
    """Note images that were stretched one by one."""
    kinds = {p.dtype for p in planes.values()}
    images = [(p.low, p.high, p.top) for p in planes.values()]
    if len(kinds) == 1 and stretched(images, *kinds):
        low, high, _ = images[0]
        yield Finding(
            "stretched", NOTE,
            f"{name}: each of the {len(planes)} images runs from {low:g} to {high:g}: they were "
            "stretched one by one, so that amounts of stain cannot be compared between fields.",
            "export the camera's own grey values if they still exist; shapes and counts train as they are",
            tuple(planes), name,
        )  # fmt: skip


def empty(plane: PlaneStats) -> bool:
    """No signal above the noise."""
    return plane.constant or plane.structure < EMPTY


def empty_images(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
    """Find fields in which a channel shows nothing."""
    for field, p in planes.items():
        if not empty(p):
            continue
        what = (
            f"all pixels are {p.low:g}"
            if p.constant
            else f"nothing stands out from the noise ({100 * p.structure:.2g} % of the area)"
        )
        yield of_field(
            "empty", field, f"{field}: {name} is empty, {what}.",
            "check the file and the staining; leave the field out unless an empty one is meant", name,
        )  # fmt: skip
