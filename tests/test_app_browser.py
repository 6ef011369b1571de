"""The local page in a browser: drop, predict, compare, change the contrast, download.

VFN_NEEDS_BROWSER=1 makes a missing browser a failure.
"""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.cli import run
from tests.models.test_verdicts import SCORES
from tests.report.test_browser import browser
from tests.test_app import KEY, Page, runs, seen, serve, specimen
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE

__all__ = ["browser", "runs", "serve"]  # fixtures
BRIGHT = 60  # of 255


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page of a server; nothing must be asked of anybody else, and nothing go wrong."""
    contexts, asked, complaints = [], [], []

    def visit(page: Page, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("request", lambda request: asked.append((request.url, page.port)))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(f"http://127.0.0.1:{page.port}/#key={KEY}")
        tab.wait_for_selector(".model")
        assert KEY not in tab.url
        return tab

    yield visit
    for context in contexts:
        context.close()
    strangers = [
        url for url, port in asked
        if not url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:"))
    ]  # fmt: skip
    assert asked
    assert strangers == []
    # A browser notes every refused request by itself.
    assert [text for text in complaints if "Failed to load resource" not in text] == []


def choose(tab: Any, model: str) -> None:
    tab.locator(f'input[name=model][value="{model}"]').check()


def predict(tab: Any) -> None:
    tab.wait_for_selector("#predict:enabled")
    tab.click("#predict")
    tab.wait_for_selector("#progress", state="visible")
    tab.wait_for_selector("#progress", state="hidden")


def drop(tab: Any, *paths: Path) -> None:
    """As from a file manager, onto the page."""
    tab.evaluate(
        """(files) => {
          const transfer = new DataTransfer();
          for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
          for (const kind of ["dragenter", "dragover", "drop"])
            document.getElementById("zone").dispatchEvent(
              new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [[path.name, list(path.read_bytes())] for path in paths],
    )


def pixels(tab: Any) -> np.ndarray:
    """What the canvas shows, (H, W, 3)."""
    uri = tab.evaluate("document.getElementById('canvas').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))[..., :3]


def settle(tab: Any) -> np.ndarray:
    """The canvas once everything is there."""
    tab.wait_for_selector('#stack[aria-busy="false"]')
    return pixels(tab)


def test_from_a_dropped_file_to_the_file_of_predict(
    visit: Callable[..., Any], serve: Callable[..., Page], runs: Path, tmp_path: Path
) -> None:
    image = specimen(tmp_path / "new" / "cell_phase.tif")
    tab = visit(serve())
    assert tab.locator("#predict").is_disabled()
    choose(tab, "nuclei")
    assert "0.65 µm" in tab.locator("#about").text_content()
    drop(tab, image)
    predict(tab)
    assert tab.locator("#title").inner_text() == "cell"
    assert "unlike" in tab.locator("#trust").inner_text()  # another cell than in training
    assert "±" in tab.locator("#trust").inner_text()

    at_half = settle(tab)
    line = at_half.shape[1] // 2
    tab.locator("#slider").focus()
    for _ in range(60):
        tab.keyboard.press("ArrowRight")
    assert tab.locator("#slider").input_value() == "80"
    moved = pixels(tab)
    between = slice(line + 8, int(0.8 * at_half.shape[1]) - 8)
    np.testing.assert_array_equal(moved[:, : line - 8], at_half[:, : line - 8])
    assert (moved[:, between] != at_half[:, between]).any()
    box = tab.locator("#canvas").bounding_box()
    tab.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    assert float(tab.locator("#slider").input_value()) == pytest.approx(25, abs=1)

    left = tab.locator('.contrast[data-side="left"]')
    tab.locator("#slider").fill("100")
    before = settle(tab).mean()
    left.locator(".white-number").fill("60000")
    left.locator(".white-number").press("Enter")
    darker = pixels(tab).mean()
    assert darker < 0.6 * before
    left.locator(".auto").click()
    assert pixels(tab).mean() == pytest.approx(before, abs=0.5)
    left.locator("select").select_option("green")
    green = pixels(tab)
    assert green[..., 1].mean() > BRIGHT / 2
    assert green[..., [0, 2]].max() == 0
    left.locator(".black").focus()
    tab.keyboard.press("End")
    assert float(left.locator(".black-number").input_value()) < float(
        left.locator(".white-number").input_value()
    )

    tab.locator("#right").select_option("2")
    assert tab.locator("#tag-right").inner_text() == "dapi ± uncertainty"
    tab.locator("#canvas").hover(position={"x": 40, "y": 40})
    assert tab.locator("#readout").inner_text().startswith("x ")
    with tab.expect_download() as download:
        tab.click("#download")
    assert download.value.suggested_filename == "cell.ome.tif"
    command = [f"ckpt={runs}/nuclei/checkpoints/best.ckpt", f"input={image}", "output=out"]
    run("predict.py", *command, "uncertainty=0.9", "device=cpu", cwd=tmp_path).ok()
    assert (
        Path(download.value.path()).read_bytes() == (tmp_path / "out" / "cell.ome.tif").read_bytes()
    )
    with tab.expect_download() as picture:
        tab.click("#save")
    assert picture.value.suggested_filename == "cell_view.png"


def test_channels_are_chosen_by_hand(
    visit: Callable[..., Any], serve: Callable[..., Page], tmp_path: Path
) -> None:
    tab = visit(serve())
    choose(tab, "sweep/two")
    assert "no uncertainty" in tab.locator("#uncalibrated").inner_text()
    drop(tab, specimen(tmp_path / "one.tif", "rna"))
    tab.get_by_text("The model wants 2 channels (golgi_actin, rna), 1 image is there").wait_for()
    drop(tab, specimen(tmp_path / "two.tif", "golgi_actin"))
    tab.get_by_text("2 images for 2 channels").wait_for()
    assert tab.locator("#predict").is_disabled()
    tab.get_by_label("image for golgi_actin").select_option(label="two.tif")
    tab.get_by_label("image for rna").select_option(label="one.tif")
    predict(tab)
    assert tab.locator("#title").inner_text() == "two"
    assert tab.locator("#left option").all_inner_texts() == [
        "golgi_actin (input)", "rna (input)", "er (predicted)",
    ]  # fmt: skip


def test_errors_are_lines_on_the_page(
    visit: Callable[..., Any], serve: Callable[..., Page], tmp_path: Path
) -> None:
    page = serve(upload_mb=0.1)
    tab = visit(page)
    assert "is no checkpoint" in tab.locator(".model.broken").inner_text()
    choose(tab, "nuclei")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "half_phase.tif").write_bytes(
        specimen(tmp_path / "whole_phase.tif").read_bytes()[:-500]
    )
    drop(tab, tmp_path / "notes.txt")
    tab.get_by_text("notes.txt: is no image by its name").wait_for()
    drop(tab, tmp_path / "half_phase.tif")
    tab.get_by_text("half_phase.tif: is truncated").first.wait_for()
    tab.click("#clear")
    (tmp_path / "large_phase.tif").write_bytes(bytes(200_000))
    drop(tab, tmp_path / "large_phase.tif")
    tab.get_by_text("200 kB are too much").wait_for()
    tifffile.imwrite(tmp_path / "eight_phase.tif", np.zeros((20, 20), np.uint8))
    drop(tab, tmp_path / "eight_phase.tif")
    predict(tab)
    assert "channel phase is uint8" in tab.locator("#field-error").inner_text()
    assert not tab.locator("#viewer").is_visible()
    assert not tab.locator("#download").is_visible()


def test_a_folder_is_chosen(
    visit: Callable[..., Any], serve: Callable[..., Page], runs: Path, tmp_path: Path
) -> None:
    for name in ("x", "y"):
        specimen(tmp_path / "images" / "plate" / f"{name}_phase.tif", seed=seen(runs))
    tab = visit(serve([tmp_path / "images"]))
    choose(tab, "nuclei")
    tab.get_by_label("A folder on this computer").check()
    tab.get_by_role("button", name="plate").click()
    tab.get_by_text("images / plate (2 image files)").wait_for()
    tab.click("#use-folder")
    predict(tab)
    assert tab.locator("#field option").all_inner_texts() == ["x", "y"]
    assert "Brightness, contrast, noise" in tab.locator("#trust").inner_text()
    tab.locator("#field").select_option("1")
    assert tab.locator("#title").inner_text() == "y"
    with tab.expect_download() as download:
        tab.click("#download-all")
    assert download.value.suggested_filename == "predicted.zip"


def scored(path: Path, level: str | None, to: Path) -> None:
    """A checkpoint whose card has a verdict."""
    raw = read_raw(path)
    raw[RECIPE]["card"]["test"] = level and {"dapi": {**SCORES, "verdict": level}}
    to.parent.mkdir(parents=True)
    torch.save(raw, to)


def test_a_result_is_no_better_than_its_model(
    visit: Callable[..., Any], serve: Callable[..., Page], runs: Path, tmp_path: Path
) -> None:
    best = Path("checkpoints", "best.ckpt")
    looks = {
        "use": ("use", "good", "dapi: use"),
        "care": ("care", "warn", "dapi: use with care"),
        "not": ("do not use", "bad", "dapi: do not use"),
        "never": (None, "warn", "dapi: never scored"),
    }
    for name, (level, _, _) in looks.items():
        scored(runs / "nuclei" / best, level, tmp_path / "runs" / name / best)
    tab = visit(serve(root=tmp_path / "runs"))
    drop(tab, specimen(tmp_path / "same_phase.tif", seed=seen(runs)))
    for name, (level, look, says) in looks.items():
        listed = tab.locator(f'.model:has(input[value="{name}"]) .line')
        assert (listed.inner_text(), listed.get_attribute("class")) == (says, f"line {look}")
        choose(tab, name)
        assert f"{says} " in tab.locator("#about").text_content()
        tab.wait_for_selector("#predict:enabled")
        tab.click("#predict")
        tab.get_by_text(f"predicted by {name}", exact=True).wait_for()
        verdict, image = tab.locator("#trust .line").all()
        assert verdict.inner_text().startswith(f"{says} ")
        assert verdict.get_attribute("class") == f"line {look}"
        fine = level == "use"
        assert image.inner_text().startswith("No warning" if fine else "Brightness, contrast")
        assert image.get_attribute("class") == ("line good" if fine else "line")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [500, 1280])
