import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from vfn.data import describe
from vfn.data.config import DataConfig
from vfn.data.discovery.fields import Field
from vfn.data.samples import Sample, Task
from vfn.data.sets import make_data
from vfn.data.splits import SplitRule, split_samples
from vfn.data.wells import wells_from_names, with_wells


@pytest.mark.parametrize(
    ("names", "wells"),
    [
        (["A01_s1", "A01_s2", "B02_s1"], ["A01", "A01", "B02"]),
        (["r03c03f01", "r03c03f02", "r04c03f01"], ["r03c03", "r03c03", "r04c03"]),
        (["IXMtest_A02_s9", "IXMtest_P24_s1"], ["A02", "P24"]),
        (["01_A_01", "06_A_06", "33_C_09"], ["A01", "A06", "C09"]),
        (["x_a01_s1", "x_b12_s1"], ["A01", "B12"]),
        (["f01", "f02", "f03"], []),  # fields, not wells
        (["x_p01", "y_p01"], []),  # all the same: it tells nothing
        (["HeLa_joint_set1", "MCF10A", "3T3_set1"], []),
        (["mouse1", "mouse2"], []),
        (["B2_2", "B2_10", "B10_1"], ["B02", "B02", "B10"]),
        (["A01s1", "A01s2", "B01s1"], ["A01", "A01", "B01"]),
        (["AS_1_A03f00d0", "AS_1_A04f00d0"], ["A03", "A04"]),
        (["Well_A1_1", "WellB1_1", "well-C1-1"], ["A01", "B01", "C01"]),
        (["AF48_1", "A01_1", "P24_1"], ["AF48", "A01", "P24"]),
        (["A01_1", "B77_1", "C99_1"], []),  # no plate has so many columns
        (["P1_B02_s1", "P1_B03_s1"], ["B02", "B03"]),  # one plate
        (["P1_B02_s1", "P2_B02_s1"], ["1/B02", "2/B02"]),
        (["plateX_B02", "plateY_B03", "plateX_B03"], ["X/B02", "Y/B03", "X/B03"]),
        (["A01_1", "A01_2", "B01_1", "B01_2", "blank"], ["A01", "A01", "B01", "B01"]),  # most
        (["A01_1", "B01_1", "blank"], []),  # too few
    ],
)
def test_wells_in_names(names: list[str], wells: list[str]) -> None:
    assert list(wells_from_names(names).values()) == wells


def fields(*names: str) -> list[Field]:
    return [Field(name, {}) for name in names]


def samples(*names: str) -> list[Sample]:
    return [
        Sample(f.name, f.name, (), (), well=f.well, site=f.site, well_from_name=f.well_from_name)
        for f in with_wells(fields(*names))
    ]


def test_fields_get_the_wells_and_sites_of_their_names() -> None:
    found = with_wells(fields("A01_s1", "A01_s12", "B02_s1", "blank"))
    assert [(f.well, f.site, f.well_from_name) for f in found] == [("", "", False)] * 4
    found = with_wells(fields("A01_s1", "A01_s12", "B02_s1"))
    assert [(f.well, f.site, f.well_from_name) for f in found] == [
        ("A01", "1", True), ("A01", "12", True), ("B02", "1", True),
    ]  # fmt: skip
    assert [f.site for f in with_wells(fields("r01c02f03p01", "r02c02f11p01"))] == ["03", "11"]


def test_wells_that_are_known_stay_as_they_are() -> None:
    known = [Field("A01_s1", {}, well="X"), Field("B01_s1", {})]
    assert with_wells(known) == known


@given(
    st.lists(st.integers(1, 24), min_size=3, max_size=20, unique=True),
    st.integers(0, 5),
    st.sampled_from([0.1, 0.2, 0.5]),
)
def test_one_field_a_well_is_divided_as_without_wells(
    columns: list[int], seed: int, share: float
) -> None:
    names = [f"x_A{column}" for column in columns]  # x_A10 comes before x_A2
    rule = SplitRule(seed=seed, test_fraction=share)
    named = split_samples(samples(*names), rule)
    bare = split_samples([Sample(name, name, (), ()) for name in names], rule)
    assert named.by == "well"
    for part in ("train", "val", "test"):
        assert [v.field for v in getattr(named, part)] == [v.field for v in getattr(bare, part)]


@given(st.integers(3, 8), st.integers(1, 4), st.integers(0, 5))
def test_sites_of_a_well_stay_together(wells: int, sites: int, seed: int) -> None:
    names = [f"B{w}_{s}_x" for w in range(2, 2 + wells) for s in range(sites)]
    split = split_samples(samples(*names), SplitRule(seed=seed))
    parts = [{v.well for v in part} for part in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == wells == len(set.union(*parts))


def test_too_few_wells_are_shared_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vfn"), "propagate", True)
    names = [f"{well}_s{site}" for well in ("A01", "A02") for site in range(5)]
    split = split_samples(samples(*names), SplitRule())
    assert split == split_samples(samples(*names), SplitRule("field"))
    (message,) = caplog.messages
    assert message.startswith(
        "2 well(s) found: too few to train, validate and test on different ones"
    )
    assert "scores come out too good" in message


def test_named_test_fields_that_part_a_well_are_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vfn"), "propagate", True)
    names = [f"{well}_s{site}" for well in ("A01", "A02", "A03", "A04") for site in (1, 2)]
    split = split_samples(samples(*names), SplitRule(test_fields=("A02_s1",)))
    assert [sample.field for sample in split.test] == ["A02_s1"]
    assert caplog.messages[0].startswith(
        "data.test_fields: well A02 would be in training and testing; "
    )


def test_a_folder_is_split_by_the_wells_of_its_names_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for well in ("A1", "B2", "C3", "D4", "E5"):
        for site in (1, 2):
            for channel in ("phase", "dapi"):
                image = rng.integers(0, 200, (32, 32), np.uint8)
                tifffile.imwrite(tmp_path / f"{well}_{site}_{channel}.tif", image)
    task = Task("t", ("phase",), ("dapi",))
    config = DataConfig("folder", str(tmp_path), patch_size=16, cache="off")
    data = make_data(task, config)
    data.setup()
    assert data.split is not None
    assert (len(data.split.train), len(data.split.val), len(data.split.test)) == (6, 2, 2)
    assert len({sample.well for sample in data.split.test}) == 1
    assert "split by well (A01, B02, C03, D04, ...);" in describe.summary(data)
