"""Searching paths for a pattern that need not end."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.data import matching
from vfn.data.matching import search_all
from vfn.errors import UserError


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=12), max_size=5))
def test_it_finds_what_re_finds(texts: list[str]) -> None:
    texts = [
        *texts,
        "a/F01_dapi.tif",
        "b_\udce9.tif",
        "Zürich_phase.tif",
        "phase.tif",
    ]  # one not UTF-8
    pattern = r"(?:(?P<field>\w+)_)?(?P<channel>phase|dapi|.)\.tif$"
    expected = [m and m.groupdict("") for m in map(re.compile(pattern).search, texts)]
    assert search_all(pattern, texts, "data.pattern") == expected
    assert expected[-4] == {"field": "F01", "channel": "dapi"}
    assert expected[-1] == {"field": "", "channel": "phase"}


@pytest.mark.parametrize(
    ("pattern", "seconds"),
    [
        (r"(?P<field>(\w+)+)!(?P<channel>x)", "1"),
        ("(?i)" + "[a-\U0010ffff]" * 500, "1"),  # takes its time before any path is looked at
    ],
)
def test_a_pattern_that_backtracks_for_ever_is_stopped(
    monkeypatch: pytest.MonkeyPatch, pattern: str, seconds: str
) -> None:
    monkeypatch.setattr(matching, "SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(
        UserError, match=rf"for more than {seconds} s and was stopped; avoid repeats"
    ):
        search_all(pattern, ["a" * 60], "data.pattern")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("pattern", ["(", "(?P<1>a)", "a" * 9 + "(" * 5000, "*"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(UserError, match=r"^data\.pattern=.*: not a regular expression \("):
        search_all(pattern, ["a"], "data.pattern")