def test_it_fits_the_screen_and_the_keyboard(
    visit: Callable[..., Any], serve: Callable[..., Page], tmp_path: Path, width: int, scheme: str
) -> None:
    tab = visit(serve(), width, scheme)
    choose(tab, "nuclei")
    drop(tab, specimen(tmp_path / f"{40 * 'long'}_phase.tif"))
    predict(tab)
    settle(tab)
    for fold in tab.locator("details").all():
        fold.evaluate("e => { e.open = true; }")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    reached = set()
    tab.evaluate("document.activeElement.blur()")
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = {"choose", "predict", "download", "left", "right", "canvas", "slider", "black", "auto"}
    assert wanted <= reached
    tab.locator("#canvas").focus()
    for key, grows in (("+", True), ("+", True), ("0", False)):
        scale = tab.locator("#zoom").inner_text()
        tab.keyboard.press(key)
        now = tab.locator("#zoom").inner_text()
        assert (int(now.split()[0]) > int(scale.split()[0])) is grows


def test_a_stopped_program_is_a_line(
    visit: Callable[..., Any], serve: Callable[..., Page], tmp_path: Path
) -> None:
    page = serve()
    tab = visit(page)
    choose(tab, "nuclei")
    tab.route("**/api/**", lambda route: route.abort())
    tab.click("#refresh")
    tab.get_by_text("The program no longer answers").wait_for()
    tab.unroute("**/api/**")
    tab.evaluate("sessionStorage.setItem('key', 'of another start')")
    tab.reload()
    tab.get_by_text("the program was started anew; open the whole address").wait_for()
    tab.evaluate(f"location.href = '/#key={KEY}'")  # as typed into the same tab
    tab.wait_for_selector(".model")
    assert KEY not in tab.url


def test_the_key_stays_with_the_tab(visit: Callable[..., Any], serve: Callable[..., Page]) -> None:
    page = serve()
    tab = visit(page)
    tab.reload()
    tab.wait_for_selector(".model")
    assert tab.context.cookies() == []
    second = tab.context.new_page()
    second.goto(f"http://127.0.0.1:{page.port}/")
    second.get_by_text("this page lacks its key").wait_for()
    second.goto(f"http://127.0.0.1:{page.port}/#key={KEY}")
    second.wait_for_selector(".model")
