import random
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ome_set import ome_set, page
from vfn.data.discovery.explicit import check_root
from vfn.data.discovery.fields import Field, FilePlane, NothingMatches, left_out
from vfn.data.discovery.layout import Layout, check_channels, split_plane
from vfn.data.discovery.search import discover, whole_images
from vfn.data.discovery.tokens import split_token  # fmt: skip
from vfn.data.sets import U2OSAF, U2OSCPS
from vfn.errors import UserError
from vfn.system.csv_files import write_csv


def fill(root: Path, *names: str) -> Path:
    """Tiny images; every file holds another grey value."""
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.full((2, 3), value, np.uint16))
    return root


def table(root: Path, fields: Sequence[Field]) -> dict[str, dict[tuple[str, float], str]]:
    """field -> (channel, z) -> file."""
    return {
        f.name: {key: plane.path.relative_to(root).as_posix() for key, plane in f.planes.items()}
        for f in fields
    }


words = st.text("abcdefghijklmnopqrstuvwxyz0123456789äß", min_size=1, max_size=6)
separators = st.sampled_from(["_", "-", " ", ", ", ".", "/", "__", "(", "+", "=", "#"])


@settings(deadline=None, derandomize=True)
@given(
    parts=st.lists(words.filter(lambda w: w not in ("phase", "dapi")), min_size=1, max_size=4),
    at=st.integers(0, 4),
    gaps=st.lists(separators, min_size=5, max_size=5),
    spelling=st.sampled_from(["phase", "Phase", "PHASE", "pHASE"]),
    suffix=st.sampled_from([".tif", ".TIFF", ".ome.tif", ".png"]),
)
def test_the_field_is_what_is_left_of_the_path(
    parts: list[str], at: int, gaps: list[str], spelling: str, suffix: str
) -> None:
    at = min(at, len(parts))
    tokens = [*parts[:at], spelling, *parts[at:]]
    path = tokens[0] + "".join(g + t for g, t in zip(gaps, tokens[1:], strict=False)) + suffix
    assert split_token(path, "phase") == "_".join(parts)
    assert split_token(path, spelling.swapcase()) == "_".join(parts)
    assert split_token(path, "dapi") is None


@settings(deadline=None, derandomize=True)
@given(inner=words, outer=words)
def test_a_token_is_whole(inner: str, outer: str) -> None:
    assert split_token(f"{outer}phase{inner}_x.tif", "phase") is None


@pytest.mark.parametrize(
    ("path", "token", "name"),
    [
        ("plate1/A01_Phase.tif", "phase", "plate1_A01"),
        ("phase/A01.tif", "phase", "A01"),
        ("phase/phase_A01.tif", "phase", "A01"),
        ("phase.tif", "phase", "field"),
        ("A01_far-red.tif", "far red", "A01"),
        ("A01_red-far.tif", "far-red", None),
        ("img_000_Far-red_000.png", "far-red", "img_000_000"),
        ("a,b c (1)_ch2.tif", "ch2", "a_b_c_1"),
        ("r01c02f01p01-ch2sk1fk1fl1.tiff", "ch2", None),
        ("Channel2-84-G-12.tif", "Channel2", "84_G_12"),
        ("größe/Zelle_ÄR.tif", "är", "größe_Zelle"),
        ("a_phase.tif", "", None),
        ("a_phase.tif", "-", None),
    ],
)
def test_tokens_of_real_paths(path: str, token: str, name: str | None) -> None:
    assert split_token(path, token) == name


def test_decomposed_letters_are_the_same_letters() -> None:
    decomposed = unicodedata.normalize("NFD", "Zélle_Ör.tif")
    assert split_token(decomposed, "ör") == "Zélle"


def test_pairs_by_token_in_nested_folders(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "day 1/phase/A01, s1.tif", "day 1/dapi/A01, s1.tif",
        "day 2/A01 s1 Phase.tif", "day 2/DAPI A01 s1.png",
        "day 2/A01 s1 actin.tif", "notes_phase/ö_dapi.txt.tif",
    )  # fmt: skip
    (tmp_path / "notes_phase/ö_dapi.txt.tif").unlink()
    found = discover(tmp_path, Layout(), ["phase", "dapi"])
    assert table(tmp_path, found) == {
        "day_1_A01_s1": {("phase", 0.0): "day 1/phase/A01, s1.tif",
                         ("dapi", 0.0): "day 1/dapi/A01, s1.tif"},
        "day_2_A01_s1": {("phase", 0.0): "day 2/A01 s1 Phase.tif",
                         ("dapi", 0.0): "day 2/DAPI A01 s1.png"},
    }  # fmt: skip


