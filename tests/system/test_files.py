import errno
import os
from pathlib import Path

import pytest

from vfn.errors import DiskFull, UserError
from vfn.system.files import (
    NAME_BYTES,
    check_name,
    clear_leftovers,
    make_folder,
    replacing,
    replacing_folder,
    write_text,
)


def test_make_folder_makes_parents_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b c"
    assert make_folder(folder) == folder
    assert make_folder(folder) == folder
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"{path}: cannot write there .*another output folder"):
            make_folder(path)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write")
def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(UserError, match="/proc: cannot write there"):
        make_folder(Path("/proc"))


def test_replacing_gives_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".ome.tif")
        assert temporary.name.startswith(".")  # nobody takes it for an image meanwhile
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.ome.tif"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failed_write_changes_nothing(
    tmp_path: Path, error: type[BaseException], before: str | None
) -> None:
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert os.listdir(tmp_path) == (["a.txt"] if before else [])
    if before:
        assert path.read_text() == before


def fill(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "a").write_text(text)


@pytest.mark.parametrize("before", [None, "old"])
def test_replacing_a_folder_gives_the_new_one(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "a.zarr"
    if before:
        fill(path, before)
        (path / "b").touch()  # is not in the new one
    with replacing_folder(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        fill(temporary, "new")
    assert os.listdir(tmp_path) == ["a.zarr"]
    assert os.listdir(path) == ["a"]
    assert (path / "a").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failed_write_changes_no_folder(
    tmp_path: Path, error: type[BaseException], before: str | None
) -> None:
    path = tmp_path / "a.zarr"
    if before:
        fill(path, before)

    def write() -> None:
        with replacing_folder(path) as temporary:
            fill(temporary, "half")
            raise error

    with pytest.raises(error):
        write()
    assert os.listdir(tmp_path) == (["a.zarr"] if before else [])
    if before:
        assert (path / "a").read_text() == before


def test_write_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "µm\nα")
    assert (tmp_path / "a.txt").read_bytes() == "µm\nα".encode()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_and_changes_nothing(tmp_path: Path, number: int) -> None:
    for write in (replacing, replacing_folder):
        path = tmp_path / "a.csv"

        said = pytest.raises(DiskFull, match=f"{path}: cannot be written, no space .*make room")
        with said, write(path) as temporary:
            temporary.mkdir() if write is replacing_folder else temporary.touch()
            raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match="broken"), replacing(tmp_path / "a.csv"):
        raise OSError(errno.EIO, "broken")  # no question of room
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("letter", ["x", "µ"])
def test_the_longest_names_can_be_written_and_their_leftovers_go(
    tmp_path: Path, letter: str
) -> None:
    path = tmp_path / (letter * ((NAME_BYTES - 8) // len(letter.encode())) + ".ome.tif")
    with replacing(path) as temporary:
        temporary.write_text("pixels")
        assert temporary.name.endswith(".ome.tif")
        (tmp_path / f"{temporary.name[:5]}01234567-{temporary.name[14:]}").touch()  # a killed one's
    assert path.read_text() == "pixels"
    clear_leftovers(tmp_path, {path.name})
    assert list(tmp_path.iterdir()) == [path]
    check_name(path)
    with pytest.raises(
        UserError, match=r"x{5}.*\.ome\.tif: is a file name of 2\d\d bytes, 255 is the most"
    ):
        check_name(path.with_name("xxxxxxxxx" + path.name))


def test_leftovers_of_killed_writes_go(tmp_path: Path) -> None:
    for name in (".tmp-0123abcd-a.csv", ".tmp-89efABCD-b.csv", ".hidden", "a.csv"):
        (tmp_path / name).touch()
    fill(tmp_path / ".old-0123abcd-c.zarr", "old")
    fill(tmp_path / "below", "new")
    (tmp_path / "below" / ".tmp-0123abcd-a.csv").touch()  # somebody else's
    clear_leftovers(tmp_path, {"c.zarr"})
    assert not (tmp_path / ".old-0123abcd-c.zarr").exists()
    assert (tmp_path / ".tmp-0123abcd-a.csv").exists()
    clear_leftovers(tmp_path)
    kept = sorted(os.listdir(tmp_path))
    assert kept == [".hidden", ".tmp-89efABCD-b.csv", "a.csv", "below"]  # capitals are not ours
    assert (tmp_path / "below" / ".tmp-0123abcd-a.csv").exists()
    clear_leftovers(tmp_path / "missing")
