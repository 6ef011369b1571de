import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.data.discovery.fields import Field, FilePlane
from vfn.data.samples import Sample, Task, make_samples
from vfn.data.splits import Split, SplitRule, split_samples, split_spatial
from vfn.errors import UserError

REFOCUS = Task("refocus", ("actin",), ("actin",), (-2.0, 0.0, 2.0))
STAIN = Task("t", ("phase", "er"), ("dapi",))


@dataclass(frozen=True)
class Fake:
    """A plane that is never read."""

    name: str
    pixel_size: float | None = None

    key: str = ""

    def read(self) -> np.ndarray:
        raise AssertionError("samples are made and split without reading")


def make_field(name: str, *keys: tuple[str, float], plate: str = "", well: str = "") -> Field:
    return Field(name, {key: Fake(f"{name} {key}") for key in keys}, plate, well)


def stain_field(name: str, plate: str = "", well: str = "") -> Field:
    return make_field(name, ("phase", 0.0), ("er", 0.0), ("dapi", 0.0), plate=plate, well=well)


# --- samples ---


def test_planes_come_in_the_order_of_the_task() -> None:
    (sample,) = make_samples([stain_field("a", "P", "A1")], STAIN)
    assert [str(p.name) for p in sample.inputs] == ["a ('phase', 0.0)", "a ('er', 0.0)"]
    assert [str(p.name) for p in sample.targets] == ["a ('dapi', 0.0)"]
    assert (sample.name, sample.field, sample.plate, sample.well) == ("a", "a", "P", "A1")


def test_every_plane_is_a_sample_of_its_own() -> None:
    field = make_field("a", *(("actin", z) for z in (-4.0, -2.0, 0.0, 2.0)))
    samples = make_samples([field], REFOCUS)
    assert [v.name for v in samples] == ["a_z-2", "a_z0", "a_z2"]
    assert {v.field for v in samples} == {"a"}
    assert {v.targets for v in samples} == {(field.planes["actin", 0.0],)}
    # Prediction needs no target, and takes every plane there is.
    assert len(make_samples([field], REFOCUS, targets=False)) == 4


def test_a_stack_gives_its_focal_plane_to_tasks_without_planes() -> None:
    keys = [(c, z) for c in ("phase", "er", "dapi") for z in (-3.0, 0.0, 3.0)]
    (sample,) = make_samples([make_field("a", *keys)], STAIN)
    assert sample.name == "a"
    assert all("0.0)" in p.name for p in sample.inputs + sample.targets)


