"""Findings on optics: illumination, focus, noise, shifts between channels."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vfn.data.registration import Shift
from vfn.doctor.findings import LOOK, NOTE, Finding, of_field
from vfn.doctor.grey_values import empty
from vfn.doctor.measure import PlaneStats
from vfn.doctor.reading import FieldStats, Key

NOISY = 0.05  # noise as a part of the signal's range
STEADY_NOTE, STEADY, STRAY = 1.0, 2.0, 1.5  # pixels of shift
BLUR, BLUR_SPREADS, FOCUS_FLOOR, FOCUS_FIELDS = 1.0, 5.0, 0.15, 5  # octaves of `focus`
EVEN = 0.03  # spread of an even background, over which a single field shows the illumination
DIM_CORNER, DARK_CORNER = 0.8, 0.7  # darkest corner over centre
AVERAGED_FIELDS, FALLOFF_ERRORS = 8, 4.0  # for illumination that only an average shows
DIM_AVERAGE = 0.7


def corner_ratio(plane: PlaneStats) -> float:
    """Darkest corner over the centre of the field; NaN where the content hides it."""
    middle = plane.grid[4:-4, 4:-4]
    centre = float(np.median(middle))
    spread = float(np.median(np.abs(middle - centre))) / 0.6745
    if centre <= 0 or spread > EVEN * centre:
        return math.nan
    return float(plane.grid[[0, 0, -1, -1], [0, -1, 0, -1]].min()) / centre


def uneven_illumination(
    planes: Mapping[str, PlaneStats], name: str, corrected: bool
) -> Iterator[Finding]:
    """A single field shows its illumination where the background is even and bright (transmitted
    light); stains show it in the average over fields, if it is larger than its error."""
    one_size = len({p.shape for p in planes.values()}) == 1
    if corrected:
        advice = "data.illumination=true corrects it, as it is given"
    elif one_size:
        advice = "data.illumination=true corrects it; or crop the fields"
    else:
        advice = "crop the fields; data.illumination=true corrects it in fields of one size"
    ratios = {n: corner_ratio(p) for n, p in planes.items()}
    known = {n: r for n, r in ratios.items() if not math.isnan(r)}
    if len(known) < max(1, len(planes) / 2):
        yield from _dim_average(planes, name, advice)
        return
    typical = float(np.median(list(known.values())))
    dark = tuple(n for n, r in known.items() if max(r, typical) < DARK_CORNER)
    mend = bool(dark) and not corrected
    if typical < DIM_CORNER:
        yield Finding(
            "illumination", LOOK if mend else NOTE,
            f"{name}: the darkest corner has {100 * typical:.0f} % of the light of the centre "
            f"(median of {len(known)} fields, lowest {100 * min(known.values()):.0f} %).",
            advice, dark, name,
            setting="data.illumination=true" if mend and one_size else "",
        )  # fmt: skip


def _dim_average(planes: Mapping[str, PlaneStats], name: str, advice: str) -> Iterator[Finding]:
    """Compare corners and centre in the average over the fields."""
    lit = [p for p in planes.values() if not empty(p)]
    if len(lit) < AVERAGED_FIELDS:
        return
    grids = np.stack([p.grid - p.quantiles[0] for p in lit])
    grids /= np.maximum(grids.mean((1, 2), keepdims=True), 1e-9)
    corners = grids[:, [0, 0, 1, 1, -1, -1, -2, -2], [0, 1, 0, -1, 0, 1, -1, -2]].mean(1)
    centres = grids[:, 5:-5, 5:-5].mean((1, 2))
    difference = centres - corners
    error = float(difference.std(ddof=1)) / math.sqrt(len(lit))
    ratio = float(corners.mean() / centres.mean())
    if ratio < DIM_AVERAGE and float(difference.mean()) > FALLOFF_ERRORS * error:
        yield Finding(
            "illumination", NOTE,
            f"{name}: on average over {len(lit)} fields the corners have {100 * ratio:.0f} % of the "
            "signal of the centre.", advice, channel=name,
        )  # fmt: skip


def out_of_focus(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
    """Find fields with much less fine detail than the others."""
    scores = {n: p.focus for n, p in planes.items() if not empty(p)}
    valid = np.array([s for s in scores.values() if not math.isnan(s)])
    if len(valid) < max(FOCUS_FIELDS, 0.8 * len(scores)):
        return
    middle = float(np.median(valid))
    spread = max(1.4826 * float(np.median(np.abs(valid - middle))), FOCUS_FLOOR)
    for field, score in scores.items():
        lost = math.inf if math.isnan(score) else middle - score
        if lost > max(BLUR, BLUR_SPREADS * spread):
            how = f"{2**lost:.0f} times less" if math.isfinite(lost) else "no"
            yield of_field(
                "focus", field,
                f"{field}: {name} looks out of focus, with {how} fine detail (relative to coarse) "
                f"than the other {len(scores) - 1} fields.",
                "look at it; leave the field out if it is blurred", name,
            )  # fmt: skip


def noisy_images(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
    """Find channels whose noise is large against their signal."""
    shares = [p.noise_share for p in planes.values() if not empty(p)]
    if shares and float(np.median(shares)) > NOISY:
        yield Finding(
            "noise", NOTE,
            f"{name} is noisy: the noise of a pixel is {100 * float(np.median(shares)):.0f} % of the "
            "range of the signal (median of the fields).",
            "longer exposure or averaging helps; as a target its noise cannot be predicted and "
            "bounds every score",
            channel=name,
        )  # fmt: skip


def channel_shifts(
    fields: Sequence[FieldStats], names: Mapping[Key, str], registered: bool
) -> Iterator[Finding]:
    """A steady shift of a target over the set, and single fields that stray from it; no more than
    notes where `data.register` is on."""
    for key in dict.fromkeys(key for f in fields for key in f.shifts):
        sure = {f.name: f.shifts[key] for f in fields if key in f.shifts and f.shifts[key].sure}
        if sure:
            pair = f"{names[key]} is shifted against {names[fields[0].reference]}"
            yield from _shifts(sure, pair, names[key], len(fields), registered)


def _shifts(
    sure: Mapping[str, Shift], pair: str, name: str, count: int, registered: bool
) -> Iterator[Finding]:
    """Find the shifts of one target.

    Args:
        sure: field -> shift, where it is known.
        pair: the target is shifted against the reference, in words.
        count: of all fields.
    """
    serious = NOTE if registered else LOOK
    remedy = "data.register=true moves it back" + (", as it is given" if registered else "")
    setting = "" if registered else "data.register=true"
    places = np.array([(s.dy, s.dx) for s in sure.values()])
    centre = np.median(places, axis=0)
    near = np.hypot(*(places - centre).T) <= STEADY_NOTE
    # Fields that agree with each other show how the channels lie; two that do not, nothing.
    steady = centre if near.mean() > 0.5 else np.zeros(2)
    size = float(np.hypot(*steady))
    if size >= STEADY_NOTE - 0.05:
        text = (
            f"{pair} by {size:.1f} pixels (rows {steady[0]:+.1f}, columns {steady[1]:+.1f} pixels)"
        )
        if count > 1:
            text += f" in all of the set (median of {len(sure)} of {count} fields, where it can be measured)"
        large = size >= STEADY
        yield Finding(
            "shift", serious if large else NOTE, f"{text}.", remedy, tuple(sure) if large else (), name,
            setting=setting,
        )  # fmt: skip
    for field, place in zip(sure, places, strict=True):
        away = float(np.hypot(*(place - steady)))
        if away >= STRAY:
            more = f", {away:.1f} pixels from the other fields" if len(sure) > 1 else ""
            yield Finding(
                "shift", serious,
                f"{field}: {pair} by rows {place[0]:+.1f}, columns {place[1]:+.1f} pixels{more}.",
                remedy if registered else f"{remedy}; or leave the field out",
                (field,), name, () if registered else (field,),
            )  # fmt: skip
