"""Time lapses by the names of files: positions stay together, channels of a time point pair."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.data.discovery.fields import Field, Time
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.samples import Sample, Task, make_samples
from vfn.data.splits import SplitRule, split_samples
from vfn.data.times import alike_but_for_time, time_points
from vfn.errors import UserError

TASK = Task("t", ("bf",), ("dna",))


def fill(root: Path, *names: str) -> Path:
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.full((2, 3), value, np.uint16))
    return root


def found(root: Path, wanted: Sequence[str] = ("bf", "dna"), **layout: object) -> list[Field]:
    return discover(root, Layout(**layout), wanted)  # type: ignore[arg-type]


def files(entry: Field) -> set[str]:
    return {plane.path.name for plane in entry.planes.values()}  # type: ignore[attr-defined]


PHENIX = r"(?P<well>r\d+c\d+)f(?P<site>\d+)p\d+-(?P<channel>ch\d+)sk(?P<time>\d+)"
CHANNELS = {"bf": "ch1", "dna": "ch2"}


def test_a_group_time(tmp_path: Path) -> None:
    names = [f"r01c01f02p01-ch{c}sk{t}fk1fl1.tiff" for t in (1, 2) for c in (1, 2)]
    first, second = found(fill(tmp_path, *names), pattern=PHENIX, channels=CHANNELS)
    assert (first.name, second.name) == ("r01c01_s02_t1", "r01c01_s02_t2")
    assert first.time == second.time == Time("r01c01_s02")
    assert (second.well, second.site) == ("r01c01", "02")
    assert files(second) == set(names[2:])


def test_without_the_group_the_two_files_are_named(tmp_path: Path) -> None:
    fill(tmp_path, *(f"r01c01f02p01-ch1sk{t}fk1fl1.tiff" for t in (1, 2)))
    with pytest.raises(UserError, match="groups site, z, time"):
        found(tmp_path, ["bf"], pattern=PHENIX.replace("?P<time>", ""), channels=CHANNELS)
    with pytest.raises(UserError, match=r"group when is not known; there are field, .*time"):
        found(tmp_path, ["bf"], pattern=PHENIX.replace("time", "when"), channels=CHANNELS)


def test_a_column_time(tmp_path: Path) -> None:
    fill(tmp_path, "a.tif", "b.tif", "c.tif")
    table = tmp_path / "m.csv"
    table.write_text("field,channel,path,time\nf,bf,a.tif,1\nf,bf,b.tif,2\ng,bf,c.tif,\n")
    fields = found(tmp_path, ["bf"], manifest=str(table))
    assert [(entry.name, entry.time) for entry in fields] == [
        ("f_t1", Time("f")), ("f_t2", Time("f")), ("g", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "channels", "expected"),
    [
        (["exp/TimePoint_{t}/A01_s1_{c}.tif"], {}, "exp_A01_s1_t{t}"),  # MetaXpress
        (["r01c01f01p01-ch{c}sk{t}fk1fl1.tiff"], {"bf": "ch1sk1fk1fl1", "dna": "ch2sk1fk1fl1"},
         "r01c01f01p01_t{t}"),  # Opera Phenix
        (["VID3_{c}_A1_1_00d0{t}h00m.tif"], {}, "VID3_A1_1_t00d0{t}h00m"),  # Incucyte, elapsed
        (["{c}_A1_1_2023y01m02d_0{t}h04m.tif"], {}, "A1_1_t2023y01m02d_0{t}h04m"),
    ],
)  # fmt: skip
def test_what_programs_write(
    tmp_path: Path, names: list[str], channels: dict[str, str], expected: str
) -> None:
    spelt = [("1", "bf"), ("2", "dna")] if channels else [("bf", "bf"), ("dna", "dna")]
    for t in (1, 2):
        fill(tmp_path, *(name.format(t=t, c=c) for name in names for c, _ in spelt))
    fields = found(tmp_path, channels=channels)
    assert [entry.name for entry in fields] == [expected.format(t=t) for t in (1, 2)]
    assert {entry.time for entry in fields} == {Time(expected[: expected.index("_t")])}
    assert all(len(entry.planes) == 2 for entry in fields)


def test_a_single_time_point_changes_no_name(tmp_path: Path) -> None:
    fill(tmp_path, "TimePoint_1/A01_bf.tif", "TimePoint_1/A01_dna.tif")
    (entry,) = found(tmp_path)
    assert (entry.name, entry.time) == ("TimePoint_1_A01", None)


@given(st.lists(st.text("abt0123456789_/", min_size=1, max_size=12), max_size=6))
def test_paths_without_times_are_left_alone(paths: list[str]) -> None:
    cut = time_points(paths)
    assert [cut(path) for path in paths] == [(path, "") for path in paths]


def samples(positions: int, times: int) -> list[Sample]:
    return [
        Sample(f"p{p}_t{t}", f"p{p}_t{t}", (), (), time=Time(f"p{p}"))
        for p in range(positions)
        for t in range(times)
    ]


@settings(max_examples=30)
@given(st.integers(4, 9), st.integers(1, 5), st.integers(0, 99))
def test_a_position_is_in_one_part(positions: int, times: int, seed: int) -> None:
    split = split_samples(samples(positions, times), SplitRule(seed=seed))
    parts = [{sample.position for sample in part} for part in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == positions


def test_positions_are_named_for_testing() -> None:
    split = split_samples(samples(5, 3), SplitRule(test_fields=("p2",)))
    assert [sample.name for sample in split.test] == ["p2_t0", "p2_t1", "p2_t2"]


def test_wells_stay_together_in_a_time_lapse(tmp_path: Path) -> None:
    names = [
        f"r01c0{w}f0{s}p01-ch{c}sk{t}fk1fl1.tiff"
        for w in range(1, 5) for s in (1, 2) for t in (1, 2) for c in (1, 2)
    ]  # fmt: skip
    fields = found(fill(tmp_path, *names), pattern=PHENIX, channels=CHANNELS)
    split = split_samples(make_samples(fields, TASK), SplitRule())
    parts = [{sample.well for sample in part} for part in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 4
    assert sum(map(len, (split.train, split.val, split.test))) == 16


def test_names_that_look_like_times_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    plain = [Sample(f"a_t{t}_s1", f"a_t{t}_s1", (), ()) for t in range(1, 6)]
    split_samples(plain, SplitRule())
    assert "a_t1_s1 and a_t2_s1 differ in a time point alone" in caplog.text
    caplog.clear()
    split_samples(samples(5, 2), SplitRule())
    assert not caplog.text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x_t1", "x_t2"], ("x_t1", "x_t2")),
        (["x_T0001", "y_T0002"], None),
        (["xt1", "xt2"], None),
        (["x_t1", "x_t1"], None),
        (["t9", "T10"], ("t9", "T10")),
    ],
)
def test_alike_but_for_time(names: list[str], expected: tuple[str, str] | None) -> None:
    assert alike_but_for_time(names) == expected
