import ctypes
import logging
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_tokens
from tests.odd_files import CASES, Case, OddFile, write_odd_files
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.images import read_image
from vfn.errors import UserError

SECONDS = 10.0  # far more than any of them needs
HEADROOM = 2**30  # bytes; what the damaged headers promise is 8 GB and more


@pytest.fixture(autouse=True)
def within_bounds(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No hang, no memory, and tifffile as quiet as the commands set it."""

    def late(*_: object) -> None:
        pytest.fail(f"not done in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":  # elsewhere the present size is not as easy to come by
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bound = pages * resource.getpagesize() + HEADROOM
        resource.setrlimit(resource.RLIMIT_AS, (bound, limits[1]))
    with caplog.at_level(logging.CRITICAL, "tifffile"):
        yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def check_refusal(message: str, file: OddFile) -> None:
    assert len(message.splitlines()) == 1
    assert message.startswith(str(UserError(f"{file.path}:")))  # a name may have a line break
    assert file.words
    for word in file.words:
        assert word in message
    assert ";" in message  # cause; remedy
    assert "MemoryError" not in message


@pytest.mark.parametrize("odd", CASES, ids=lambda odd: ascii(odd.name)[:40])
def test_read_rightly_or_refused(
    odd: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = odd.write(tmp_path)
    if file.pixels is None:
        with pytest.raises(UserError) as caught:
            read_image(file.path)
        check_refusal(str(caught.value), file)
    else:
        array = read_image(file.path).array
        assert array.dtype == file.pixels.dtype
        np.testing.assert_array_equal(array, file.pixels)
    ctypes.CDLL(None).fflush(None)  # what the libraries in C say waits in their own buffer
    assert capfd.readouterr() == ("", "")


def test_discovery_names_them_and_goes_on(tmp_path: Path) -> None:
    write_tokens(tmp_path, ("phase", "dapi"), 3, "uint16")
    files = {str(UserError(f"{file.path}:")): file for file in write_odd_files(tmp_path / "odd")}
    damaged: list[UserError] = []
    fields = discover(tmp_path, Layout(), ["phase", "dapi"], damaged)
    assert [field.name for field in fields] == ["f01", "f02", "f03"]
    assert all(len(field.planes) == 2 for field in fields)
    named = set()
    for line in map(str, damaged):
        (file,) = (file for start, file in files.items() if line.startswith(start))
        check_refusal(line, file)
        named.add(file.path)
    # A grey PNG has no names of channels to look for, colours are channels on request, a folder is no
    # file.
    looked_into = {f.path for f in files.values() if f.path.suffix != ".png"}
    looked_into |= {tmp_path / "odd/rgba.png"}
    looked_into -= {tmp_path / "odd/four_axes.tif"}  # a sound stack, though no single image
    colours = {tmp_path / "odd" / name for name in ("rgb.tif", "rgb_planar.tif", "ycbcr.tif")}
    assert named == {
        file.path
        for file in files.values()
        if file.pixels is None and file.path in looked_into - colours and not file.path.is_dir()
    }
    assert len(damaged) == len(named) >= 40
    with pytest.raises(UserError) as caught:
        discover(tmp_path, Layout(), ["phase", "dapi"])
    assert str(caught.value) == str(damaged[0])