@pytest.mark.parametrize(
    ("field", "task", "words"),
    [
        (make_field("a", ("phase", 0.0), ("dapi", 0.0)), STAIN, ["field a", "no file for er"]),
        (make_field("a", *((c, 5.0) for c in ("phase", "er", "dapi"))), STAIN, ["dapi at 0 um"]),
        (make_field("a", ("phase", 1.0), ("phase", 2.0)), STAIN, ["1, 2 um", "task.input_z"]),
        (make_field("a", ("actin", 9.0)), REFOCUS, ["no plane at z = -2, 0, 2 um"]),
        (make_field("a", ("actin", 2.0)), REFOCUS, ["actin at 0 um"]),
    ],
)
def test_incomplete_fields(
    field: Field, task: Task, words: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_field("b", *((c, 0.0) for c in task.channels))
    with pytest.raises(UserError) as caught:
        make_samples([field, whole], task)
    assert all(word in str(caught.value) for word in words)
    with caplog.at_level(logging.WARNING):
        samples = make_samples([field, whole], task, unpaired="skip")
    assert {v.field for v in samples} == {"b"}
    assert "1 of 2 fields left out" in caplog.text  # never silently
    with pytest.raises(UserError, match="none of 1 field"):
        make_samples([field], task, unpaired="skip")


def test_unknown_unpaired_rule() -> None:
    with pytest.raises(UserError, match=r"data\.unpaired=ignore"):
        make_samples([stain_field("a")], STAIN, unpaired="ignore")


# --- splits by group ---


def make_plates(plates: int, wells: int, sites: int, planes: int, named: bool) -> list[Sample]:
    samples = []
    for p in range(plates):
        for w in range(wells):
            for s in range(sites):
                field = f"P{p}_W{w}_s{s}"
                plate, well = (f"P{p}" if plates > 1 else "", f"W{w}") if named else ("", "")
                samples += [
                    Sample(f"{field}_z{z}", field, (Fake(f"{field} {z}"),), (), None, plate, well)
                    for z in range(planes)
                ]
    return samples


def ids(samples: Sequence[Sample]) -> set[str]:
    return {sample.name for sample in samples}


def check_parts(samples: Sequence[Sample], split: Split, by: str) -> None:
    parts = [split.train, split.val, split.test]
    assert all(parts)
    assert sum(len(part) for part in parts) == len(samples)
    assert set.union(*(ids(part) for part in parts)) == ids(samples)
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not {v.field for v in one} & {v.field for v in other}
            if by != "field":
                wells = [{(v.plate, v.well) for v in part if v.well} for part in (one, other)]
                assert not wells[0] & wells[1]
    if by == "plate":
        assert not {v.plate for v in split.test} & {v.plate for v in split.train + split.val}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    plates=st.integers(1, 4), wells=st.integers(1, 7), sites=st.integers(1, 4),
    planes=st.integers(1, 3), named=st.booleans(),
    by=st.sampled_from(["auto", "plate", "well", "field"]),
    test=st.floats(0.01, 0.99), val=st.floats(0.01, 0.99), seed=st.integers(0, 2**31),
    shuffle=st.randoms(use_true_random=False),
)  # fmt: skip
def test_groups_are_never_parted(
    plates: int, wells: int, sites: int, planes: int, named: bool, by: str, test: float,
    val: float, seed: int, shuffle: object,
) -> None:  # fmt: skip
    samples = make_plates(plates, wells, sites, planes, named)
    rule = SplitRule(by, test, val, seed=seed)
    real = by
    if by == "auto":
        real = "plate" if named and plates > 1 else "well" if named else "field"
    unknown = (real == "plate" and (plates == 1 or not named)) or (real == "well" and not named)
    if unknown:
        with pytest.raises(UserError, match=rf"data\.split={by}: field P0.* has no {real}"):
            split_samples(samples, rule)
        return
    fields = plates * wells * sites
    units = fields if real == "field" or not named else plates * wells
    left = units - (wells if real == "plate" else 1)
    if left < 2:
        with pytest.raises(UserError, match=r"too few .*data\.split=spatial"):
            split_samples(samples, rule)
        return
    split = split_samples(samples, rule)
    assert split.by == real
    check_parts(samples, split, real)
    if real == "plate":
        assert {v.plate for v in split.test} == {f"P{plates - 1}"}
    # Neither the order of the files nor chance plays a part.
    shuffled = list(samples)
    shuffle.shuffle(shuffled)  # type: ignore[attr-defined]
    again = split_samples(shuffled, rule)
    for part in ("train", "val", "test"):
        assert ids(getattr(again, part)) == ids(getattr(split, part))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(3, 200), test=st.floats(0.01, 0.99), val=st.floats(0.01, 0.99))
def test_fractions_are_as_asked(n: int, test: float, val: float) -> None:
    split = split_samples(make_plates(1, n, 1, 1, named=False), SplitRule("field", test, val))
    tested = min(max(1, round(test * n)), n - 2)
    assert len(split.test) == tested
    assert len(split.val) == min(max(1, round(val * (n - tested))), n - tested - 1)


def test_another_seed_is_another_split() -> None:
    samples = make_plates(1, 40, 1, 1, named=True)
    assert (
        len({frozenset(ids(split_samples(samples, SplitRule(seed=s)).test)) for s in range(5)}) > 1
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    known=st.lists(st.booleans(), min_size=6, max_size=6), seed=st.integers(0, 1000)
)  # fmt: skip
def test_wells_stay_whole_where_only_some_are_known(known: list[bool], seed: int) -> None:
    samples = [
        Sample(f"f{w}{s}", f"f{w}{s}", (), (), None, "", f"W{w}" if known[w] else "")
        for w in range(6)
        for s in range(3)
    ]
    split = split_samples(samples, SplitRule(seed=seed))
    check_parts(samples, split, "well" if any(known) else "field")


