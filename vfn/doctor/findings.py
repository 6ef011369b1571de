"""From numbers to findings: what is wrong with which field, in words, and what to do about it."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfn.data.base import DataConfig
from vfn.data.discovery import split_plane
from vfn.data.grid import relative_size
from vfn.data.images import EXACT
from vfn.data.proposal import Proposal
from vfn.data.samples import Task
from vfn.doctor.likeness import swaps
from vfn.doctor.measure import PlaneStats
from vfn.doctor.reading import FieldStats, Key

FATAL, LOOK, NOTE = "fatal", "look", "note"
SEVERITIES = (FATAL, LOOK, NOTE)

OF_NAMES = ("unpaired", "damaged", "split", "labels")  # follow where names pair no field
REPLACE = "replace the file, or leave the field out"
DAMAGED = 0.5  # share of the fields; with more of them there is nothing to train on
CLIPPED_NOTE, CLIPPED, CLIPPED_AWAY = 0.0005, 0.01, 0.5  # share of the pixels
# Share of the 4x4 blocks that stand out. One nucleus of 25 pixels in 520x696 is 0.0014.
EMPTY = 0.0003
NOISY = 0.05  # noise as a part of the signal's range
STEADY_NOTE, STEADY, STRAY = 1.0, 2.0, 1.5  # pixels of shift
BLUR, BLUR_SPREADS, FOCUS_FLOOR, FOCUS_FIELDS = 1.0, 5.0, 0.15, 5  # octaves of `focus`
EVEN = 0.03  # spread of an even background, over which a single field shows the illumination
DIM_CORNER, DARK_CORNER = 0.8, 0.7  # darkest corner over centre
AVERAGED_FIELDS, FALLOFF_ERRORS = 8, 4.0  # for illumination that only an average shows
DIM_AVERAGE = 0.7
SCALED, SCALED_FIELDS, OFFSET = 4.0, 4, 20  # bit depth: factor, fields, least background level


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know.

    Attributes:
        kind: short name; findings of one kind and channel are shown together.
        severity: "fatal" (do not train), "look" (somebody should), "note" (good to know).
        text: the finding in words.
        remedy: what to do, with the setting to type where there is one.
        fields: names of those concerned.
        channel: empty where it is about whole fields or the set.
        exclude: names of the fields that training can do without.
        setting: of `train.py` that mends it, as it is typed.
    """

    kind: str
    severity: str
    text: str
    remedy: str
    fields: tuple[str, ...] = ()
    channel: str = ""
    exclude: tuple[str, ...] = ()
    setting: str = ""


def label(key: Key, keys: Iterable[Key]) -> str:
    """Name of a plane: the channel, with its depth where the channel has several."""
    channel, z = key
    several = len({depth for name, depth in keys if name == channel}) > 1
    return f"{channel} at {z:g} um" if several else channel


def all_keys(fields: Sequence[FieldStats]) -> tuple[Key, ...]:
    """Every plane that the task asks of any field, inputs first."""
    inputs = dict.fromkeys(key for f in fields for key in f.inputs)
    return tuple({**inputs, **dict.fromkeys(key for f in fields for key in f.targets)})


def examine(fields: Sequence[FieldStats], task: Task, config: DataConfig) -> list[Finding]:
    """All findings but those on copies and on the split (see `leakage`), the gravest first."""
    keys = all_keys(fields)
    names = {key: label(key, keys) for key in keys}
    found = [*_unreadable(fields, names), *_missing(fields, names, task, config)]
    found += [*_sizes(fields), *_dtypes(fields, task, names)]
    for key, name in names.items():
        planes = {f.name: f.planes[key] for f in fields if key in f.planes}
        if planes:
            found += _of_channel(planes, name, config)
    found += _shifts(fields, names, config.register)
    found += _swapped(fields, names)
    found += _too_little(fields, found, task)
    return in_order(found)


def unpaired(proposal: Proposal, task: Task) -> Finding:
    """The names of the files pair no field, and a pattern does."""
    return Finding(
        "names", FATAL,
        f"by their names no field has all of {', '.join(task.channels)}: {proposal.reason}; "
        f"{proposal.setting} pairs {proposal.complete} fields.",
        "give that setting to the doctor and to train.py, or pair the files by data.manifest",
        setting=proposal.setting,
    )  # fmt: skip


