"""The public archives, from a server on this machine that fails in the ways that networks do."""

import hashlib
import io
import logging
import os
import re
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import vfn.commands.download.fetch
import vfn.system.progress
from tests.cli import run
from tests.conftest import AF_FOLDERS
from vfn.commands.download.archives import PLATES, af_archive, choose, cps_archive, next_step
from vfn.commands.download.command import CHECKSUMS, main
from vfn.commands.download.unpack import MARKER, DamagedError, is_whole, unpack
from vfn.data.config import DataConfig
from vfn.data.samples import Sample, Task
from vfn.data.sets import make_data
from vfn.data.walk import find_images
from vfn.errors import UserError
from vfn.system.progress import progress_bytes

REFOCUS = Task("refocus", ("actin",), ("actin",), (-10, -8, -6, -4, 4, 6, 8, 10))
DNA = Task("dna", ("golgi_actin", "rna"), ("dna",))
FOCAL = af_archive(16)
CHUNK = 1000  # bytes that a broken connection may lose


@dataclass
class Remote:
    """What the server has, and how it fails.

    Attributes:
        files: archive -> bytes.
        faults: archive -> what befalls the next answers to GET, one each.
        versions: archive -> headers that tell its version.
        lengths: archive -> the Content-Length that it claims.
        ranges: it honours `Range`.
        limit: bytes that it gives at most when asked for a range.
        blindly: it ignores `If-Range`.
        asked: (method, archive, Range) of every request.
        sent: archive -> bytes of all bodies.
    """

    files: dict[str, bytes]
    faults: dict[str, list[Callable[[bytes], bytes] | int]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    limit: int | None = None
    blindly: bool = False
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def gets(self, name: str) -> list[str | None]:
        """`Range` of every GET of `name`."""
        return [span for method, asked, span in self.asked if (method, asked) == ("GET", name)]


def stop_after(count: int) -> Callable[[bytes], bytes]:
    """The connection breaks off after `count` bytes."""
    return lambda body: body[:count]


def interrupt_after(count: int) -> Callable[[bytes], bytes]:
    """The user presses Ctrl-C when about `count` bytes have come."""

    def press(body: bytes) -> bytes:
        os.kill(os.getpid(), signal.SIGINT)
        return body[:count]

    return press


def flip(at: int) -> Callable[[bytes], bytes]:
    """One byte is wrong."""
    return lambda body: body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]


