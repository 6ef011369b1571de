"""The page as a file: its size, its promise to load nothing, its links, what is absent."""

import re

import numpy as np
import pytest
from markupsafe import Markup

from vfn.commands.score import score
from vfn.evaluation.criteria import CRITERIA, LEVELS
from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.verdict import Judgement, Verdict
from vfn.report import evaluation_page
from vfn.report.blocks import (
    Article,
    Block,
    Bullets,
    Chart,
    Charts,
    Command,
    Drawing,
    Fold,
    Gallery,
    Key,
    Part,
    Place,
    Places,
    Section,
    Slider,
    Soft,
    Styled,
    Table,
    Terms,
)
from vfn.report.html import environment
from vfn.report.images import Panel, Pictures, Strip

LIMIT = 400_000


class Noise:
    """A hundred fields of what compresses worst."""

    channels = ("dapi", "er")

    def __len__(self):
        return 100

    def truth(self, index):
        rng = np.random.default_rng(index)
        return self.channels, rng.integers(0, 4096, (2, 96, 80)).astype(np.uint16)

    def pair(self, index):
        truth = self.truth(index)[1]
        prediction = truth[:, ::-1].copy()
        return FieldPair(f"well {index:03d}", self.channels, truth, prediction, truth, ("a", "b"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_page, "PICTURES_LIMIT", LIMIT)
        score(Noise(), folder, {})
    return (folder / "report.html").read_text()


def test_pictures_keep_to_their_limit(text):
    pictures = re.findall(r'"(data:image/webp[^"]*)"', text)
    assert len(pictures) == 24 * 6
    assert LIMIT / 4 < sum(map(len, pictures)) <= LIMIT
    # The limit that ships leaves room for everything else, here 100 fields of two stains.
    assert len(text) - sum(map(len, pictures)) + evaluation_page.PICTURES_LIMIT < 15e6


def test_nothing_may_be_loaded_and_every_link_has_its_end(text):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    ends = set(re.findall(r'(?:href="#|data-from=")([^"]+)"', text))
    assert len(ends) > 70
    assert ends <= set(ids)


def blocks():
    return environment().get_template("report/blocks.html.j2").module


def test_levels_are_told_by_word_and_shape():
    marks = blocks().marks
    assert set(marks) == {*LEVELS, None}
    drawn = {level: str(blocks().mark(level)) for level in marks}
    shapes = {re.search(r"<(?:path|circle) [^>]+>", mark)[0] for mark in drawn.values()}
    assert len(shapes) == len(marks)
    assert all(word in drawn[level] for level, (_, word) in marks.items())


def test_what_was_not_measured_leaves_no_trace(text):
    assert '<ul class="places' not in text
    assert 'class="mark ' not in text
    assert "show-marks" not in text.split("</style>")[1].split("<script>")[0]


def test_a_block_is_shown_as_it_is():
    cell = Styled('"x"', "best", "why <not>")
    table = Table(("F1", "note"), [("0.9", "x"), (cell, "<y>")], (1,))
    shown = str(blocks().show([Part("Nuclei <1>", ["a & b", table])]))
    for words in (
        "<h3>Nuclei &lt;1&gt;</h3>",
        "<p>a &amp; b</p>",
        '<td class="words">x</td>',
        '<td class="best" title="why &lt;not&gt;">&#34;x&#34;</td>',
        '<td class="words">&lt;y&gt;</td>',
    ):
        assert words in shown
    assert "<ul" not in shown


def test_every_block_has_its_markup():
    picture = Panel("p", np.zeros((2, 3), np.uint8))
    place = Place("f", "missed", 1.0, 2.0)
    made = [
        Soft("x"),
        Bullets(["x"]),
        Charts([Chart("x", "", "data:", "data:"), Drawing(Markup("<svg/>"), "x")]),
        Key(Chart("x", "", "data:", "data:")),
        Terms([("x", "y")]),
        Part("x", []),
        Fold("x", []),
        Article(Markup("x"), [], "field"),
        Section("x", []),
        Command("x"),
        Gallery(Strip((picture,), None, 0.0), "f", "x"),
        Places("x", [place]),
        Slider("x", Pictures((), *[picture] * 4, 0, 0, 0, 2, 3, None, 0), "f", "x", {}, "", 1e6),
        Table(["x"], [["y"]]),
    ]
    assert {type(block) for block in made} == set(Block.__subclasses__())
    for block in made:
        assert "x" in str(blocks().show([block]))


def test_a_remark_comes_before_the_reasons():
    good = Judgement(CRITERIA[0], "use", "1.00", "", "", "It is as bright.")
    verdict = Verdict("care", (good,), remark="Not all is known.")
    assert verdict.reasons == ["Not all is known.", "It is as bright."]
