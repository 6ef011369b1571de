import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.data.config import DataConfig
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.proposal import propose
from vfn.data.samples import Task
from vfn.data.sets import make_data
from vfn.errors import UserError

WORDS = {"dna": "DAPI", "er": "GFP"}
PIXEL = np.ones((1, 1), np.uint8)


def own(channel: str) -> Sequence[str]:
    return [WORDS[channel]]


def proposed(*templates: str) -> str | None:
    """The pattern for names with {c}, the channel's word, and {n}, its number."""
    files = {
        template.format(c=word, n=number): channel
        for template in templates
        for number, (channel, word) in enumerate(WORDS.items(), start=1)
    }
    proposal = propose(files, own)
    return proposal and proposal.pattern


@pytest.mark.parametrize(
    ("templates", "pattern"),
    [
        (
            ["H12_01_{n}_1_{c}_001.tif", "H12_01_{n}_2_{c}_001.tif", "A1_01_{n}_1_{c}_001.tif"],
            r"^(?P<well>[A-Z]\d+)_\d+_\d+_(?P<site>\d+)_(?P<channel>DAPI|GFP)[\W_]",
        ),
        (  # the number of a site without its letter
            ["x-A01-s1-{n}-{c}.png", "x-A01-s2-{n}-{c}.png", "x-B02-s1-{n}-{c}.png"],
            r"^[^\W_]+-(?P<well>[A-Z]\d+)-s(?P<site>\d+)-\d+-(?P<channel>DAPI|GFP)[\W_]",
        ),
        (  # behind the channel's word
            ["{c}/{n}/7.tif", "{c}/{n}/8.tif"],
            r"^(?P<channel>DAPI|GFP)/\d+/(?P<field>\d+)[\W_]",
        ),
        (  # P1 is the plate
            ["P1/{n}_B02_{c}.tif", "P2/{n}_B02_{c}.tif", "P1/{n}_B03_{c}.tif"],
            r"^(?P<plate>[A-Z]\d+)/\d+_(?P<well>[A-Z]\d+)_(?P<channel>DAPI|GFP)[\W_]",
        ),
        (["only_{n}_{c}.tif"], r"^(?P<field>[^\W_]+)_\d+_(?P<channel>DAPI|GFP)[\W_]"),
        (["{n}{c}.tif", "{n}{c}_b.tif"], None),  # the words are no words of the path
    ],
)
def test_the_part_that_follows_the_channel_is_none_of_the_field(
    templates: Sequence[str], pattern: str | None
) -> None:
    assert proposed(*templates) == pattern


def test_a_running_number_is_left_out() -> None:
    files = {
        f"a_{i}_{i * 7 + k}_{w}.tif": c for i in range(4) for k, (c, w) in enumerate(WORDS.items())
    }
    proposal = propose(files, own)
    assert proposal is not None
    assert (proposal.pattern, proposal.complete) == (
        r"^[^\W_]+_(?P<field>\d+)_\d+_(?P<channel>DAPI|GFP)[\W_]", 4,
    )  # fmt: skip


def test_nothing_is_proposed_where_nothing_pairs() -> None:
    assert propose({"a_1_DAPI.tif": "dna", "b_2_DAPI.tif": "dna"}, own) is None  # one channel
    twice = {"A01_0_DAPI.tif": "dna", "A01_6_DAPI.tif": "dna", "A01_x_GFP.tif": "er"}
    assert propose(twice, own) is None  # two files for one channel of a field
    assert (
        propose({"far-red_a.tif": "dna", "b_GFP.tif": "er"}, lambda c: ["far red", "GFP"]) is None
    )


part = st.sampled_from(["well", "site", "constant", "bound", "bound"])
gap = st.sampled_from(["_", "-", "/", "__", " "])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    parts=st.lists(part, min_size=1, max_size=5).filter(
        lambda p: p.count("well") <= 1 and p.count("site") <= 1
    ),
    at=st.integers(0, 5),
    gaps=st.lists(gap, min_size=7, max_size=7),
    wells=st.lists(
        st.sampled_from(["A1", "A01", "B12", "H3"]), min_size=1, max_size=3, unique=True
    ),
    sites=st.integers(1, 3),
)
def test_a_proposed_pattern_pairs_all_fields(
    parts: list[str], at: int, gaps: list[str], wells: list[str], sites: int
) -> None:
    named = {"well": wells if "well" in parts else [""], "site": [str(s) for s in range(sites)]}
    named["site"] = named["site"] if "site" in parts else [""]
    at = min(at, len(parts))
    files: dict[str, str] = {}
    for well in named["well"]:
        for site in named["site"]:
            for number, (channel, word) in enumerate(WORDS.items()):
                value = {"well": well, "site": site, "constant": "x9", "bound": f"{number}"}
                tokens = [value[p] for p in parts]
                tokens.insert(at, word)
                text = "".join(t + g for t, g in zip(tokens, gaps, strict=False))
                files[text.rstrip("_-/ ") + ".tif"] = channel
    fields = len(named["well"]) * len(named["site"])
    proposal = propose(files, own)
    if proposal is None:
        # Nothing but what follows the channel: no part is left for a name.
        assert set(parts) == {"bound"}
        return
    assert proposal.complete == fields
    with tempfile.TemporaryDirectory() as folder:
        for name in files:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, PIXEL)
        found = discover(Path(folder), Layout(WORDS, proposal.pattern), list(WORDS))
    assert [len(field.planes) for field in found] == [2] * fields


def test_training_and_the_doctor_say_which_pattern(tmp_path: Path) -> None:
    for well in ("A1", "B2", "C3"):
        for number, word in enumerate(WORDS.values()):
            tifffile.imwrite(tmp_path / f"{well}_{number}_{word}.tif", PIXEL)
    task = Task("t", ("er",), ("dna",))
    config = DataConfig("folder", str(tmp_path), channels=WORDS)
    with pytest.raises(UserError) as caught:
        make_data(task, config).samples()
    assert str(caught.value).endswith(
        "part of the name changes with the channel (0 with DAPI, 1 with GFP): "
        r"""'data.pattern="^(?P<well>[A-Z]\d+)_\d+_(?P<channel>DAPI|GFP)[\W_]"' pairs 3 fields"""
    )