def test_other_tokens_by_data_channels(tmp_path: Path) -> None:
    fill(tmp_path, "A01_Ch01.tif", "A01_ch02.tif", "A01_phase.tif")
    found = discover(tmp_path, Layout({"phase": "CH01", "dapi": "ch02"}), ["phase", "dapi"])
    assert table(tmp_path, found) == {
        "A01": {("phase", 0.0): "A01_Ch01.tif", ("dapi", 0.0): "A01_ch02.tif"}
    }


def refused(root: Path, layout: Layout, wanted: Sequence[str], *words: str) -> None:
    with pytest.raises(UserError) as caught:
        discover(root, layout, wanted)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_file_of_two_channels_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "dapi/A01_phase.tif")
    refused(tmp_path, Layout(), ["phase", "dapi"], "A01_phase.tif", "phase and dapi")


def test_two_files_of_one_channel_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "A01_phase.tif", "A01-phase.png", "A01_dapi.tif")
    refused(tmp_path, Layout(), ["phase", "dapi"], "field A01", "A01_phase.tif", "A01-phase.png")


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    fill(tmp_path, "A01_ch1.tif")
    refused(tmp_path, Layout({"dapi": "w1"}), ["phase", "dapi"], str(tmp_path), "phase", "w1")
    refused(tmp_path / "no", Layout(), ["phase"], "no such folder")


def test_nothing_matches_only_where_no_channel_is_found(tmp_path: Path) -> None:
    fill(tmp_path, "A01_phase.tif", "A01_x.tif", "A02_phase.tif")
    pattern = r"(?P<field>\w+)_(?P<channel>\w+)\.tif"
    table = "field,channel,path\na,dapi,A01_x.tif\n"
    (tmp_path / "m.csv").write_text(table)
    for layout in (Layout(), Layout({}, pattern), Layout(manifest=str(tmp_path / "m.csv"))):
        with pytest.raises(NothingMatches, match="no file for channel gfp, er"):
            discover(tmp_path, layout, ["gfp", "er"])
        with pytest.raises(UserError, match="no file for channel er") as caught:
            discover(tmp_path, layout, ["dapi" if layout.manifest else "phase", "er"])
        assert not isinstance(caught.value, NothingMatches)
    for layout in (Layout({}, "("), Layout(manifest="no.csv")):
        with pytest.raises(UserError) as caught:
            discover(tmp_path, layout, ["gfp"])
        assert not isinstance(caught.value, NothingMatches)
    with pytest.raises(NothingMatches, match=r"A01_x\.tif: is no phase"):
        discover(tmp_path, Layout(), ["phase"], holding=tmp_path / "A01_x.tif")


# --- several words for one channel ---

SEVERAL = {"nuclear": ["nuclear", "DAPI", "Far-red"]}


def test_each_of_several_words_means_the_channel(tmp_path: Path) -> None:
    names = ["a_nuclear.tif", "a_phase.tif", "DAPI/b.tif", "b_phase.tif", "c_far red_1.tif"]
    fill(tmp_path, *names, "c_1_phase.tif", "nuclear/DAPI_d.tif", "d_phase.tif")
    found = discover(tmp_path, Layout(SEVERAL), ["phase", "nuclear"])
    assert {f.name: str(f.planes["nuclear", 0.0]) for f in found} == {
        name: str(tmp_path / path)
        for name, path in zip(
            ("a", "b", "c_1", "d"),
            (names[0], names[2], names[4], "nuclear/DAPI_d.tif"),
            strict=True,
        )
    }
    fill(tmp_path, "b_nuclear.tif")
    refused(tmp_path, Layout(SEVERAL), ["phase", "nuclear"], "field b: channel nuclear is both")