class Handler(BaseHTTPRequestHandler):
    remote: Remote

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        remote, name = self.remote, self.path.rpartition("/")[2]
        remote.asked.append((self.command, name, self.headers["Range"]))
        fault = remote.faults.get(name, []).pop(0) if body and remote.faults.get(name) else None
        if isinstance(fault, int) or name not in remote.files:
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        content = remote.files[name]
        version = remote.versions.get(name, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})
        start, headers = 0, dict(version)
        span = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        same = remote.blindly or self.headers["If-Range"] in version.values()
        if span and remote.ranges and same:
            start = int(span[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            total = len(content)
            content = content[: start + (remote.limit or total)]
            self.send_response(206)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{total}"
        else:
            self.send_response(200)
        headers["Content-Length"] = str(remote.lengths.get(name, len(content) - start))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            part = fault(content[start:]) if callable(fault) else content[start:]
            remote.sent[name] = remote.sent.get(name, 0) + len(part)
            self.wfile.write(part)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for them, so that nothing outlives its test

    def handle_error(self, *_: object) -> None:
        pass  # a client that was interrupted hangs up


def pack(folder: Path, inside: str = "", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The files of `folder` as a zip file, below `inside`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, inside + path.name)
    return stream.getvalue()


@pytest.fixture(scope="session")
def archives(roots: dict[str, Path]) -> dict[str, bytes]:
    """Archive -> bytes, in the genuine layout: BBBC006 with its folder inside, BBBC022 without."""
    return {
        **{f"{f.name}.zip": pack(f, f"{f.name}/") for f in roots["u2os_af"].iterdir()},
        **{f"{f.name}.zip": pack(f) for f in roots["u2os_cps"].iterdir()},
    }


@pytest.fixture
def remote(archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setattr(vfn.commands.download.fetch, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(vfn.commands.download.fetch, "CHUNK", CHUNK)
    ours = logging.getLogger("vfn")
    before = ours.handlers[:], ours.propagate, ours.level
    remote = Remote(dict(archives))
    with Server(("127.0.0.1", 0), type("Mine", (Handler,), {"remote": remote})) as server:
        remote.url = f"http://127.0.0.1:{server.server_port}/bbbc"
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield remote
        server.shutdown()
        thread.join()
    ours.handlers[:], ours.propagate, ours.level = before


@dataclass
class Command:
    """Runs the command line against `remote`, with `root` for the data."""

    remote: Remote
    root: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, data: str, *options: object) -> tuple[int, str, str]:
        code = main([data, "--root", str(self.root), "--url", self.remote.url, *map(str, options)])
        return code, *self.capsys.readouterr()

    def ok(self, data: str, *options: object) -> str:
        code, out, err = self(data, *options)
        assert (code, err) == (0, ""), out + err
        return out

    def refused(self, data: str, *options: object) -> str:
        code, out, err = self(data, *options)
        assert code == 2, out + err
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        return err


@pytest.fixture
def command(remote: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    # Python leaves Ctrl-C ignored where the shell ignores it, as for jobs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return Command(remote, tmp_path / "data", capsys)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def samples(data: str, root: Path, task: Task) -> list[Sample]:
    return make_data(task, DataConfig(data, str(root))).samples()


def assert_same_samples(data: str, root: Path, genuine: Path, task: Task) -> None:
    got, want = samples(data, root, task), samples(data, genuine, task)
    assert [sample.name for sample in got] == [sample.name for sample in want]
    assert [(sample.plate, sample.well) for sample in got] == [
        (sample.plate, sample.well) for sample in want
    ]
    for one, other in zip(got, want, strict=True):
        for a, b in zip((*one.inputs, *one.targets), (*other.inputs, *other.targets), strict=True):
            np.testing.assert_array_equal(a.read(), b.read())


# --- what arrives ---


def test_planes_of_refocus_arrive_as_the_data_set_reads_them(
    command: Command, roots: dict[str, Path]
) -> None:
    out = command.ok("u2os_af")
    assert sorted(command.remote.sent) == [af_archive(n) for n in AF_FOLDERS]
    assert len(samples("u2os_af", command.root, REFOCUS)) == 3 * 8
    assert_same_samples("u2os_af", command.root, roots["u2os_af"], REFOCUS)
    assert sorted(os.listdir(command.root)) == [
        *(f"BBBC006_v1_images_z_{n}" for n in AF_FOLDERS), CHECKSUMS,
    ]  # fmt: skip
    assert out.splitlines()[0].startswith("9 archive(s), ")
    assert "Ljosa et al., Nature Methods 2012" in out
    last = f"next: python train.py data=u2os_af data.root={command.root} task=refocus"
    assert out.splitlines()[-1] == last


def test_plates_arrive_as_the_data_set_reads_them(command: Command, roots: dict[str, Path]) -> None:
    out = command.ok("u2os_cps", "--plates", "20585-20586,20592")
    assert len(command.remote.sent) == 15
    fields = make_data(DNA, DataConfig("u2os_cps", str(command.root))).find()
    assert [f.name for f in fields] == [
        "20585_A01_s1", "20585_A02_s1", "20586_B01_s1", "20586_B02_s1", "20592_C01_s1",
    ]  # fmt: skip
    assert_same_samples("u2os_cps", command.root, roots["u2os_cps"], DNA)
    assert "BBBC022v1 (CC0)" in out
    assert out.splitlines()[-1].endswith(f"data=u2os_cps data.root={command.root} task=dna")


def test_one_plate_is_the_default(command: Command) -> None:
    command.ok("u2os_cps", "--channels", "dna,3-4")
    assert sorted(command.remote.sent) == [cps_archive(20585, channel) for channel in (1, 3, 4)]


def test_what_is_there_is_not_fetched_again(command: Command) -> None:
    command.ok("u2os_af", "--planes", "16")
    command.ok("u2os_af", "--planes", "16,20")
    assert command.remote.asked == [
        (method, name, None) for name in (FOCAL, af_archive(20)) for method in ("HEAD", "GET")
    ]
    assert "1 of 1 in" in command.ok("u2os_af", "--planes", "16")
    assert len(command.remote.asked) == 4


@pytest.mark.parametrize("harm", ["missing", "shorter", "unmarked"])
def test_a_folder_that_lost_something_is_mended(command: Command, harm: str) -> None:
    command.ok("u2os_af", "--planes", "16")
    folder = command.root / "BBBC006_v1_images_z_16"
    before = contents(folder)
    victim = next(path for path in sorted(folder.iterdir()) if path.suffix == ".tif")
    if harm == "missing":
        victim.unlink()
    elif harm == "shorter":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:  # unpacked by hand, who knows whether to the end
        (folder / MARKER).unlink()
    (folder / "my notes.txt").write_text("mine")
    command.ok("u2os_af", "--planes", "16")
    assert len(command.remote.gets(FOCAL)) == 2
    assert contents(folder) == {**before, "my notes.txt": b"mine"}
    assert is_whole(folder)


def test_archives_are_kept_if_wanted_and_used(command: Command) -> None:
    command.ok("u2os_af", "--planes", "16", "--keep-archives")
    assert (command.root / FOCAL).read_bytes() == command.remote.files[FOCAL]
    shutil.rmtree(command.root / "BBBC006_v1_images_z_16")
    del command.remote.asked[:]
    command.ok("u2os_af", "--planes", "16")
    assert command.remote.asked == []
    assert not (command.root / FOCAL).exists()
    assert is_whole(command.root / "BBBC006_v1_images_z_16")


# --- interruptions ---


def assert_resumed(remote: Remote, breaks: list[int]) -> None:
    """Each later request asked for what was missing, but for what lay in a broken chunk."""
    first, *later = remote.gets(FOCAL)
    assert first is None
    starts = [int(re.fullmatch(r"bytes=(\d+)-", str(span))[1]) for span in later]  # type: ignore[index]
    assert len(starts) == len(breaks)
    for start, came in zip(starts, breaks, strict=True):
        assert came - CHUNK < start <= came
    lost = sum(came - start for start, came in zip(starts, breaks, strict=True))
    assert remote.sent[FOCAL] == len(remote.files[FOCAL]) + lost


def test_a_download_that_breaks_off_goes_on(command: Command, roots: dict[str, Path]) -> None:
    # More breaks than pauses: what brings something new is no failure.
    command.remote.faults[FOCAL] = [stop_after(n) for n in (20_500, 9_999, 5_001, 7_003)]
    out = command.ok("u2os_af", "--planes", "16")
    breaks, start = [], 0
    for count, span in zip((20_500, 9_999, 5_001, 7_003), command.remote.gets(FOCAL), strict=False):
        start = int(span[6:-1]) if span else 0
        breaks.append(start + count)
    assert_resumed(command.remote, breaks)
    assert out.count("the connection broke off; trying again") == 4
    assert contents(command.root / "BBBC006_v1_images_z_16") == contents(
        roots["u2os_af"] / "BBBC006_v1_images_z_16"
    )


def test_ctrl_c_leaves_what_came_and_the_next_run_goes_on(command: Command) -> None:
    command.remote.faults[FOCAL] = [stop_after(30_100), interrupt_after(0)]
    code, _, err = command("u2os_af", "--planes", "16")
    assert (code, err) == (130, "interrupted; the same command goes on where it stopped\n")
    part = command.root / f"{FOCAL}.part"
    held = part.stat().st_size
    assert 29_100 < held <= 30_100
    assert part.read_bytes() == command.remote.files[FOCAL][:held]
    assert sorted(os.listdir(command.root)) == [part.name, f"{part.name}.version"]
    del command.remote.asked[:]
    command.remote.sent.clear()
    command.ok("u2os_af", "--planes", "16")
    assert command.remote.gets(FOCAL) == [f"bytes={held}-"]
    assert command.remote.sent[FOCAL] == len(command.remote.files[FOCAL]) - held
    assert sorted(os.listdir(command.root)) == ["BBBC006_v1_images_z_16", CHECKSUMS]


def leave_part(command: Command, count: int) -> None:
    command.remote.faults[FOCAL] = [stop_after(count), interrupt_after(0)]
    assert command("u2os_af", "--planes", "16")[0] == 130
    del command.remote.asked[:]
    command.remote.sent.clear()


def test_a_part_that_is_whole_is_taken(command: Command) -> None:
    leave_part(command, 30_000)
    (command.root / f"{FOCAL}.part").write_bytes(command.remote.files[FOCAL])
    command.ok("u2os_af", "--planes", "16")
    assert command.remote.sent == {}
    assert is_whole(command.root / "BBBC006_v1_images_z_16")


def test_a_server_that_gives_less_than_asked_for(command: Command) -> None:
    command.remote.limit = 20_000
    leave_part(command, 30_000)
    out = command.ok("u2os_af", "--planes", "16")
    size = len(command.remote.files[FOCAL])
    assert re.search(rf"[45]\d{{4}} of {size} bytes came; trying again", out)
    assert command.remote.sent[FOCAL] < size - 29_000


def test_a_server_without_ranges_sends_all_again(command: Command) -> None:
    command.remote.ranges = False
    command.remote.faults[FOCAL] = [stop_after(30_000)]
    command.ok("u2os_af", "--planes", "16")
    assert command.remote.sent[FOCAL] == 30_000 + len(command.remote.files[FOCAL])


@pytest.mark.parametrize("blindly", [False, True])
@pytest.mark.parametrize("tell", ["ETag", "Last-Modified"])
def test_halves_of_two_versions_are_not_glued(command: Command, tell: str, blindly: bool) -> None:
    def version(number: int) -> dict[str, str]:
        weak = {} if tell == "ETag" else {"ETag": 'W/"same"'}  # no promise of equal bytes
        day = f"Mon, 0{number} Jan 2024 00:00:00 GMT"
        return {**weak, tell: f'"{number}"' if tell == "ETag" else day}

    remote = command.remote
    remote.versions[FOCAL] = version(1)
    leave_part(command, 30_000)
    remote.versions[FOCAL], remote.blindly = version(2), blindly
    remote.files[FOCAL] = remote.files[af_archive(20)]
    out = command.ok("u2os_af", "--planes", "16", "--keep-archives")
    assert (command.root / FOCAL).read_bytes() == remote.files[FOCAL]
    assert ("the file changed after its first part came" in out) == blindly
    spans = remote.gets(FOCAL)
    assert str(spans[0]).startswith("bytes=")
    assert spans[1:] == ([None] if blindly else [])


def test_without_a_version_nothing_is_continued(command: Command) -> None:
    command.remote.versions[FOCAL] = {}
    command.remote.faults[FOCAL] = [stop_after(30_000)]
    command.ok("u2os_af", "--planes", "16")
    assert command.remote.gets(FOCAL) == [None, None]


# --- servers that fail ---


def test_a_busy_server_is_asked_again(command: Command) -> None:
    command.remote.faults[FOCAL] = [503, 429]
    out = command.ok("u2os_af", "--planes", "16")
    assert "the server answers 503 Service Unavailable; trying again in 0 s" in out


def test_a_server_that_stays_broken_is_an_error(command: Command) -> None:
    command.remote.faults[FOCAL] = [503] * 10
    err = command.refused("u2os_af", "--planes", "16")
    assert "503 Service Unavailable, 3 times in a row; try later" in err
    assert len(command.remote.gets(FOCAL)) == 3


def test_a_connection_that_brings_nothing_new_is_an_error(command: Command) -> None:
    command.remote.ranges = False
    command.remote.faults[FOCAL] = [stop_after(20_000)] * 10
    assert "the connection broke off, 3 times in a row" in command.refused(
        "u2os_af", "--planes", "16"
    )
    assert len(command.remote.gets(FOCAL)) == 3


def test_an_archive_that_does_not_exist_is_an_error_at_once(command: Command) -> None:
    err = command.refused("u2os_af", "--planes", "0")
    assert f"{command.remote.url}/{af_archive(0)}: the server answers 404 Not Found; check" in err
    assert command.remote.asked == [("HEAD", af_archive(0), None)]


def test_no_server_at_all(command: Command) -> None:
    command.remote.url = "http://127.0.0.1:9/"  # the discard port: nobody listens
    err = command.refused("u2os_af", "--planes", "16")
    assert "no connection ([Errno 111] Connection refused), 3 times in a row" in err


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/", "http://"])
def test_no_address(command: Command, url: str) -> None:
    command.remote.url = url
    assert "correct --url" in command.refused("u2os_af", "--planes", "16")


def test_a_disk_that_is_too_small_is_noticed_first(command: Command) -> None:
    command.remote.lengths[af_archive(20)] = 10**16
    err = command.refused("u2os_af", "--planes", "16,20")
    assert f"{command.root}: 21.0 PB are needed (2 archive(s), 10.0 PB to fetch" in err
    assert command.remote.sent == {}


def test_space_is_counted_archive_by_archive(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [len(command.remote.files[af_archive(n)]) for n in (16, 20)]
    # The first archive is gone when the second one comes.
    needed = int(1.1 * sum(sizes) + sizes[1])

    def has(free: int) -> None:
        usage = shutil.disk_usage(command.root.parent)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    has(needed - 1)
    assert "make room" in command.refused("u2os_af", "--planes", "16,20")
    has(needed + 1)
    command.refused("u2os_af", "--planes", "16,20", "--keep-archives")
    command.ok("u2os_af", "--planes", "16,20")


def test_what_came_before_needs_no_more_space(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_part(command, 30_000)
    held = (command.root / f"{FOCAL}.part").stat().st_size
    needed = int(2.1 * len(command.remote.files[FOCAL])) - held
    usage = shutil.disk_usage(command.root)
    for free in (needed - 1, needed + 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, f=free: usage._replace(free=f))
        if free < needed:
            assert "make room" in command.refused("u2os_af", "--planes", "16")
    command.ok("u2os_af", "--planes", "16")


def test_a_disk_that_fills_up_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        err = command.refused("u2os_af", "--planes", "16")
    assert f"{command.root}: cannot be written (No space left on device); make room" in err
    assert os.listdir(command.root) == [FOCAL]
    command.ok("u2os_af", "--planes", "16")
    assert len(command.remote.gets(FOCAL)) == 1


def test_a_root_that_is_a_file(command: Command) -> None:
    command.root.touch()
    assert "cannot write there" in command.refused("u2os_af")


# --- damage ---


def test_a_wrong_byte_is_noticed_and_fetched_again(command: Command) -> None:
    command.remote.faults[FOCAL] = [flip(20_000)]
    out = command.ok("u2os_af", "--planes", "16")
    assert re.search(rf"{FOCAL}: damaged \(.+\); removed, fetching it again", out)
    assert command.remote.gets(FOCAL) == [None, None]
    assert is_whole(command.root / "BBBC006_v1_images_z_16")


def test_a_byte_that_stays_wrong_is_an_error(command: Command) -> None:
    command.remote.faults[FOCAL] = [flip(20_000)] * 3
    err = command.refused("u2os_af", "--planes", "16")
    assert f"{command.remote.url}/{FOCAL}: damaged, fetched again, damaged again (" in err
    assert command.remote.gets(FOCAL) == [None, None]
    assert os.listdir(command.root) == []


def test_a_wrong_pixel_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "mcf_a01_s1_w1.tif").write_bytes(b"pixels")
    packed = bytearray(pack(tmp_path / "in", method=zipfile.ZIP_STORED))
    packed[packed.index(b"pixels")] ^= 1
    (tmp_path / "a.zip").write_bytes(packed)
    with pytest.raises(DamagedError, match=r"Bad CRC-32 for file 'mcf_a01_s1_w1\.tif'"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    base = tmp_path_factory.mktemp("small")
    (base / "in").mkdir()
    (base / "in" / "a.tif").write_bytes(bytes(range(64)))
    (base / "in" / "b.tif").write_bytes(b"b" * 90)
    return base, pack(base / "in", "in/")


@pytest.mark.parametrize("value", [0x00, 0x2E, 0x2F], ids=["zero", "dot", "slash"])
def test_no_wrong_byte_goes_unnoticed(small: tuple[Path, bytes], value: int) -> None:
    base, packed = small
    for at in range(len(packed)):
        (base / "a.zip").write_bytes(packed[:at] + bytes([value]) + packed[at + 1 :])
        try:
            unpack(base / "a.zip", base / "out")
        except DamagedError:
            assert packed[at] != value
            assert sorted(os.listdir(base)) == ["a.zip", "in"]
        else:  # dates, rights
            assert contents(base / "out") == contents(base / "in")
            shutil.rmtree(base / "out")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not a zip"), (b"<html>log in</html>", "not a zip"), (b"PK\5\6" + bytes(18), "no file")],
)
def test_what_is_no_archive(command: Command, content: bytes, words: str) -> None:
    command.remote.files[FOCAL] = content
    assert words in command.refused("u2os_af", "--planes", "16")


@pytest.mark.parametrize(
    "name", ["../evil.tif", "/evil.tif", "a/../../evil.tif", "..\\evil.tif", "C:\\evil.tif"]
)
def test_files_that_would_land_elsewhere_are_refused(command: Command, name: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("good.tif", b"1")
        archive.writestr(name, b"2")
    command.remote.files[FOCAL] = stream.getvalue()
    assert "would land outside the folder" in command.refused("u2os_af", "--planes", "16")
    assert [path.name for path in command.root.parent.rglob("*")] == ["data", FOCAL]


@pytest.mark.parametrize("inside", ["", "in/", "some/where/", "x\\"])
def test_the_folder_inside_the_archive_does_not_matter(
    small: tuple[Path, bytes], tmp_path: Path, inside: str
) -> None:
    source = small[0] / "in"
    (tmp_path / "a.zip").write_bytes(pack(source, inside))
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr(f"__MACOSX/{inside}._a.tif", b"junk")
        archive.writestr(f"{inside}.DS_Store", b"junk")
        archive.mkdir("in")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(source)


def test_a_folder_half_unpacked_is_not_seen(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = 0

    def copy(source: io.BufferedIOBase, target: io.BufferedIOBase) -> None:
        nonlocal copies
        copies += 1
        if copies == 3:
            assert list(command.root.rglob("*.tif"))  # there, but hidden
            with pytest.raises(UserError, match="no image in it"):
                find_images(command.root)
            raise KeyboardInterrupt
        target.write(source.read())

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", copy)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed, not stopped
        assert command("u2os_af", "--planes", "16")[0] == 130
    assert sorted(os.listdir(command.root)) == [".tmp-BBBC006_v1_images_z_16", FOCAL]
    command.ok("u2os_af", "--planes", "16")
    assert sorted(os.listdir(command.root)) == ["BBBC006_v1_images_z_16", CHECKSUMS]
    assert len(command.remote.gets(FOCAL)) == 1


# --- checksums ---


def sums(archives: dict[str, bytes]) -> str:
    return "".join(f"{hashlib.sha256(archives[n]).hexdigest()}  {n}\n" for n in sorted(archives))


def test_checksums_are_noted_and_compared(command: Command) -> None:
    command.ok("u2os_af", "--planes", "20")
    command.ok("u2os_af", "--planes", "16")
    noted = command.root / CHECKSUMS
    fetched = {name: command.remote.files[name] for name in (FOCAL, af_archive(20))}
    assert noted.read_text() == sums(fetched)
    shutil.rmtree(command.root / "BBBC006_v1_images_z_16")
    command.remote.files[FOCAL] = command.remote.files[af_archive(14)]
    err = command.refused("u2os_af", "--planes", "16")
    assert f"if the publisher changed it, correct {noted}" in err
    assert len(command.remote.gets(FOCAL)) == 3
    assert noted.read_text() == sums(fetched)


def test_the_users_checksums(command: Command, tmp_path: Path) -> None:
    given_sums = tmp_path / "known.txt"
    given_sums.write_text(f"# from the mirror\n\n{sums(command.remote.files)}")
    command.ok("u2os_af", "--planes", "16", "--sha256", given_sums)
    given_sums.write_text(f"{'0' * 64} *archives/{af_archive(20)}\n")
    err = command.refused("u2os_af", "--planes", "20", "--sha256", given_sums)
    assert f"--sha256 says {'0' * 64}" in err
    assert not (command.root / af_archive(20)).exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read as checksums"),
        ("abc  x.zip\n", "line 1 is no"),
        (f"{'0' * 64}  x.zip\n", "names none of the archives, as BBBC006_v1_images_z_16.zip"),
    ],
)
def test_checksums_that_are_none(
    command: Command, tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "known.txt"
    if text is not None:
        path.write_text(text)
    assert words in command.refused("u2os_af", "--planes", "16", "--sha256", path)
    assert command.remote.asked == []


# --- the command line ---


def test_twenty_plates() -> None:
    assert len(set(PLATES)) == 20
    assert list(PLATES) == sorted(PLATES)


@given(st.sets(st.integers(0, 33), min_size=1))
def test_choose_takes_what_is_named(wanted: set[int]) -> None:
    assert choose("--planes", ",".join(map(str, wanted)), range(34)) == sorted(wanted)
    span = f"{min(wanted)}-{max(wanted)}"
    assert choose("--planes", span, range(34)) == list(range(min(wanted), max(wanted) + 1))


def test_choose_skips_gaps_and_knows_names() -> None:
    assert choose("--plates", "20586-20590", PLATES) == [20586, 20589, 20590]
    assert choose("--plates", "all", PLATES) == list(PLATES)
    assert choose("--channels", "mito, 1", range(1, 6), {"mito": 5}) == [1, 5]


@pytest.mark.parametrize(
    "text", ["", "34", "-1", "3-", "5-3", "0-34", "1,,2", "z_16", "1.0", "²", "9" * 5000]
)
def test_choose_refuses(text: str) -> None:
    with pytest.raises(UserError, match=r"--planes .*is unknown; give all, or.* of 0-33$"):
        choose("--planes", text, range(34))


def test_as_users_run_it(remote: Remote, tmp_path: Path) -> None:
    arguments = ("--root", "my data", "--url", remote.url, "--planes", "16,18")
    result = run("vfn/download.py", "u2os_af", *arguments, cwd=tmp_path).ok()
    lines = result.out.splitlines()
    assert len(lines) == 5, result.out
    assert lines[0].endswith(" unpacked in my data")
    assert lines[2] == f"2/2 {af_archive(18)} is in my data/BBBC006_v1_images_z_18"
    assert lines[-1] == "next: python train.py data=u2os_af data.root='my data' task=refocus"


def test_refused_on_the_command_line(tmp_path: Path) -> None:
    script = "vfn/download.py"
    run(script, "u2os_af", cwd=tmp_path).refused("--root; see python -m vfn.download u2os_af")
    run(script, "u2os_af", "--root", "d", "--plates", "1", cwd=tmp_path).refused("--plates")
    run(script, "u2os", "--root", "d", cwd=tmp_path).refused("u2os_af", "u2os_cps")
    run(script, "u2os_cps", "--root", "d", "--plates", "20597", cwd=tmp_path).refused(
        "20585, 20586"
    )
    run(script, "u2os_cps", "--root", "d", "--channels", "dapi", cwd=tmp_path).refused("dna, er")
    assert os.listdir(tmp_path) == []


def mark(root: Path, archive: str) -> None:
    folder = root / archive.removesuffix(".zip")
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


@pytest.mark.parametrize(
    ("planes", "words"),
    [
        ([16], "training needs the focal plane, 16, and others"),
        ([14, 18], "training needs the focal plane, 16, and others"),
        ([14, 16, 30], "task=refocus"),
        ([0, 16, 30], "task=refocus 'task.input_z=[-32, 28]'"),
    ],
)
def test_the_next_step_fits_the_planes(tmp_path: Path, planes: list[int], words: str) -> None:
    for plane in planes:
        mark(tmp_path / "my data", af_archive(plane))
    step = next_step("u2os_af", tmp_path / "my data")
    assert step.endswith(words) or step.startswith(words)
    assert ("data.root='" in step) == step.startswith("next: ")


@pytest.mark.parametrize(
    ("channels", "words"),
    [((1, 5), "task=dna_from_mito"), ((2,), "no task does with er: fetch more by --channels")],
)
def test_the_next_step_fits_the_channels(
    tmp_path: Path, channels: tuple[int, ...], words: str
) -> None:
    for channel in channels:
        mark(tmp_path, cps_archive(20646, channel))
    assert next_step("u2os_cps", tmp_path).endswith(words)


def test_lines_where_there_is_no_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vfn.system.progress, "LINE_SECONDS", -1.0)
    out = command.ok("u2os_af", "--planes", "16")
    size = len(command.remote.files[FOCAL])
    assert f"1/1 {FOCAL}: 1.0 kB of {size / 1000:.1f} kB" in out
    assert f"unpacking {FOCAL}: 1 of 6" in out


@pytest.mark.parametrize("total", [0, 4000])
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(vfn.system.progress, "Console", lambda **_: console)
    chunks = [bytes(1000), bytes(500)]
    assert list(progress_bytes(iter(chunks), 2500, total, "label")) == chunks
    assert f"4.0/{'4.0' if total else '?'} kB" in re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue())
