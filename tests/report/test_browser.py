"""The page in a browser: slider, layers, fields, places, keyboard, themes, phone, paper, silence.

VFN_NEEDS_BROWSER=1 makes a missing browser a failure.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vfn.commands.score import default_limits, score
from vfn.data.simulated import Specimen
from vfn.evaluation.criteria import Stain
from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.ranges import channel_ranges
from vfn.evaluation.results import ChannelResult
from vfn.evaluation.stain import Nuclei, measure
from vfn.evaluation.verdict import judge
from vfn.report.blocks import Part, Place, Places, Soft, Table
from vfn.report.evaluation_page import render
from vfn.report.images import make_pictures
from vfn.report.stain_section import ShownField

SHAPE = (300, 400)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Cells:
    """Simulated nuclei; the prediction is dimmer, and lacks what lies in its upper left corner."""

    def __len__(self):
        return 5

    def truth(self, index):
        return ("dapi",), Specimen(index, SHAPE).render("dapi", 0.0, "uint16")[None]

    def pair(self, index):
        truth = self.truth(index)[1]
        phase = Specimen(index, SHAPE).render("phase", 0.0, "uint16")[None].astype(np.float32)
        prediction = (0.9 * truth).astype(np.uint16)
        prediction[:, :80, :100] = truth.min()
        mean = np.full_like(truth, truth.mean())
        return FieldPair(
            f"f{index}", ("dapi",), truth, prediction, phase, ("phase",), {"mean": mean}, 0.65
        )


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        path = found or playwright.chromium.executable_path
        if not Path(path).exists():
            if os.environ.get("VFN_NEEDS_BROWSER") == "1":
                pytest.fail("no browser, and VFN_NEEDS_BROWSER=1: install chromium")
            pytest.skip("no browser: chromium, google-chrome or `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    score(Cells(), folder, {"command": "evaluate.py"})
    return folder / "report.html"


@pytest.fixture
def visit(browser):
    """Open a page file; at the end nothing must have been asked of anybody, and no error raised."""
    contexts, asked, complaints = [], [], []

    def visit(path, width=1280, scheme="light", touch=False, hash=""):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=touch
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append((request.url, path.as_uri())))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri() + hash)
        return page

    yield visit
    for context in contexts:
        context.close()
    strangers = {
        url for url, own in asked if url.split("#")[0] != own and not url.startswith("data:")
    }
    assert asked
    assert strangers == set()
    assert complaints == []


def clip(page, field=0):
    """Where the prediction begins, % of the picture's width."""
    style = page.locator(".after").nth(field).evaluate("e => getComputedStyle(e).clipPath")
    return float(style.removesuffix("%)").split()[-1])