def test_several_words_in_a_pattern_and_a_manifest(tmp_path: Path) -> None:
    fill(tmp_path, "a/phase.png.tif", "a/x_Far-red_000.tif", "b/phase_1.tif", "b/nuclear.tif")
    pattern = r"(?P<field>\w+)/[^/]*?(?P<channel>phase|nuclear|Far-red)[^/]*$"
    found = discover(tmp_path, Layout(SEVERAL, pattern), ["phase", "nuclear"])
    files = {"a": "a/x_Far-red_000.tif", "b": "b/nuclear.tif"}
    assert {f.name: f.planes["nuclear", 0.0].path for f in found} == {  # type: ignore[attr-defined]
        name: tmp_path / path for name, path in files.items()
    }
    lines = ["a,dapi,a/x_Far-red_000.tif", "b,Nuclear,b/nuclear.tif", "b,er,b/phase_1.tif"]
    (tmp_path / "m.csv").write_text("\n".join(["field,channel,path", *lines]))
    found = discover(tmp_path, Layout(SEVERAL, manifest=str(tmp_path / "m.csv")), ["nuclear"])
    assert {f.name: f.planes["nuclear", 0.0].path for f in found} == {  # type: ignore[attr-defined]
        name: tmp_path / path for name, path in files.items()
    }


def test_several_words_inside_of_files(tmp_path: Path) -> None:
    multichannel(tmp_path / "a.ome.tif", ["Phase", "dapi"])
    multichannel(tmp_path / "b.ome.tif", ["far-red", "Phase"])
    found = discover(tmp_path, Layout(SEVERAL), ["phase", "nuclear"])
    assert [int(f.planes["nuclear", 0.0].read()[0, 0]) for f in found] == [1, 0]
    multichannel(tmp_path / "c.ome.tif", ["far-red", "Phase", "DAPI"])
    refused(tmp_path, Layout(SEVERAL), ["nuclear"], "c.ome.tif: holds far-red and DAPI")


def test_a_word_means_one_channel(tmp_path: Path) -> None:
    fill(tmp_path, "a_w1.tif", "a_w2.tif")
    layout = Layout({"er": ["w1", "W2"], "rna": "w2"}, r"(?P<field>a)_(?P<channel>\w+)\.tif")
    refused(tmp_path, layout, ["er", "rna"], "data.channels: w2 means both er and rna")
    refused(
        tmp_path, Layout({"er": ["w1", "w2"], "rna": "w2"}), ["er", "rna"], "a_w2.tif", "er and rna"
    )


@pytest.mark.parametrize(
    "given", [{"a": None}, {"a": []}, {"a": [""]}, {"a": {"b": 1}}, {"a": True}, "x"]
)
def test_channels_that_say_nothing_are_refused(given: object) -> None:
    with pytest.raises(UserError, match=r"data\.channels"):
        check_channels(given, "data.channels")


def test_a_stack_where_one_plane_is_expected_is_refused(tmp_path: Path) -> None:
    # Its first plane would be taken for the field, out of focus or of another channel.
    stack = np.zeros((3, 2, 4), np.uint16)
    tifffile.imwrite(tmp_path / "A01_phase.tif", stack, photometric="minisblack")
    (field,) = discover(tmp_path, Layout(), ["phase"])
    with pytest.raises(UserError, match=r"A01_phase\.tif: holds 3 planes"):
        field.planes["phase", 0.0].read()


PATTERN = (
    r"(?P<plate>P\d)/(?P<well>[A-H]\d\d)f(?P<site>\d)z(?P<z>-?\d+)_(?P<channel>[^_.]+)_\w+\.tif$"
)


def test_pattern_with_all_groups(tmp_path: Path) -> None:
    fill(tmp_path, "P1/A01f1z-1_BF_x9.tif", "P1/A01f1z0_BF_x8.tif", "P1/A01f1z0_Blue_x7.tif",
         "P2/A01f1z0_bf_x1.tif", "P2/A01f1z0_red_x1.tif", "P2/notes.tif")  # fmt: skip
    layout = Layout({"phase": "bf", "dapi": "blue"}, PATTERN, z_zero=1, z_step=0.5)
    found = discover(tmp_path, layout, ["phase", "dapi"])
    assert table(tmp_path, found) == {
        "P1_A01_s1": {
            ("phase", -1.0): "P1/A01f1z-1_BF_x9.tif",
            ("phase", -0.5): "P1/A01f1z0_BF_x8.tif",
            ("dapi", -0.5): "P1/A01f1z0_Blue_x7.tif",
        },
        "P2_A01_s1": {("phase", -0.5): "P2/A01f1z0_bf_x1.tif"},
    }
    assert [(f.plate, f.well, f.site) for f in found] == [("P1", "A01", "1"), ("P2", "A01", "1")]


NUMBERED = r"(?P<field>f\d)(?:_z(?P<z>[\d.]+))?_(?P<channel>\w+)\.tif$"