def in_order(found: Iterable[Finding]) -> list[Finding]:
    """The gravest first, else as they come."""
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def _of_channel(
    planes: Mapping[str, PlaneStats], name: str, config: DataConfig
) -> Iterator[Finding]:
    yield from _depth(planes, name, config)
    yield from _clipping(planes, name)
    yield from _empty(planes, name)
    yield from _illumination(planes, name, config.illumination)
    yield from _focus(planes, name)
    yield from _noise(planes, name)


def _unreadable(fields: Sequence[FieldStats], names: Mapping[Key, str]) -> Iterator[Finding]:
    for entry in fields:
        for key, message in entry.errors.items():
            yield Finding(
                "unreadable", LOOK, message, REPLACE,
                (entry.name,), names[key], (entry.name,),
            )  # fmt: skip


def _missing(
    fields: Sequence[FieldStats], names: Mapping[Key, str], task: Task, config: DataConfig
) -> Iterator[Finding]:
    """Fields that lack a plane; where several stains are targets, each may be missing here and there."""
    for entry in fields:
        if entry.samples or not entry.refused:
            continue
        lacking = ", ".join(names[key] for key in entry.missing)
        have = ", ".join(names[key] for key in entry.keys if key not in entry.missing)
        yield Finding(
            "unpaired", NOTE if config.unpaired == "skip" else LOOK,
            f"{entry.name}: no file for {lacking} (it has {have or 'none'})."
            if lacking else entry.refused,
            "add the file; or data.unpaired=skip leaves such fields out",
            (entry.name,), lacking if len(entry.missing) == 1 else "",
            () if config.unpaired == "skip" else (entry.name,),
        )  # fmt: skip
    if len(task.targets) > 1:
        counts = {
            channel: sum(any(k[0] == channel for k in f.targets if k in f.sources) for f in fields)
            for channel in task.targets
        }
        if min(counts.values()) < len(fields):
            listed = ", ".join(f"{channel} {count}" for channel, count in counts.items())
            yield Finding(
                "labels", NOTE, f"Of {len(fields)} fields, so many have each target: {listed}.",
                "nothing, if that is meant: a field trains the targets that it has",
            )  # fmt: skip


def _sizes(fields: Sequence[FieldStats]) -> Iterator[Finding]:
    sizes: Counter[tuple[int, int]] = Counter()
    binned: Counter[str] = Counter()
    for entry in fields:
        shapes = {key: p.shape for key, p in entry.planes.items()}
        grid = shapes.get(entry.inputs[0], (0, 0))
        apart = {
            key: relative_size(grid, s) for key, s in shapes.items() if s != grid and all(grid)
        }
        if apart and 1.0 not in apart.values():
            binned[", ".join(f"{key[0]} {size:g}" for key, size in apart.items())] += 1
            sizes[grid] += 1
        elif len(set(shapes.values())) > 1:
            listed = ", ".join(f"{key[0]} {h}x{w}" for key, (h, w) in shapes.items())
            yield Finding(
                "size", LOOK, f"{entry.name}: its channels differ in size ({listed} pixels).",
                "export the channels of a field with one size, or leave the field out",
                (entry.name,), "", (entry.name,),
            )  # fmt: skip
        else:
            sizes.update(set(shapes.values()))
    if len(binned) == 1 and binned.total() == len(fields):
        yield Finding(
            "size", NOTE, f"Pixels in those of the first input: {next(iter(binned))}.",
            "nothing: training brings the channels onto the first input's grid, by repeating and averaging",
        )  # fmt: skip
    elif binned:
        listed = "; ".join(f"{n} of {len(fields)}: {what}" for what, n in binned.most_common())
        yield Finding(
            "size", LOOK, f"Fields differ in how channels are binned against the first input ({listed}).",
            "export each channel with one binning throughout",
        )  # fmt: skip
    if len(sizes) > 1:
        listed = ", ".join(f"{n} of {h}x{w}" for (h, w), n in sizes.most_common())
        yield Finding(
            "size", NOTE, f"Fields differ in size: {listed} pixels.",
            "nothing, if all have one pixel size (um); else scale them to one",
        )  # fmt: skip