def test_plates_named_for_testing() -> None:
    samples = make_plates(3, 3, 2, 1, named=True)
    split = split_samples(samples, SplitRule(test_plates=("P0",)))
    assert {v.plate for v in split.test} == {"P0"}
    check_parts(samples, split, "plate")
    split = split_samples(samples, SplitRule(test_plates=("P0", "P2")))
    assert {v.plate for v in split.test} == {"P0", "P2"}
    check_parts(samples, split, "plate")


def test_fields_named_for_testing() -> None:
    samples = make_plates(1, 4, 2, 3, named=False)
    split = split_samples(samples, SplitRule(test_fields=("P0_W1_s0", "P0_W3_s1")))
    assert {v.field for v in split.test} == {"P0_W1_s0", "P0_W3_s1"}
    assert len(split.test) == 6
    check_parts(samples, split, "field")


def test_fields_named_for_testing_must_be_whole_wells() -> None:
    samples = make_plates(1, 4, 2, 1, named=True)
    with pytest.raises(UserError, match=r"well W1 would be in training and testing"):
        split_samples(samples, SplitRule(test_fields=("P0_W1_s0",)))
    split = split_samples(samples, SplitRule(test_fields=("P0_W1_s0", "P0_W1_s1")))
    check_parts(samples, split, "well")
    split = split_samples(samples, SplitRule("field", test_fields=("P0_W1_s0",)))
    check_parts(samples, split, "field")


def test_wells_named_for_testing() -> None:
    samples = make_plates(2, 4, 2, 1, named=True)
    split = split_samples(samples, SplitRule(test_wells=("w1",)))
    assert {(v.plate, v.well) for v in split.test} == {("P0", "W1"), ("P1", "W1")}
    check_parts(samples, split, "well")
    split = split_samples(samples, SplitRule(test_wells=("p1_w1", "P0/W3")))
    assert {(v.plate, v.well) for v in split.test} == {("P1", "W1"), ("P0", "W3")}
    check_parts(samples, split, "well")
    alone = make_plates(1, 4, 2, 1, named=True)
    split = split_samples(alone, SplitRule("field", test_wells=("W2",)))
    assert {v.well for v in split.test} == {"W2"}
    with pytest.raises(UserError, match=r"data\.test_wells: no field has a well"):
        split_samples(make_plates(1, 4, 2, 1, named=False), SplitRule(test_wells=("W1",)))


def test_names_for_testing_as_people_write_them() -> None:
    samples = [
        Sample(n, n, (), (), plate="Plate 1", well=n[:1]) for n in ("A-x y", "B_x", "C", "D")
    ]
    for name in ("a_X-Y", "A-x y", "A x y"):
        split = split_samples(samples, SplitRule(test_fields=(name,)))
        assert [v.field for v in split.test] == ["A-x y"]
    twins = [Sample(n, n, (), ()) for n in ("a_1", "A-1", "b", "c", "d")]
    assert [v.field for v in split_samples(twins, SplitRule(test_fields=("A-1",))).test] == ["A-1"]
    with pytest.raises(UserError, match="a 1: may be A-1 or a_1; write it as it is"):
        split_samples(twins, SplitRule(test_fields=("a 1",)))


ALL_FIELDS = [f"P{p}_W{w}_s{s}" for p in range(2) for w in range(3) for s in range(2)]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (SplitRule("wells"), ["data.split=wells", "auto, plate, well, field or spatial"]),
        (SplitRule(test_fraction=0.0), ["data.test_fraction=0.0"]),
        (SplitRule(test_fraction=1.0), ["data.test_fraction=1.0"]),
        (SplitRule(val_fraction=-0.1), ["data.val_fraction=-0.1"]),
        (SplitRule(gap=-1), ["data.gap=-1"]),
        (SplitRule(test_plates=("P7",)), ["no plate P7", "P0, P1"]),
        (SplitRule(test_fields=("x",)), [f"no field x; there are {', '.join(ALL_FIELDS)}"]),
        (SplitRule(test_fields=("P0W1_s0",)), ["no field P0W1_s0 (did you mean P0_W1_s0?)"]),
        (SplitRule(test_wells=("W9",)), ["data.test_wells: no well W9", "P0/W0, P0/W1", "W2"]),
        (SplitRule(test_wells=("W1",), test_fields=("P0_W0_s0",)), ["test_wells and", "give one"]),
        (SplitRule(test_plates=("P1",), test_fields=("P0_W0_s0",)), ["give one"]),
        (SplitRule(test_plates=("P0", "P1")), ["0 of them not on test plate P0, P1"]),
    ],
)
def test_rules_that_cannot_be_followed(rule: SplitRule, words: Sequence[str]) -> None:
    with pytest.raises(UserError) as caught:
        split_samples(make_plates(2, 3, 2, 1, named=True), rule)
    assert all(word in str(caught.value) for word in words)