def depths(root: Path, **layout: float) -> dict[str, list[float]]:
    fields = discover(root, Layout({}, NUMBERED, **layout), ["bf"])
    return {field.name: sorted(z for _, z in field.planes) for field in fields}


def test_planes_that_are_numbered_from_one(tmp_path: Path) -> None:
    fill(tmp_path, "f1_z1_bf.tif", "f1_z2_bf.tif", "f1_z3_bf.tif")
    assert depths(tmp_path) == {"f1": [1, 2, 3]}
    assert depths(tmp_path, z_zero=2) == {"f1": [-1, 0, 1]}
    assert depths(tmp_path, z_zero=2, z_step=0.3) == {"f1": [-0.3, 0, 0.3]}


def test_one_plane_throughout_is_in_focus_whatever_its_number(tmp_path: Path) -> None:
    fill(tmp_path, "f1_z7_bf.tif", "f2_z7_bf.tif", "f3_bf.tif")
    assert depths(tmp_path) == {"f1": [0], "f2": [0], "f3": [0]}
    assert depths(tmp_path, z_zero=5) == {"f1": [2], "f2": [2], "f3": [0]}
    fill(tmp_path, "f4_z8_bf.tif")
    assert depths(tmp_path) == {"f1": [7], "f2": [7], "f3": [0], "f4": [8]}


def test_depths_are_the_decimals_that_a_task_names(tmp_path: Path) -> None:
    fill(tmp_path, "f1_z1341.95_bf.tif", "f1_z1352.25_bf.tif")
    assert depths(tmp_path, z_zero=1352.25) == {"f1": [-10.3, 0]}


def test_a_field_is_at_one_place(tmp_path: Path) -> None:
    # The name alone would pair phase of one plate with dapi of another.
    fill(tmp_path, "P1/f1_phase.tif", "P2/f1_dapi.tif")
    layout = Layout({}, r"(?P<plate>P\d)/(?P<field>f\d)_(?P<channel>\w+)\.tif")
    refused(tmp_path, layout, ["phase", "dapi"], "field f1", "P1", "P2")


def test_a_pattern_that_backtracks_for_ever_ends_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's checkpoint carries one, too."""
    monkeypatch.setattr("vfn.data.matching.SECONDS", 0.5)
    fill(tmp_path, "a" * 60 + "_phase.tif")
    refused(tmp_path, Layout({}, r"(?P<field>(a+)+)(?P<channel>!)"), ["phase"], "was stopped")


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        (r"(?P<field>.*_(?P<channel>\w+)", "not a regular expression"),
        (r"(?P<field>.*)\.tif", "channel"),
        (r"_(?P<channel>\w+)\.tif", "field"),
        (r"(?P<plate>.*)_(?P<channel>\w+)\.tif", "field"),
        (r"(?P<field>.*)_(?P<chanel>\w+)\.tif", "chanel"),
        (r"(?P<field>.*)_(?P<channel>\w+)\.jpg", "data.pattern"),
        (r"(?P<z>\w+)_(?P<field>.*)_(?P<channel>\w+)\.tif", "'top'"),
    ],
)
def test_wrong_patterns_are_refused(tmp_path: Path, pattern: str, word: str) -> None:
    fill(tmp_path, "top_A01_phase.tif")
    refused(tmp_path, Layout({}, pattern), ["phase"], word)


BBBC022 = [
    "BBBC022_v1_images_20585w1/IXMtest_A01_s2_w1AA6B1894-F561-42EE-9D1D-E21E5C741B75.tif",
    "BBBC022_v1_images_20585w3/IXMtest_A01_s2_w308F3A6FF-A865-40A1-8488-9A5BA31605A9.tif",
    "BBBC022_v1_images_20585w1/IXMtest_E07_s4_w1722986E3-C24E-4E7D-A484-F1578ECD7C53.tif",
    "BBBC022_v1_images_20646w1/IXMtest_A01_s2_w1724EB5AF-9EF4-41F9-98E6-6CF7E4182E51.tif",
    "sub/20590/IXMtest_p24_s9_w1164FBEEF-F77C-4892-86F5-72D0160D4FB2.tif",
]


