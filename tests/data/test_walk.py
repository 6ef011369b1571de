import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.walk import find_images, find_sources, walk
from vfn.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_images(root)]


@pytest.fixture
def said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("vfn"), "propagate", True)
    return caplog


def test_find_images(tmp_path: Path) -> None:
    for name in ("b/2.tif", "a.PNG", "b/.hidden.tif", "notes.txt", "c.tif/inside.tiff", "._a.tif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "lost.tif").symlink_to("nowhere")
    names = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)]
    assert names == ["a.PNG", "b/2.tif", "c.tif/inside.tiff", "lost.tif"]


@pytest.mark.parametrize("make", [lambda p: None, Path.mkdir, Path.touch])
def test_find_images_needs_a_folder_with_images(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    folder = tmp_path / "images"
    make(folder)
    with pytest.raises(UserError, match=str(folder)):
        find_images(folder)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "root/plate1/a.tif", "disk2/deep/b.tif", "disk3/c.tif")
    (tmp_path / "disk2" / "more").symlink_to(tmp_path / "disk3")  # a link behind a link
    (tmp_path / "root" / "plate2").symlink_to(tmp_path / "disk2")
    assert found(tmp_path / "root") == ["plate1/a.tif", "plate2/deep/b.tif", "plate2/more/c.tif"]
    (tmp_path / "all").symlink_to(tmp_path / "root")
    assert len(find_sources(tmp_path / "all")) == 3


def test_links_in_a_circle_end(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "root/a/x.tif", "beside.tif")
    (tmp_path / "root" / "a" / "up").symlink_to("..")
    (tmp_path / "root" / "beyond").symlink_to(tmp_path)
    (tmp_path / "root" / "me").symlink_to("me")
    assert found(tmp_path / "root") == ["a/x.tif"]
    assert sorted(text.split(": ")[0] for text in said.messages) == [
        str(tmp_path / "root" / name) for name in ("a/up", "beyond", "me")
    ]


def test_a_folder_that_is_there_twice_is_read_once_under_its_own_name(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "plate/a.tif")
    (tmp_path / "latest").symlink_to("plate")  # sorts before it
    assert found(tmp_path) == ["plate/a.tif"]
    assert said.messages == [
        f"{tmp_path}/latest: links to a folder that holds it or is read already; left out"
    ]


def test_what_is_left_out_is_named(
    tmp_path: Path, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.tif", "locked/b.tif")
    (tmp_path / "plate9").symlink_to("/disk/that/is/not/mounted")
    scandir = __import__("os").scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("vfn.data.walk.os.scandir", refuse)
    assert found(tmp_path) == ["a.tif"]
    assert found(tmp_path) == ["a.tif"]  # said once
    assert said.messages == [
        f"{tmp_path}/plate9: is a link that leads nowhere; left out",
        f"{tmp_path}/locked: cannot be listed (Permission denied), so its images are left out",
    ]


def test_ome_zarr_is_whole_and_hidden_folders_stay_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "a.zarr/0/b.tif", ".c/d.tif", ".e.zarr/f", "g.tif")
    assert sorted(p.name for p in walk(tmp_path)) == ["a.zarr", "g.tif"]


@pytest.mark.parametrize(
    ("name", "thumbnail"),
    [
        ("P1_B02_s1_w1.tif", "P1_B02_s1_w1_thumb.tif"),
        ("P1_B02_s1_w1.tif", "P1_B02_s1_Thumbnail_w1.png"),
        ("P1_B02_s1_w1.tif", "thumbs/P1_B02_s1_w1.tif"),
        (
            "A01_s1_w1BEDC2073-A983-4B98-95E9-84466707A25D.tif",
            "A01_s1_w1_thumb0A1B2C3D-A983-4B98-95E9-84466707A25D.tif",
        ),
    ],
)
def test_thumbnails_beside_their_image_are_left_out(
    tmp_path: Path, name: str, thumbnail: str, said: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, name, thumbnail)
    assert found(tmp_path) == [name]
    assert [p.name for p in find_sources(tmp_path)] == [name]
    assert said.messages == [
        f"{tmp_path}: 1 thumbnail(s) beside their images are left out, the first: {thumbnail}"
    ]


def test_names_that_only_look_like_thumbnails_stay(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    # No image beside it, a word of its own, a part of a word.
    names = ["a_thumb.tif", "b.tif", "c_thumb.tif", "thumbelina_b.tif"]
    touch(tmp_path, *names)
    assert found(tmp_path) == names
    assert said.messages == []


def test_thumbnails_are_no_fields(tmp_path: Path) -> None:
    for name in ("A01_phase", "A01_dapi", "A01_phase_thumb", "A01_dapi_thumb"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ones((4, 4), np.uint8))
    by_token = discover(tmp_path, Layout(), ["phase", "dapi"])
    pattern = r"(?P<field>A\d+)_(?P<channel>phase|dapi)"
    by_pattern = discover(tmp_path, Layout(pattern=pattern), ["phase", "dapi"])
    assert [field.name for field in by_token] == ["A01"]
    assert [field.name for field in by_pattern] == ["A01"]


def test_a_folder_that_lies_too_deep_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.tif")
    monkeypatch.chdir(tmp_path)
    for _ in range(22):  # longer than a path may be
        Path("d" * 200).mkdir()
        monkeypatch.chdir("d" * 200)
    monkeypatch.undo()
    assert found(tmp_path) == ["a.tif"]