def test_few_wells_with_many_fields_may_be_shared_on_request() -> None:
    samples = make_plates(1, 1, 9, 1, named=True)
    with pytest.raises(UserError, match=r"1 well\(s\) found.*data\.split=field"):
        split_samples(samples, SplitRule())
    check_parts(samples, split_samples(samples, SplitRule("field")), "field")


# --- spatial splits ---


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300), gap=st.integers(0, 60),
    test=st.floats(0.01, 0.9), val=st.floats(0.01, 0.9), seed=st.integers(0, 7),
)  # fmt: skip
def test_spatial_parts_keep_their_distance(
    height: int, width: int, gap: int, test: float, val: float, seed: int
) -> None:
    samples = make_plates(1, 1, 2, 2, named=True)
    rule = SplitRule("spatial", test, val, gap=gap, seed=seed)
    shapes = [(height, width)] * len(samples)
    try:
        split = split_spatial(samples, shapes, rule)
    except UserError as exc:
        message = str(exc)
        assert f"{height}x{width}" in message
        assert "data.gap" in message
        # Only where there is no room: half a pixel a part is lost to rounding.
        length = (min if seed // 2 % 2 else max)(height, width)
        assert (length * (1 - test) - gap) * (1 - val) - gap < 2.5
        return
    image = np.arange(height * width).reshape(height, width)
    parts = [split.train, split.val, split.test]
    assert [ids(part) for part in parts] == [ids(samples)] * 3
    regions = []
    for part in parts:
        # The planes of a field are cut alike.
        assert len({repr(sample.region) for sample in part}) == 1
        crop = image[part[0].region]  # type: ignore[index]
        assert crop.size > 0
        rows, columns = np.divmod(crop.ravel(), width)
        regions.append((rows, columns))
        for s, side in zip(part[0].region or (), (height, width), strict=True):
            assert 0 <= s.start < s.stop <= side
    for i, one in enumerate(regions):
        for other in regions[i + 1 :]:
            apart = max(
                max(a.min() - b.max(), b.min() - a.max()) for a, b in zip(one, other, strict=True)
            )
            assert apart > gap  # `gap` whole pixels lie between


def test_four_seeds_make_four_spatial_splits() -> None:
    samples = make_plates(1, 1, 1, 1, named=False)
    tests = [
        split_spatial(samples, [(200, 300)], SplitRule("spatial", seed=seed)).test[0].region
        for seed in range(5)
    ]
    assert len({repr(region) for region in tests[:4]}) == 4
    assert tests[4] == tests[0]


def test_spatial_shares() -> None:
    samples = make_plates(1, 1, 1, 1, named=False)
    split = split_spatial(samples, [(100, 1032)], SplitRule("spatial", 0.25, 0.2, gap=16))
    shapes = [
        np.zeros((100, 1032))[part[0].region].shape for part in (split.train, split.val, split.test)
    ]
    assert shapes == [(100, 1032 - 258 - 152 - 32), (100, 152), (100, 258)]
    turned = split_spatial(samples, [(1032, 100)], SplitRule("spatial", 0.25, 0.2, gap=16))
    assert np.zeros((1032, 100))[turned.test[0].region].shape == (258, 100)


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        (SplitRule("spatial", test_fraction=1.5), "data.test_fraction"),
        (SplitRule("spatial", val_fraction=0.0), "data.val_fraction"),
        (SplitRule("spatial", gap=-3), "data.gap"),
        (SplitRule("spatial", test_fields=("a",)), "data.test_fields"),
        (SplitRule("spatial", test_plates=("a",)), "data.test_plates"),
    ],
)
def test_spatial_rules_that_cannot_be_followed(rule: SplitRule, word: str) -> None:
    with pytest.raises(UserError, match=word):
        split_spatial(make_plates(1, 1, 1, 1, named=False), [(500, 500)], rule)