def test_names_of_bbbc022(tmp_path: Path) -> None:
    fill(tmp_path, *BBBC022)
    layout = Layout(U2OSCPS.CHANNELS, U2OSCPS.PATTERN)
    found = discover(tmp_path, layout, ["rna", "dna"])
    assert table(tmp_path, found) == {
        "20585_A01_s2": {("dna", 0.0): BBBC022[0], ("rna", 0.0): BBBC022[1]},
        "20585_E07_s4": {("dna", 0.0): BBBC022[2]},
        "20590_p24_s9": {("dna", 0.0): BBBC022[4]},
        "20646_A01_s2": {("dna", 0.0): BBBC022[3]},
    }
    assert [(f.plate, f.well, f.site) for f in found] == [
        ("20585", "A01", "2"), ("20585", "E07", "4"), ("20590", "p24", "9"), ("20646", "A01", "2"),
    ]  # fmt: skip


def test_bbbc022_without_a_plate_folder(tmp_path: Path) -> None:
    fill(tmp_path, BBBC022[0].split("/")[1])
    (field,) = discover(tmp_path, Layout(U2OSCPS.CHANNELS, U2OSCPS.PATTERN), ["dna"])
    assert (field.name, field.plate, field.well) == ("A01_s2", "", "A01")


def test_names_of_bbbc006(tmp_path: Path) -> None:
    names = [
        "BBBC006_v1_images_z_00/mcf-z-stacks-03212011_a01_s1_w1a571d43d-5554-47fd-bb54-5db68290e5a7.tif",
        "BBBC006_v1_images_z_16/mcf-z-stacks-03212011_a01_s1_w12e7632d4-7a01-4cc0-a680-e686a4869613.tif",
        "BBBC006_v1_images_z_21/mcf-z-stacks-03212011_a01_s1_w2d571d43d-5554-47fd-bb54-5db68290e5a7.tif",
        "BBBC006_v1_images_z_16/mcf-z-stacks-03212011_p24_s2_w1283f1213-dc59-40b5-ae21-9d66400a5f20.tif",
    ]
    fill(tmp_path, *names)
    layout = Layout(U2OSAF.CHANNELS, U2OSAF.PATTERN, None, U2OSAF.Z_ZERO, U2OSAF.Z_STEP)
    found = discover(tmp_path, layout, ["dna", "actin"])
    assert table(tmp_path, found) == {
        "a01_s1": {("dna", -32.0): names[0], ("dna", 0.0): names[1], ("actin", 10.0): names[2]},
        "p24_s2": {("dna", 0.0): names[3]},
    }
    assert found[0].well == "a01"


def multichannel(path: Path, names: Sequence[str]) -> None:
    array = np.stack([np.full((2, 3), i, np.uint16) for i in range(len(names))])
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}}
    tifffile.imwrite(path, array, photometric="minisblack", metadata=metadata)


def test_channels_inside_of_ome(tmp_path: Path) -> None:
    multichannel(tmp_path / "pos_x_1.ome.tif", ["Actin", "DAPI", "Phase"])
    multichannel(tmp_path / "pos_1.ome.tif", ["dapi", "phase"])
    found = discover(tmp_path, Layout(), ["phase", "dapi"])
    assert [f.name for f in found] == ["pos_1", "pos_x_1"]
    values = [[int(f.planes[c, 0.0].read()[0, 0]) for c in ("phase", "dapi")] for f in found]
    assert values == [[1, 0], [2, 1]]


def test_positions_inside_of_stacks(tmp_path: Path) -> None:
    stack = np.stack([np.full((2, 3), i, np.uint16) for i in range(3)])
    tifffile.imwrite(tmp_path / "IXMtest_A02_s9.tif", stack, photometric="minisblack")
    (field,) = discover(tmp_path, Layout({"dna": 0, "rna": 2}), ["rna", "dna"])
    assert field.name == "IXMtest_A02_s9"
    assert int(field.planes["rna", 0.0].read()[0, 0]) == 2
    assert int(field.planes["dna", 0.0].read()[0, 0]) == 0


