"""Each fault, planted in simulated fields, is found on its field; clean fields are ready."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.odd_files import write_odd_files
from vfn.data.config import DataConfig
from vfn.data.discovery.fields import Field, FilePlane, Time
from vfn.data.proposal import Proposal
from vfn.data.samples import Task
from vfn.data.simulated import Specimen
from vfn.data.wells import with_wells
from vfn.doctor.case import Case
from vfn.doctor.command import judge
from vfn.doctor.findings import FATAL, LOOK, NOTE
from vfn.doctor.likeness import overlap
from vfn.doctor.measure import measure
from vfn.doctor.reading import read_fields
from vfn.errors import UserError

CHANNELS = ("rna", "dna", "mito")
TASK = Task("t", ("rna",), ("dna", "mito"))
SHAPE = (256, 320)
FIELDS = 9


@dataclass(frozen=True, eq=False)
class Pixels:
    """A plane that is already there; or that cannot be read."""

    array: np.ndarray | None = None
    pixel_size: float | None = None

    def read(self) -> np.ndarray:
        if self.array is None:
            raise UserError("A03_rna.tif: is truncated; copy it anew")
        return self.array


Planes = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def clean() -> Planes:
    """Field -> channel -> pixels."""
    specimens = {f"f{n}": Specimen(n, SHAPE) for n in range(FIELDS)}
    return {n: {c: s.render(c, 0.0, "uint16") for c in CHANNELS} for n, s in specimens.items()}


def fields_of(planes: Mapping[str, Mapping[str, np.ndarray | None]], **where: str) -> list[Field]:
    return [
        Field(name, {(c, 0.0): Pixels(p) for c, p in stack.items()}, **where)
        for name, stack in sorted(planes.items())
    ]


def look(
    planes: Mapping[str, Mapping[str, np.ndarray | None]],
    task: Task = TASK,
    damaged: Sequence[UserError] = (),
    **config: object,
) -> Case:
    data_config = DataConfig.from_dict({"name": "folder", "split": "field", **config})
    fields = with_wells(fields_of(planes))
    return judge(list(read_fields(fields, task)), task, data_config, damaged)


def kinds(case: Case) -> set[str]:
    return {f.kind for f in case.findings if f.severity != NOTE}


def change(
    planes: Planes, name: str, channel: str, how: Callable[[np.ndarray], np.ndarray | None]
) -> dict[str, dict[str, np.ndarray | None]]:
    return {**planes, name: {**planes[name], channel: how(planes[name][channel])}}


def test_clean_fields_are_ready_without_a_word(clean: Planes) -> None:
    case = look(clean)
    assert case.verdict == "ready"
    assert list(case.findings) == []
    assert case.excluded == {}
    assert set(case.parts) == set(clean)


def background(image: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(210, 12, image.shape).astype(np.uint16)


def exposed(image: np.ndarray) -> np.ndarray:
    high = image.astype(float) * (65535 / np.quantile(image, 0.16))
    return high.clip(0, 65535).astype(np.uint16)


PLANTED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray | None]]] = {
    "unreadable": ("rna", lambda image: None),
    "empty": ("dna", background),
    "saturated": ("mito", exposed),
    "focus": ("dna", lambda image: cv2.GaussianBlur(image, (0, 0), 5.0)),
    "shift": ("mito", lambda image: np.roll(image, (4, -3), axis=(0, 1))),
    "dtype": ("mito", lambda image: (image >> 8).astype(np.uint8)),
    "size": ("dna", lambda image: image[:-16]),
    "depth": ("mito", lambda image: image >> 4),
}


def test_images_stretched_one_by_one_are_noted(clean: Planes) -> None:
    def stretch(image: np.ndarray) -> np.ndarray:
        part = (image - image.min()) / np.ptp(image)
        return np.round(255 * part).astype(np.uint8)

    planes = {f: {**stack, "mito": stretch(stack["mito"])} for f, stack in clean.items()}
    (note,) = (f for f in look(planes).findings if f.kind == "stretched")
    assert (note.severity, note.channel, len(note.fields)) == (NOTE, "mito", FIELDS)
    assert "from 0 to 255" in note.text
    assert not any(f.kind == "stretched" for f in look(clean).findings)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_fault_is_found_on_its_field_and_nowhere_else(clean: Planes, kind: str) -> None:
    channel, how = PLANTED[kind]
    case = look(change(clean, "f3", channel, how))
    assert kind in kinds(case)
    assert case.verdict == "look at 1 field"
    assert case.concerned == ("f3",)
    assert {name for name, _ in case.excluded} == {"f3"}


def test_a_bad_target_costs_the_field_that_target_alone(clean: Planes) -> None:
    channel, how = PLANTED["empty"]
    assert set(look(change(clean, "f3", channel, how)).excluded) == {("f3", "dna")}
    only = Task("t", ("rna",), ("dna",))
    case = look(change(clean, "f3", channel, how), only)
    assert set(case.excluded) == {("f3", "")}
    assert set(look(change(clean, "f3", "rna", background)).excluded) == {("f3", "")}


@pytest.mark.parametrize(("one", "other"), [("rna", "dna"), ("dna", "mito"), ("rna", "mito")])
def test_exchanged_channels_are_found(clean: Planes, one: str, other: str) -> None:
    stack = clean["f5"]
    case = look({**clean, "f5": {**stack, one: stack[other], other: stack[one]}})
    swapped = [f for f in case.findings if f.kind == "swap"]
    assert [f.fields for f in swapped] == [("f5",)]
    assert one in swapped[0].text
    assert other in swapped[0].text


def test_two_fields_give_no_verdict_on_exchanged_channels(clean: Planes) -> None:
    stack = clean["f1"]
    few = {"f0": clean["f0"], "f1": {**stack, "dna": stack["mito"], "mito": stack["dna"]}}
    assert "swap" not in kinds(look(few, split="spatial"))


def test_a_steady_shift_is_one_finding_with_its_remedy(clean: Planes) -> None:
    def moved(pixels: int) -> Case:
        return look({n: {**s, "mito": np.roll(s["mito"], pixels, 1)} for n, s in clean.items()})

    (finding,) = [f for f in moved(3).findings if f.channel == "mito"]
    assert (finding.kind, finding.severity, len(finding.fields)) == ("shift", LOOK, FIELDS)
    assert finding.setting == "data.register=true"
    assert finding.exclude == ()
    (finding,) = [f for f in moved(1).findings if f.channel == "mito"]
    assert (finding.kind, finding.severity) == ("shift", NOTE)


def test_copies_are_found_with_other_grey_values_too(clean: Planes) -> None:
    same = look({**clean, "g9": clean["f2"]})
    (finding,) = same.findings
    assert finding.fields == ("f2", "g9")
    assert finding.kind in ("duplicate", "leak")
    assert finding.exclude == ("g9",)
    rng = np.random.default_rng(0)
    altered = {
        c: (p * 0.7 + 300 + rng.normal(0, 40, p.shape)).astype(np.uint16)
        for c, p in clean["f2"].items()
    }
    (finding,) = look({**clean, "g9": altered}).findings
    assert "nearly the same" in finding.text
    # Time points of one position are alike, and are no copies.
    fields = fields_of({**clean, "g9": altered})
    fields = [replace(f, time=Time("p")) if f.name in ("f2", "g9") else f for f in fields]
    config = DataConfig.from_dict({"name": "folder", "split": "field"})
    assert not judge(list(read_fields(fields, TASK)), TASK, config, ()).findings


def test_one_channel_copied_from_another_field(clean: Planes) -> None:
    case = look(change(clean, "f4", "dna", lambda _: clean["f6"]["dna"]))
    (finding,) = [f for f in case.findings if f.kind == "duplicate"]
    assert finding.fields == ("f4", "f6")
    assert finding.channel == "dna"


def test_a_file_that_serves_two_channels(clean: Planes) -> None:
    case = look(change(clean, "f4", "dna", lambda _: clean["f4"]["mito"]))
    assert any(f.kind == "duplicate" and f.fields == ("f4",) for f in case.findings)


def test_a_copy_on_the_other_side_of_the_split_is_a_leak(clean: Planes) -> None:
    case = look({**clean, "g9": clean["f2"]}, test_fields=["g9"])
    (finding,) = case.findings
    assert finding.kind == "leak"
    assert "g9 in testing" in finding.text


def test_wells_that_only_names_tell_may_not_be_shared(clean: Planes) -> None:
    wells = [f"{row}02_s{site}" for row in "ABCD" for site in (1, 2)]
    named = dict(zip(wells, clean.values(), strict=False))
    case = look(named)
    (finding,) = case.findings
    assert finding.kind == "leak"
    assert "read from the names" in finding.text
    assert finding.setting == "data.split=well"
    shared = {name[:3] for name in finding.fields}
    for well in shared:
        assert len({case.parts[f"{well}_s{site}"] for site in (1, 2)}) == 2
    whole = look(named, test_fields=["A02_s1", "A02_s2"], val_fraction=0.01)
    assert all(part == ("test",) for n, part in whole.parts.items() if n.startswith("A02"))
    assert look(named, split="auto").verdict == "ready"


def test_names_that_pair_nothing_are_told_with_a_pattern_and_not_as_damage(clean: Planes) -> None:
    apart = {f"{name}_{c}": {c: p} for name, stack in clean.items() for c, p in stack.items()}
    stats = list(read_fields(fields_of(apart), TASK))
    proposal = Proposal("PATTERN", "REASON", 9)
    case = judge(stats, TASK, DataConfig("folder"), proposal=proposal)
    assert case.verdict.startswith("do not train: by their names no field has all of ")
    assert case.verdict.endswith("""REASON; 'data.pattern="PATTERN"' pairs 9 fields.""")
    assert kinds(case) == {"names"}
    assert case.excluded == {}


def test_known_wells_that_are_split_by_field_leak(clean: Planes) -> None:
    stats = [
        replace(f, samples=tuple(replace(v, well=f"A0{1 + i // 3}") for v in f.samples))
        for i, f in enumerate(read_fields(fields_of(clean), TASK))
    ]  # fmt: skip
    config = {"name": "folder", "split": "field"}
    (finding,) = judge(stats, TASK, DataConfig.from_dict(config)).findings
    assert finding.setting == "data.split=well"
    by_well = DataConfig.from_dict({**config, "split": "well"})
    assert judge(stats, TASK, by_well).verdict == "ready"


def test_overlapping_neighbours_are_matched_by_their_borders() -> None:
    wide = Specimen(5, (300, 740)).render("rna", 0.0, "uint16")
    outlines = [
        measure(part, True).outline for part in (wide[:, :400], wide[:, 340:], wide[::-1, :400])
    ]
    one, neighbour, stranger = (o for o in outlines if o is not None)
    assert overlap(one, neighbour) > 0.8
    assert overlap(neighbour, one) > 0.8
    assert overlap(stranger, neighbour) < 0.7


def test_dark_corners_of_transmitted_light() -> None:
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
    light = np.where(np.hypot(y, x) > 1.2, 0.3, 1.0)
    planes = {}
    for n in range(4):
        phase = 8000 + 400 * cv2.GaussianBlur(rng.normal(0, 8, SHAPE), (0, 0), 3)
        dna = Specimen(n, SHAPE).render("dna", 0.0, "uint16")
        planes[f"f{n}"] = {"phase": (phase * light).astype(np.uint16), "dna": dna}
    case = look(planes, Task("t", ("phase",), ("dna",)))
    (finding,) = [f for f in case.findings if f.kind == "illumination"]
    assert (finding.channel, finding.severity) == ("phase", LOOK)


def test_noise_stretched_bits_and_sizes_are_notes(clean: Planes) -> None:
    rng = np.random.default_rng(0)
    planes = {
        n: {
            "rna": (s["rna"] + rng.normal(0, 1500, SHAPE)).clip(0, 65535).astype(np.uint16),
            "dna": (s["dna"] >> 8) * np.uint16(257),
            "mito": s["mito"],
        }
        for n, s in clean.items()
    }
    case = look(planes)
    assert case.verdict == "ready"
    assert {("noise", "rna"), ("bits", "dna")} <= {(f.kind, f.channel) for f in case.findings}
    mixed = {**clean, "f1": {c: p[:200] for c, p in clean["f1"].items()}}
    assert [(f.kind, f.severity) for f in look(mixed).findings] == [("size", NOTE)]


def test_a_missing_channel_is_named_and_skipped_if_asked(clean: Planes) -> None:
    lacking = {**clean, "f1": {"dna": clean["f1"]["dna"], "mito": clean["f1"]["mito"]}}
    case = look(lacking)
    (finding,) = [f for f in case.findings if f.kind == "unpaired"]
    assert (finding.fields, finding.channel, finding.severity) == (("f1",), "rna", LOOK)
    assert ("f1", "") in case.excluded
    skipped = look(lacking, unpaired="skip")
    assert skipped.verdict == "ready"
    assert skipped.excluded == {}


@pytest.mark.parametrize(
    ("planes", "words"),
    [
        (lambda c: {n: {**s, "dna": background(s["dna"])} for n, s in c.items()}, "dna"),
        (lambda c: {n: {**s, "mito": exposed(s["mito"])} for n, s in c.items()}, "over-exposed"),
        (lambda c: {n: {**s, "rna": None} for n, s in c.items()}, "9 of 9"),
        (lambda c: {n: {**s, "mito": (s["mito"] >> 8).astype(np.uint8)} for n, s in c.items()}, "uint8"),
        (
            lambda c: {
                n: {**c[n], "mito": (c[n]["mito"] >> 8).astype(np.uint8)} if i % 2 else c[n]
                for i, n in enumerate(sorted(c)[:8])
            },
            "mito has no usual pixel type: uint16 in 4, uint8 in 4",
        ),
        (lambda c: {"f0": c["f0"], "f1": c["f1"]}, "too few"),
    ],
    ids=["empty target", "over-exposed", "unreadable", "target dtypes", "mixed dtypes", "two fields"],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(
    clean: Planes, planes: Callable[[Planes], Planes], words: str
) -> None:
    case = look(planes(clean))
    assert case.verdict.startswith("do not train: ")
    assert any(f.severity == FATAL and words in f.text for f in case.findings)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_other_pixel_types_are_ready_too(clean: Planes, dtype: str) -> None:
    scale = 1 / 128 if dtype == "uint8" else 1.0
    planes = {
        n: {c: (p * scale).clip(0, 255 if dtype == "uint8" else None).astype(dtype) for c, p in s.items()}
        for n, s in clean.items()
    }  # fmt: skip
    assert look(planes).verdict == "ready"


def test_one_tiny_field() -> None:
    tiny = {"f0": {c: np.full((20, 20), 7, np.uint8) for c in CHANNELS}}
    assert look(tiny, split="spatial", gap=1).verdict.startswith("do not train")


def test_damaged_files_are_named_and_stop_nothing(clean: Planes, tmp_path: Path) -> None:
    odd = {f"odd{i:03d}": file for i, file in enumerate(write_odd_files(tmp_path / "odd"))}
    fields = [
        *fields_of(clean),
        *(
            Field(n, {("rna", 0.0): FilePlane(f.path), ("dna", 0.0): Pixels(clean["f0"]["dna"])})
            for n, f in odd.items()
        ),
    ]
    stats = list(read_fields(fields, TASK))
    case = judge(stats, TASK, DataConfig("folder", split="field"))
    assert case.verdict.startswith("do not train")  # more than half of the fields are damaged
    told = {f.fields[0]: f.text for f in case.findings if f.kind == "unreadable"}
    for name, file in odd.items():
        if file.pixels is None:
            assert told[name].startswith(str(UserError(f"{file.path}")))
        elif len(file.pixels) == 1:
            assert name not in told
    assert set(clean).isdisjoint(told)


def test_a_damaged_file_of_an_unknown_field_counts(clean: Planes) -> None:
    case = look(clean, damaged=[UserError("x.tif: is truncated; copy it anew")])
    assert case.verdict == "look at 1 field"
    assert [f.text for f in case.findings] == ["x.tif: is truncated; copy it anew"]


def test_fields_that_lack_a_target_are_counted_not_blamed(clean: Planes) -> None:
    lacking = {**clean, "f1": {c: clean["f1"][c] for c in ("rna", "dna")}}
    case = look(lacking)
    assert case.verdict == "ready"
    (finding,) = case.findings
    assert (finding.kind, finding.severity) == ("labels", NOTE)
    assert "dna 9, mito 8" in finding.text


def test_what_training_corrects_is_a_note(clean: Planes) -> None:
    moved = {n: {**s, "mito": np.roll(s["mito"], 3, 1)} for n, s in clean.items()}
    assert kinds(look(moved)) == {"shift"}
    assert look(moved, register=True).verdict == "ready"


def test_planes_of_a_stack_are_judged_apart(clean: Planes) -> None:
    specimens = [Specimen(n, (160, 200)) for n in range(6)]
    fields = [
        Field(
            f"f{n}",
            {("dna", z): Pixels(s.render("dna", z, "uint16")) for z in (0.0, 12.0)},
        )
        for n, s in enumerate(specimens)
    ]
    task = Task("refocus", ("dna@12",), ("dna",))
    case = judge(list(read_fields(fields, task)), task, DataConfig("folder"))
    assert list(case.names.values()) == ["dna at 12 um", "dna at 0 um"]
    assert kinds(case) == set()  # blurred as a whole is no outlier