# --- planes as channels, partial labels ---


def stacked(name: str, depths: Sequence[float], *targets: str) -> Field:
    planes = {("phase", z): FilePlane(Path(f"{name}_{z}.tif")) for z in depths}
    planes |= {(t, 0.0): FilePlane(Path(f"{name}_{t}.tif")) for t in targets}
    return Field(name, planes)


def test_planes_of_a_stack_are_inputs_side_by_side() -> None:
    task = Task("t", ("phase@-4", "phase", "phase@4"), ("dna",))
    assert task.channels == ("phase", "dna")
    assert task.depths == (0.0, -4.0, 4.0)
    (sample,) = make_samples([stacked("f", (-4.0, -2.0, 0.0, 4.0), "dna")], task)
    assert sample.name == "f"
    assert [str(p) for p in sample.inputs] == ["f_-4.0.tif", "f_0.0.tif", "f_4.0.tif"]
    assert [str(p) for p in sample.targets] == ["f_dna.tif"]
    (new,) = make_samples([stacked("f", (-4.0, 0.0, 4.0))], task, targets=False)
    assert new.inputs == sample.inputs
    with pytest.raises(UserError, match=r"no plane for phase at 4 um.*data\.z_step=MICROMETRES"):
        make_samples([stacked("f", (-4.0, 0.0), "dna")], task)


def test_planes_without_the_focal_one() -> None:
    task = Task("t", ("phase@-4", "phase@4"), ("dna",))
    (sample,) = make_samples([stacked("f", (-4.0, 4.0), "dna")], task)
    assert [str(p) for p in sample.inputs] == ["f_-4.0.tif", "f_4.0.tif"]
    (new,) = make_samples([stacked("f", (-4.0, 4.0))], task, targets=False)
    assert new.inputs == sample.inputs


def test_a_field_trains_the_targets_that_it_has() -> None:
    task = Task("t", ("phase",), ("dna", "er"))
    fields = [stacked("a", (0.0,), "dna", "er"), stacked("b", (0.0,), "er")]
    both = make_samples(fields, task)
    assert [[t is not None for t in v.targets] for v in both] == [[True, True], [False, True]]
    assert len(both[1].planes) == 2
    without = stacked("c", (0.0,))
    with pytest.raises(UserError, match="field c: no file for dna, er"):
        make_samples([*fields, without], task)
    assert len(make_samples([*fields, without], task, unpaired="skip")) == 2
    with pytest.raises(UserError, match="field b: no file for dna"):  # the only target
        make_samples(fields, Task("t", ("phase",), ("dna",)))


def test_a_spatial_split_stays_within_what_was_registered() -> None:
    sample = replace(Sample("f", "f", (), ()), region=(slice(3, 43), slice(10, 110)))
    split = split_spatial([sample], [(40, 100)], SplitRule(by="spatial", gap=4))
    for part in (split.train, split.val, split.test):
        rows, columns = part[0].region  # type: ignore[misc]
        assert (rows.start, rows.stop) == (3, 43)
        assert 10 <= columns.start < columns.stop <= 110
    assert split.train[0].region[1].start == 10  # type: ignore[index]
    assert split.test[0].region[1].stop == 110  # type: ignore[index]


def test_channels_whose_names_never_meet_are_told_apart_from_a_missing_file() -> None:
    fields = [make_field("a_z0", ("phase", 0.0)), make_field("b_max", ("er", 0.0))]
    task = Task("t", ("phase",), ("er",))
    with pytest.raises(
        UserError, match=r"none of 2 fields .* a_z0 has phase, b_max has er; .*manifest"
    ):
        make_samples(fields, task)
    whole = make_field("c", ("phase", 0.0), ("er", 0.0))
    with pytest.raises(UserError, match="field a_z0: no file for er"):
        make_samples([*fields, whole], task)
    with pytest.raises(UserError, match="field a_z0: no file for er"):  # all lack the same
        make_samples([fields[0], make_field("b_z0", ("phase", 0.0))], task)