@pytest.mark.parametrize("index", [-1, 3])
def test_positions_out_of_the_stack_are_refused(tmp_path: Path, index: int) -> None:
    stack = np.zeros((3, 2, 4), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    (field,) = discover(tmp_path, Layout({"dna": index}), ["dna"])
    with pytest.raises(UserError, match=rf"a\.tif: channel {index} is asked for, it has 3"):
        field.planes["dna", 0.0].read()


def test_manifest(tmp_path: Path) -> None:
    fill(tmp_path, "raw/1.tif", "raw/2.tif", "raw/3.tif", "raw/4.tif")
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "channel,field,path,plate,well,site,z,index\n"
        "phase,one field,raw/1.tif,P1,A01,1,-2.5,\n"
        "dapi,one field,raw/2.tif,P1,A01,1,,0\n"
        "actin,one field,raw/nowhere.tif,P1,A01,1,,0\n"
        "phase,two,raw/3.tif,,,,0,\n",
        encoding="utf-8-sig",  # as Excel writes it
    )
    found = discover(tmp_path, Layout(manifest=str(manifest)), ["phase", "dapi"])
    assert table(tmp_path, found) == {
        "one field": {("phase", -2.5): "raw/1.tif", ("dapi", 0.0): "raw/2.tif"},
        "two": {("phase", 0.0): "raw/3.tif"},
    }
    assert [(f.plate, f.well, f.site) for f in found] == [("P1", "A01", "1"), ("", "", "")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name;kind;file\na;phase;1.tif\n", ["lacks the column field, channel, path", "name"]),
        ("field,channel\na,phase\n", ["lacks the column path"]),
        ("", ["lacks the column"]),
        ("field,channel,path\na,phase,2.tif\n", ["line 2", "2.tif"]),
        ("field,channel,path\na,phase,\n", ["line 2"]),
        ("field,channel,path,z\na,phase,1.tif,top\n", ["line 2", "top"]),
        ("field,channel,path,index\na,phase,1.tif,1.5\n", ["line 2", "1.5"]),
        ("field,channel,path\na/b,phase,1.tif\n", ["line 2", "a/b"]),
        ("field,channel,path\n,phase,1.tif\n", ["line 2", "name"]),
        ("field,channel,path\na,dapi,1.tif\n", ["phase"]),
        ("field,channel,path\na,phase,1.tif\na,phase,1.tif\n", ["field a", "both"]),
        ("field,channel,path,well\na,phase,1.tif,A1\na,dapi,1.tif,B1\n", ["field a", "A1", "B1"]),
    ],
)
def test_wrong_manifests_are_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    fill(tmp_path, "1.tif")
    manifest = tmp_path / "list.csv"
    manifest.write_text(text)
    wanted = ["phase", "dapi"] if "dapi,1.tif,B1" in text else ["phase"]
    refused(tmp_path, Layout(manifest=str(manifest)), wanted, "", *words)


def test_paths_of_a_manifest_from_a_spreadsheet(tmp_path: Path) -> None:
    fill(tmp_path, "raw/1.tif", "raw/a\\b.tif")
    text = "Field ; Channel;PATH; z;\r\nf ;Phase; raw\\1.tif ;-2,5;\r\n;;;;\r\ng;phase;raw/a\\b.tif;;\r\n"
    (tmp_path / "m.csv").write_bytes(text.encode("utf-16"))
    found = discover(tmp_path, Layout(manifest=str(tmp_path / "m.csv")), ["phase"])
    assert table(tmp_path, found) == {
        "f": {("phase", -2.5): "raw/1.tif"},
        "g": {("phase", 0.0): "raw/a\\b.tif"},
    }
    (tmp_path / "m.csv").write_bytes(b"field,channel,path\nf,phase,gr\xf6.tif\n")
    refused(
        tmp_path, Layout(manifest=str(tmp_path / "m.csv")), ["phase"],
        f"does not exist in {tmp_path}", "not UTF-8", "relative to the folder of the CSV",
    )  # fmt: skip


def test_files_of_a_manifest_lie_where_the_user_says(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.tif", "b/2.tif")
    fields = [Field("1", {("phase", 0.0): FilePlane(tmp_path / "b" / ".." / "a" / "1.tif")})]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    linked = [Field("1", {("phase", 0.0): FilePlane(tmp_path / "link" / "1.tif")})]
    for found, root in (
        (fields, "a"),
        (fields, "."),
        (linked, "link"),
        (linked, "."),
        (linked, "a"),
    ):
        check_root(found, tmp_path / root, "m.csv", "data.root")
    check_root(fields, tmp_path / "link", "m.csv", "data.root")
    for found, root in ((fields, "b"), (linked, "b")):
        with pytest.raises(
            UserError, match=r"data\.root=.*b: .*1\.tif, which m\.csv names, is not"
        ):
            check_root(found, tmp_path / root, "m.csv", "data.root")


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, Layout(manifest=str(tmp_path / "no.csv")), ["phase"], "no.csv")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00field")
    refused(tmp_path, Layout(manifest=str(tmp_path / "bad.csv")), ["phase"], "bad.csv")