def _dtypes(
    fields: Sequence[FieldStats], task: Task, names: Mapping[Key, str]
) -> Iterator[Finding]:
    usual: dict[Key, str] = {}
    for key, name in names.items():
        kinds = Counter(f.planes[key].dtype for f in fields if key in f.planes)
        if not kinds:
            continue
        usual[key], most = kinds.most_common(1)[0]
        if len(kinds) > 1 and 2 * most <= kinds.total():
            listed = ", ".join(f"{kind} in {count}" for kind, count in sorted(kinds.items()))
            yield Finding(
                "dtype", FATAL, f"{name} has no usual pixel type: {listed} field(s).",
                "save one channel in one dtype throughout, or train a model for each",
                channel=name,
            )  # fmt: skip
            continue
        for entry in fields:
            if key in entry.planes and entry.planes[key].dtype != usual[key]:
                yield Finding(
                    "dtype", LOOK,
                    f"{entry.name}: {name} is {entry.planes[key].dtype}, in most fields it is "
                    f"{usual[key]}.", "save one channel in one dtype throughout",
                    (entry.name,), name, (entry.name,),
                )  # fmt: skip
    targets = {kind for key, kind in usual.items() if key in {k for f in fields for k in f.targets}}
    if len(targets) > 1:
        yield Finding(
            "dtype", FATAL,
            f"The targets {', '.join(task.targets)} are {' and '.join(sorted(targets))}.",
            "save them in one dtype, or train a model for each",
        )  # fmt: skip


def _depth(planes: Mapping[str, PlaneStats], name: str, config: DataConfig) -> Iterator[Finding]:
    """Mixed bit depths; one depth throughout that is not the dtype's."""
    whole = {n: p for n, p in planes.items() if "int" in p.dtype and not empty(p)}
    whole = {n: p for n, p in whole.items() if p.top < CLIPPED}  # told by itself
    if not whole:
        return
    steps = Counter(p.step for p in whole.values())
    usual = steps.most_common(1)[0][0]
    odd = {
        n: f"its grey values go in steps of {p.step}, those of most fields in steps of {usual}"
        for n, p in whole.items()
        if p.step != usual
    }
    odd |= {n: reason for n, reason in _scaled(whole).items() if n not in odd}
    for field, reason in odd.items():
        yield Finding(
            "depth", LOOK, f"{field}: {name} has another bit depth or scale than the rest: {reason}.",
            "export all fields in the same way, without stretching the grey values",
            (field,), name, (field,),
        )  # fmt: skip
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
            for ratio, words in ((factors, "times higher"), (_inverse(factors), "times lower")):
                if min(ratio) > SCALED:
                    odd[name] = f"background and bright pixels are about {ratio[1]:.3g} {words}"
    return odd


def _inverse(factors: tuple[float, float]) -> tuple[float, float]:
    low, high = (1 / f if f > 0 else math.inf for f in factors)
    return low, high