def test_the_slider_follows_keys_and_pointer(visit, scored, tmp_path):
    page = visit(scored)
    slider = page.locator(".compare input[type=range]").first
    assert clip(page) == 50
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert clip(page) == 52
    page.keyboard.press("Home")
    assert clip(page) == 0
    assert "truth on the left 0 %" in slider.get_attribute("aria-valuetext")

    stack = page.locator(".stack").first
    stack.scroll_into_view_if_needed()
    box = stack.bounding_box()
    y = box["y"] + box["height"] / 3
    page.mouse.move(box["x"] + 0.2 * box["width"], y)
    page.mouse.down()
    assert clip(page) == pytest.approx(20, abs=1)
    page.mouse.move(box["x"] + 0.8 * box["width"], y, steps=3)
    assert clip(page) == pytest.approx(80, abs=1)
    page.mouse.up()
    page.mouse.move(box["x"] + 0.5 * box["width"], y)
    assert clip(page) == pytest.approx(80, abs=1)  # let go
    assert clip(page, 1) == 50  # the other pictures stay

    # What is seen left and right of the line, pixel by pixel: the corner that the prediction lacks.
    page.locator(".show-marks").first.uncheck()

    def corner():
        page.evaluate("document.querySelector('.stack').style.setProperty('--at', '0%')")
        stack.screenshot(path=tmp_path / "prediction.png")
        page.evaluate("document.querySelector('.stack').style.setProperty('--at', '100%')")
        stack.screenshot(path=tmp_path / "truth.png")
        for name in ("prediction", "truth"):
            picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"), float)
            height, width = picture.shape
            yield picture[height // 10 : height // 4 - 9, 9 : width // 4 - 9].std()

    lacking, there = corner()
    assert lacking < 3 < there


def test_a_finger_moves_the_line(visit, scored):
    page = visit(scored, 360, touch=True)
    box = page.locator(".stack").first.bounding_box()
    page.locator(".stack").first.tap(position={"x": 0.25 * box["width"], "y": 40})
    assert clip(page) == pytest.approx(25, abs=1)


def test_layers_take_the_place_of_the_prediction(visit, scored):
    page = visit(scored)
    shot = page.locator(".after img").first
    before = shot.get_attribute("src")
    for layer in ("error", "off by more than 10 %"):
        page.locator(".compare").first.get_by_label(layer).check()
        own = page.locator(f".panels img[alt^='{layer}']").first
        assert shot.get_attribute("src") == own.get_attribute("src") != before
        assert page.locator(".after span").first.inner_text() == layer
    page.locator(".compare").first.get_by_label("prediction", exact=True).check()
    assert shot.get_attribute("src") == before


def test_a_field_opens_from_the_chooser(visit, scored):
    page = visit(scored)
    fields = page.locator("details.field")
    assert [fields.nth(i).evaluate("e => e.open") for i in range(5)] == [True] * 3 + [False] * 2
    name = fields.nth(4).locator("strong").inner_text()
    page.locator(".chooser a", has_text=name).click()
    assert fields.nth(4).evaluate("e => e.open")
    page.wait_for_function(
        "Math.abs(document.querySelectorAll('details.field')[4].getBoundingClientRect().top) < 400"
    )
    fields.nth(4).locator("summary").click()  # closed by hand, the same link opens it again
    page.locator(".chooser a", has_text=name).click()
    assert fields.nth(4).evaluate("e => e.open")
    again = visit(scored, hash="#" + fields.nth(3).get_attribute("id"))
    assert again.locator("details.field").nth(3).evaluate("e => e.open")


def test_tab_reaches_everything_and_shows_where_it_is(visit, scored):
    page = visit(scored)
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        tag, outline = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
            return [e.tagName + (e.type ? ":" + e.type : ""), s.outlineStyle + s.outlineWidth]; }"""
        )
        if tag != "BODY":
            assert outline == "solid3px", f"{tag} has no visible focus: {outline}"
        seen.append(tag)
    order = [seen.index(tag) for tag in ("A", "SUMMARY", "INPUT:range", "INPUT:radio", "IMG")]
    assert order == sorted(order)


def test_a_picture_enlarges_and_goes_back(visit, scored):
    page = visit(scored)
    page.locator(".shot img").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_any_screen(visit, scored, tmp_path, width, scheme):
    page = visit(scored, width, scheme)
    for fold in page.locator("details").all():
        fold.evaluate("e => { e.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    ground = Image.open(tmp_path / f"{width}-{scheme}.png").convert("L").getpixel((2, 2))
    assert ground > 200 if scheme == "light" else ground < 60
    for level in page.locator(".level").all():  # a shape and a word beside the colour
        assert level.locator("svg").is_visible()
        assert level.inner_text().strip() in ("Use", "Use with care", "Do not use", "Not judged")


def test_paper_has_both_pictures_side_by_side(visit, scored, tmp_path):
    page = visit(scored)
    page.emulate_media(media="print")
    left, right = (page.locator(".side").nth(i).bounding_box() for i in range(2))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    assert page.locator(".after").first.evaluate("e => getComputedStyle(e).clipPath") == "none"
    assert not page.locator(".tools").first.is_visible()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    assert page.locator("details[data-print]").first.evaluate("e => e.open")


def test_without_scripts_both_pictures_are_there(browser, scored):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(scored.as_uri())
    left, right = (page.locator(".side").nth(i).bounding_box() for i in range(2))
    assert left["x"] + left["width"] <= right["x"]
    assert not page.locator(".tools").first.is_visible()
    context.close()


def test_a_link_leads_to_the_place_of_a_missed_nucleus(visit, tmp_path):
    source = Cells()
    ranges = channel_ranges(source)["dapi"]
    result = ChannelResult("dapi", ranges)
    pairs = [source.pair(index) for index in range(4)]
    for index, pair in enumerate(pairs):
        result.add(index, pair, 0, measure(pair, {"dapi": ranges}, Nuclei())[0])
    region = (slice(40, 140), slice(200, 300))
    shown = [
        ShownField(row, "", make_pictures(pair, result), make_pictures(pair, result, region))
        for row, pair in zip(result.rows, pairs, strict=True)
    ]
    places = (
        Place("f3", "missed", 60.0, 220.0, "84 px"),
        Place("f0", "hallucinated", 10.0, 30.0),
        Place("elsewhere", "missed", 1.0, 2.0),
    )
    table = Table(("F1",), [("0.9",)])
    parts = {
        "dapi": [Part("Nuclei", ["Two differ.", table, Places("Nuclei", places), Soft("Otsu.")])]
    }
    summary = {"dapi": result.summary()}
    verdicts = {"dapi": judge(Stain.of(result, summary["dapi"]), default_limits())}
    path = tmp_path / "page.html"
    path.write_text(render([result], summary, {"dapi": shown}, verdicts, {}, parts))

    page = visit(path)
    entries = page.locator(".places li")
    assert entries.count() == 3
    assert entries.nth(2).locator("a").count() == 0  # a field without pictures
    entries.first.locator("a").click()
    field = page.locator("details.field").nth(3)
    assert field.evaluate("e => e.open")
    mark = field.locator(".mark:target")
    assert mark.inner_text() == "missed, 84 px"
    page.wait_for_function(
        """() => { const box = document.querySelector(".mark:target").getBoundingClientRect();
        return box.top > 0 && box.bottom < innerHeight; }"""
    )
    picture, ring = field.locator(".stack").first.bounding_box(), mark.bounding_box()
    x = (ring["x"] + ring["width"] / 2 - picture["x"]) / picture["width"]
    y = (ring["y"] + ring["height"] / 2 - picture["y"]) / picture["height"]
    assert (x, y) == pytest.approx((220.5 / SHAPE[1], 60.5 / SHAPE[0]), abs=0.005)
    in_detail = field.locator(".compare").nth(1).locator(".mark")
    assert in_detail.count() == 1
    assert in_detail.get_attribute("style") == "left: 20.500%; top: 20.500%"
    other = page.locator("details.field").nth(0)
    other.locator(".show-marks").first.uncheck()
    assert not other.locator(".mark").first.is_visible()