def test_whole_images(tmp_path: Path) -> None:
    fill(tmp_path, "a b/1.tif", "2.png")
    found = whole_images(tmp_path, ["phase"])
    assert [entry.name for entry in found] == ["2", "a_b_1"]
    assert [int(entry.planes["phase", 0.0].read()[0, 0]) for entry in found] == [1, 0]
    assert whole_images(tmp_path / "2.png", ["phase"])[0].name == "2"
    with pytest.raises(UserError, match=r"has 1 channel\(s\), the model takes 2"):
        whole_images(tmp_path, ["phase", "er"])


def test_layout_survives_a_checkpoint() -> None:
    layout = Layout({"a": "x", "b": 2, "c": ["y", "z"]}, "p", "m", 3.0, 0.5, prefix="")
    assert Layout(**layout.to_dict()) == layout
    assert "prefix" not in layout.to_dict()


def test_planes_name_themselves(tmp_path: Path) -> None:
    assert str(FilePlane(tmp_path / "a.tif")) == str(tmp_path / "a.tif")
    assert re.search(r"a\.tif \(channel 0\)$", str(FilePlane(tmp_path / "a.tif", 0)))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from("abcdef"), unique=True, min_size=1), st.randoms(use_true_random=False)
)
def test_order_of_files_does_not_matter(names: list[str], rnd: random.Random) -> None:
    # `discover` sorts: fields come in one order on every file system.
    with tempfile.TemporaryDirectory() as folder:
        shuffled = list(names)
        rnd.shuffle(shuffled)
        for name in shuffled:
            (Path(folder) / f"{name}_phase.png").touch()
        found = discover(Path(folder), Layout(), ["phase"])
        assert [f.name for f in found] == sorted(names)


# --- data.exclude ---


def excluded(tmp_path: Path, text: str, fields: Sequence[Field]) -> list[Field]:
    (tmp_path / "exclude.csv").write_text(text, encoding="utf-8")
    return left_out(fields, tmp_path / "exclude.csv")


def two_channel_fields(*names: str) -> list[Field]:
    plane = FilePlane(Path("a.tif"))
    return [Field(n, {("phase", 0.0): plane, ("dapi", 0.0): plane}) for n in names]


def test_a_line_without_channel_leaves_the_whole_field_out(tmp_path: Path) -> None:
    fields = two_channel_fields("a", "b, c", "d")
    kept = excluded(tmp_path, 'field,channel,reason\n"b, c",,out of focus\nd,dapi,empty\n', fields)
    assert [(f.name, sorted(c for c, _ in f.planes)) for f in kept] == [
        ("a", ["dapi", "phase"]),
        ("d", ["phase"]),
    ]
    assert len(fields[2].planes) == 2  # what was given stays as it is
    assert len(excluded(tmp_path, "\ufefffield\na\n", fields)) == 2


def test_names_that_look_like_formulas_come_back(tmp_path: Path) -> None:
    """The doctor's `exclude.csv` marks them as text."""
    names = ["=a", "'=a", "-1+2", "b"]
    write_csv(tmp_path / "exclude.csv", ["field", "channel"], [[n, ""] for n in names[:3]])
    kept = left_out(two_channel_fields(*names), tmp_path / "exclude.csv")
    assert [field.name for field in kept] == ["b"]


def test_a_table_that_leaves_out_every_field_is_named(tmp_path: Path) -> None:
    fields = two_channel_fields("a", "b")
    with pytest.raises(UserError, match=r"exclude\.csv: leaves out all 2 field"):
        excluded(tmp_path, "field\na\nb\n", fields)


def test_excluded_names_as_a_spreadsheet_leaves_them(tmp_path: Path) -> None:
    kept = excluded(tmp_path, "Field;Channel;\nA-1;;\nb;DAPI;\n", two_channel_fields("a_1", "b"))
    assert [(f.name, [c for c, _ in f.planes]) for f in kept] == [("b", ["phase"])]


def test_nothing_is_excluded_by_an_empty_table(tmp_path: Path) -> None:
    fields = two_channel_fields("a", "b")
    assert excluded(tmp_path, "field,channel,reason\n", fields) == fields


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    """A misspelt name would otherwise train on the field that was meant to be left out."""
    with pytest.raises(UserError, match=r"line 3 excludes field 'x', which is not there"):
        excluded(tmp_path, "field\na\nx\n", two_channel_fields("a"))
    with pytest.raises(UserError, match="lacks the column field"):
        excluded(tmp_path, "name\na\n", two_channel_fields("a"))
    with pytest.raises(UserError, match=r"data\.exclude=.*none\.csv: cannot be read"):
        left_out(two_channel_fields("a"), tmp_path / "none.csv")