def _clipping(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
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
        yield Finding(
            "saturated", LOOK,
            f"{field}: {100 * share:.3g} % of the pixels of {name} are cut off at "
            f"{planes[field].high:g}.", f"{advice} and take it again, or leave the field out",
            (field,), name, (field,),
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


def empty(plane: PlaneStats) -> bool:
    """No signal above the noise."""
    return plane.constant or plane.structure < EMPTY


def _empty(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
    for field, p in planes.items():
        if not empty(p):
            continue
        what = (
            f"all pixels are {p.low:g}"
            if p.constant
            else f"nothing stands out from the noise ({100 * p.structure:.2g} % of the area)"
        )
        yield Finding(
            "empty", LOOK, f"{field}: {name} is empty, {what}.",
            "check the file and the staining; leave the field out unless an empty one is meant",
            (field,), name, (field,),
        )  # fmt: skip


def corner_ratio(plane: PlaneStats) -> float:
    """Darkest corner over the centre of the field; NaN where the content hides it."""
    middle = plane.grid[4:-4, 4:-4]
    centre = float(np.median(middle))
    spread = float(np.median(np.abs(middle - centre))) / 0.6745
    if centre <= 0 or spread > EVEN * centre:
        return math.nan
    return float(plane.grid[[0, 0, -1, -1], [0, -1, 0, -1]].min()) / centre


def _illumination(
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
    serious = NOTE if corrected else LOOK
    ratios = {n: corner_ratio(p) for n, p in planes.items()}
    known = {n: r for n, r in ratios.items() if not math.isnan(r)}
    if len(known) >= max(1, len(planes) / 2):
        typical = float(np.median(list(known.values())))
        dark = tuple(n for n, r in known.items() if typical < DARK_CORNER and r < DARK_CORNER)
        if typical < DIM_CORNER:
            yield Finding(
                "illumination", serious if typical < DARK_CORNER else NOTE,
                f"{name}: the darkest corner has {100 * typical:.0f} % of the light of the centre "
                f"(median of {len(known)} fields, lowest {100 * min(known.values()):.0f} %).",
                advice, dark, name,
                setting="data.illumination=true" if dark and one_size and not corrected else "",
            )  # fmt: skip
        return
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


def _focus(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
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
            yield Finding(
                "focus", LOOK,
                f"{field}: {name} looks out of focus, with {how} fine detail (relative to coarse) "
                f"than the other {len(scores) - 1} fields.",
                "look at it; leave the field out if it is blurred", (field,), name, (field,),
            )  # fmt: skip


def _noise(planes: Mapping[str, PlaneStats], name: str) -> Iterator[Finding]:
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


def _shifts(
    fields: Sequence[FieldStats], names: Mapping[Key, str], registered: bool
) -> Iterator[Finding]:
    """A steady shift of a target over the set, and single fields that stray from it; no more than
    notes where `data.register` is on."""
    serious = NOTE if registered else LOOK
    remedy = "data.register=true moves it back" + (", as it is given" if registered else "")
    for key in dict.fromkeys(key for f in fields for key in f.shifts):
        sure = {f.name: f.shifts[key] for f in fields if key in f.shifts and f.shifts[key].sure}
        if not sure:
            continue
        reference = next(names[min(f.inputs, key=lambda k: abs(k[1]))] for f in fields if f.inputs)
        places = np.array([(s.dy, s.dx) for s in sure.values()])
        centre = np.median(places, axis=0)
        near = np.hypot(*(places - centre).T) <= STEADY_NOTE
        # Fields that agree with each other show how the channels lie; two that do not, nothing.
        steady = centre if near.mean() > 0.5 else np.zeros(2)
        size = float(np.hypot(*steady))
        by = f"(rows {steady[0]:+.1f}, columns {steady[1]:+.1f} pixels)"
        if size >= STEADY_NOTE - 0.05:
            yield Finding(
                "shift", serious if size >= STEADY else NOTE,
                f"{names[key]} is shifted against {reference} by {size:.1f} pixels {by} in all of the "
                f"set (median of {len(sure)} of {len(fields)} fields, where it can be measured)."
                if len(fields) > 1 else
                f"{names[key]} is shifted against {reference} by {size:.1f} pixels {by}.",
                remedy, tuple(sure) if size >= STEADY else (), names[key],
                setting="" if registered else "data.register=true",
            )  # fmt: skip
        for field, place in zip(sure, places, strict=True):
            away = float(np.hypot(*(place - steady)))
            if away >= STRAY:
                yield Finding(
                    "shift", serious,
                    f"{field}: {names[key]} is shifted against {reference} by rows {place[0]:+.1f}, "
                    f"columns {place[1]:+.1f} pixels"
                    + (f", {away:.1f} pixels from the other fields." if len(sure) > 1 else "."),
                    remedy if registered else f"{remedy}; or leave the field out",
                    (field,), names[key], () if registered else (field,),
                )  # fmt: skip


def _swapped(fields: Sequence[FieldStats], names: Mapping[Key, str]) -> Iterator[Finding]:
    for swap in swaps(fields, tuple(names)):
        name = fields[swap.field].name
        one, other = names[swap.one], names[swap.other]
        yield Finding(
            "swap", LOOK,
            f"{name}: {one} looks like the {other} of the other fields, and {other} like their {one}.",
            "look at the two; rename the files if they are exchanged, or leave the field out",
            (name,), "", (name,),
        )  # fmt: skip


def _too_little(
    fields: Sequence[FieldStats], found: Sequence[Finding], task: Task
) -> Iterator[Finding]:
    damaged = {
        name
        for finding in found
        if finding.kind in ("unreadable", "unpaired", "size", "dtype") and finding.exclude
        for name in finding.exclude
    }
    if len(damaged) > DAMAGED * len(fields):
        yield Finding(
            "damaged", FATAL,
            f"{len(damaged)} of {len(fields)} fields cannot be used: files are missing or damaged.",
            "mend the files, or check data.channels and data.pattern", tuple(sorted(damaged)),
        )  # fmt: skip
    inputs = [split_plane(c)[0] for c in task.inputs]
    for role, channels in (("input", inputs), ("target", list(task.targets))):
        dead = [c for c in channels if _dead(fields, c)]
        if dead and (role == "target" or len(dead) == len(channels)):
            yield Finding(
                "empty", FATAL,
                f"The {role} {', '.join(dead)} shows nothing above the noise in any field.",
                "check which files data.channels takes for it", channel=dead[0],
            )  # fmt: skip


def _dead(fields: Sequence[FieldStats], channel: str) -> bool:
    planes = [p for f in fields for key, p in f.planes.items() if key[0] == channel]
    return bool(planes) and all(empty(p) for p in planes)