# --- planes of a stack ---


def test_split_plane() -> None:
    assert split_plane("phase") == ("phase", None)
    assert split_plane("phase@-4") == ("phase", -4.0)
    assert split_plane("phase@0.5") == ("phase", 0.5)
    with pytest.raises(UserError, match="channel phase@top: 'top' is no plane"):
        split_plane("phase@top")


def test_planes_of_a_stack_by_position(tmp_path: Path) -> None:
    stack = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "f1.tif", stack, photometric="minisblack")
    layout = Layout({"phase@-4": 0, "phase": 1, "phase@4": 2})
    (field,) = discover(tmp_path, layout, ["phase"])
    assert set(field.planes) == {("phase", -4.0), ("phase", 0.0), ("phase", 4.0)}
    for z, index in ((-4.0, 0), (0.0, 1), (4.0, 2)):
        np.testing.assert_array_equal(field.planes["phase", z].read(), stack[index])


def test_words_that_could_mean_a_channel_are_named(tmp_path: Path) -> None:
    for name in (
        "r01c01-ch2sk1.tiff",
        "r01c01-ch5sk1.tiff",
        "r01c02-ch2sk1.tiff",
        "r01c02-ch5sk1.tiff",
    ):
        tifffile.imwrite(tmp_path / name, np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"4 paths: r01c01, ch2sk1, ch5sk1, r01c02\); map"):
        discover(tmp_path, Layout(), ("ch2", "ch5"))


def test_a_file_of_an_acquisition_is_the_channel_that_its_metadata_say(tmp_path: Path) -> None:
    for position in ("Pos0", "Pos1"):
        names = {
            f"d/img_{position}.ome.tif": [(0, 0, 0)],
            f"d/img_{position}_1.ome.tif": [(1, 0, 0)],
        }
        (tmp_path / "d").mkdir(exist_ok=True)
        ome_set(tmp_path / "d", {Path(name).name: planes for name, planes in names.items()})
    fields = discover(tmp_path, Layout(), ["one", "two"])
    assert [field.name for field in fields] == ["d_img_Pos0", "d_img_Pos1"]
    for field in fields:
        assert sorted(field.planes) == [("one", 0.0), ("two", 0.0)]
        for c, name in enumerate(("one", "two")):
            np.testing.assert_array_equal(field.planes[name, 0.0].read(), page(c))
    (only,) = (field for field in discover(tmp_path, Layout(), ["two"]) if "Pos1" in field.name)
    np.testing.assert_array_equal(only.planes["two", 0.0].read(), page(1))


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize(
    "channels", [{"r": 0, "g": 1, "b": 2}, {"r": "red", "g": "green", "b": "blue"}]
)
def test_colours_of_a_file_beside_a_stain_in_another(
    tmp_path: Path, channels: dict[str, str | int], suffix: str
) -> None:
    colours = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    for field, array in enumerate(colours):
        name = f"plate/{field}_bf.{suffix}"
        (tmp_path / "plate").mkdir(exist_ok=True)
        if suffix == "tif":
            tifffile.imwrite(tmp_path / name, array, photometric="rgb")
        else:
            (tmp_path / name).write_bytes(imagecodecs.png_encode(array))
        tifffile.imwrite(tmp_path / f"plate/{field}_dna.tif", array[..., 0])
    fields = discover(tmp_path, Layout(channels=channels), ["r", "g", "b", "dna"])
    assert [field.name for field in fields] == ["plate_0", "plate_1"]
    for field, array in zip(fields, colours, strict=True):
        assert len(field.planes) == 4
        for c, name in enumerate("rgb"):
            np.testing.assert_array_equal(field.planes[name, 0.0].read(), array[..., c])


def test_words_of_stacks_are_kept_where_no_field_is_named_without_them(tmp_path: Path) -> None:
    for name in ("a_bf.tif", "b_bf.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((2, 4, 5), np.uint16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "c_dna.tif", np.zeros((4, 5), np.uint16))
    fields = discover(tmp_path, Layout(channels={"x": 0, "y": 1}), ["x", "y", "dna"])
    assert [field.name for field in fields] == ["a_bf", "b_bf", "c"]
