"""The local page among odd files, odd requests and what hangs: each leaves the rest of it usable."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import string
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli import finish, start
from tests.test_app import PATIENCE, Page, runs, serve, specimen, until
from vfn.app import connections, queue, workspace
from vfn.app.models import Models
from vfn.app.queue import Job, Queue, State
from vfn.app.workspace import KEPT, LOCK, PREFIX, UPLOADS, Workspace
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE

__all__ = ["runs", "serve"]  # fixtures


# --- run folders ---


def changed(**parts: Any) -> Callable[[Path, Path], None]:
    """A checkpoint with other parts in its recipe."""

    def make(run: Path, whole: Path) -> None:
        raw = read_raw(whole)
        raw[RECIPE] = {**raw[RECIPE], **parts}
        torch.save(raw, run / "checkpoints" / "best.ckpt")

    return make


def best(make: Callable[[Path], Any]) -> Callable[[Path, Path], None]:
    """Something else in the place of a checkpoint."""
    return lambda run, whole: make(run / "checkpoints" / "best.ckpt")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


UNUSABLE: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "bytes": (
        best(lambda path: path.write_bytes(random.Random(0).randbytes(5000))),
        "no checkpoint",
    ),
    "empty": (best(lambda path: path.touch()), "no checkpoint"),
    "pipe": (best(os.mkfifo), "is no file"),
    "folder": (best(Path.mkdir), "is no file"),
    "circle": (best(lambda path: path.symlink_to(path)), "cannot be read"),
    "nowhere": (best(lambda path: path.symlink_to("none")), "cannot be read"),
    "huge": (best(sparse), "no checkpoint"),
    "no_task": (changed(task=None), "(task is 'None')"),
    "texts": (
        changed(task={"name": "x", "inputs": "phase", "targets": ["dapi"]}),
        "(task.inputs is",
    ),
    "numbers": (changed(task={"name": "x", "inputs": [1], "targets": [2]}), "(task.inputs is"),
    "short": (changed(inputs=[]), "lacks something"),
    "not_finite": (changed(pixel_size=float("nan")), "(pixel_size is"),
    "tensor": (changed(pixel_size=torch.ones(3)), "(pixel_size is"),
    "no_split": (changed(split={"train": 5, "by": "x"}), "(split.train is"),
    "long": (
        changed(data={"name": "x" * 10**6, "root": "", "patch_size": 16}),
        "absurd",
    ),
    "no_uncertainty": (changed(uncertainty={"fields": []}), "lacks something"),
}


def tables(name: str, make: Callable[[Path], Any]) -> Callable[[Path, Path], None]:
    return lambda run, whole: make(run / name)


def text(content: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


USABLE: dict[str, Callable[[Path, Path], Any]] = {
    "config_folder": tables("config.yaml", Path.mkdir),
    "config_bytes": tables("config.yaml", text(bytes(range(256)))),
    "config_list": tables("config.yaml", text("- 1\n- 2\n")),
    "config_tabs": tables("config.yaml", text("data:\n\tname: x\n")),
    "metrics_bytes": tables("metrics.csv", text(bytes(range(256)))),
    "metrics_folder": tables("metrics.csv", Path.mkdir),
    "metrics_pipe": tables("metrics.csv", os.mkfifo),
    "metrics_huge": tables("metrics.csv", sparse),
    "metrics_field": tables("metrics.csv", text("epoch,val/mae,val/psnr\n0,0.1," + "9" * 200_000 + "\n")),
    "metrics_nan": tables("metrics.csv", text("epoch,val/mae,val/psnr\n0,nan,nan\n")),
    "card_damaged": changed(card={"task": 5}),
    "card_none": changed(card=None),
    "not\udcffutf8": lambda run, whole: None,
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of which each is odd in another way, and one that is sound."""
    root = tmp_path_factory.mktemp("odd")
    whole = runs / "nuclei" / "checkpoints" / "best.ckpt"
    for name, (make, _) in UNUSABLE.items():
        (root / name / "checkpoints").mkdir(parents=True)
        make(root / name, whole)
    for name, usable in USABLE.items():
        (root / name / "checkpoints").mkdir(parents=True)
        shutil.copy(whole, root / name / "checkpoints")
        usable(root / name, whole)
    shutil.copytree(runs / "nuclei", root / "sound")
    (root / "up").symlink_to(root)
    (root / "sound_too").symlink_to(root / "sound")
    return root


def test_one_odd_run_takes_no_other_with_it(serve: Callable[..., Page], odd: Path) -> None:
    cards = {
        card["name"]: card for card in serve(root=odd).ask("GET", "/api/models").told["models"]
    }
    assert set(cards) == {*UNUSABLE, *USABLE, "sound", "sound_too"}
    for name, (_, reason) in UNUSABLE.items():
        assert reason in cards[name]["problem"], name
        assert str(odd / name) in cards[name]["problem"]
    for name in USABLE:
        assert (cards[name]["targets"], cards[name].get("problem")) == (["dapi"], None), name
        (verdict,) = cards[name]["verdicts"]
        assert (cards[name]["val_psnr"], verdict["level"]) == (None, None)
        said = "its model card is damaged" if name.startswith("card_") else "dapi: never scored"
        assert verdict["text"].startswith(said)
    assert cards["sound"]["val_psnr"] > 0


def test_half_a_row_of_figures_is_no_row(odd: Path) -> None:
    table = odd / "sound" / "metrics.csv"
    whole = table.read_text()
    try:
        table.write_text("epoch,val/mae,val/psnr\n0,0.5,10.25\n1,0.4,11.5\n2,0.3,1")
        (card,) = (model.card for model in Models(odd).all() if model.name == "sound")
        assert (card["epochs"], card["val_mae"], card["val_psnr"]) == (2, 0.4, 11.5)
    finally:
        table.write_text(whole)


def test_what_cannot_be_read_or_vanishes_is_said(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sound", "locked", "vanishes"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        shutil.copy(runs / "nuclei" / "checkpoints" / "best.ckpt", tmp_path / name / "checkpoints")
    shutil.rmtree(tmp_path / "locked" / "checkpoints")
    scan, names, listed = os.scandir, os.listdir, Models._listed

    def locked(path: Any, read: Callable[[Any], Any]) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    def vanishing(self: Models, path: Path) -> Any:
        if "vanishes" in path.parts:
            path.unlink()
        return listed(self, path)

    monkeypatch.setattr(os, "scandir", lambda path: locked(path, scan))
    monkeypatch.setattr(os, "listdir", lambda path: locked(path, names))
    monkeypatch.setattr(Models, "_listed", vanishing)
    cards = {model.name: model.card for model in Models(tmp_path).all()}
    assert "problem" not in cards["sound"]
    assert "Permission denied" in cards["locked"]["problem"]
    assert "No such file" in cards["vanishes"]["problem"]


def test_names_that_are_not_utf8(serve: Callable[..., Page], odd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "plate\udcfe"
    specimen(folder / "a\udcff_phase.tif")
    page = serve([tmp_path / "images"], root=odd)
    (name,) = page.ask("POST", "/api/folder", {"root": 0, "path": ""}).told["folders"]
    assert name == "plate\udcfe"
    where = {"root": 0, "path": name}
    assert page.ask("POST", "/api/folder", where).told["images"] == 1
    model = "not\udcffutf8"
    found = page.ask("POST", "/api/fields", {"model": model, "folder": where}).told
    (field,) = found["fields"]
    assert field["channels"] == {"phase": "a\udcff_phase.tif"}
    _, told = page.predict(model=model, folder=where, fields=[field["name"]])
    assert (told["state"], told["fields"][0]["error"], told["model"]) == ("done", "", model)
    assert "plate\udcfe" in told["command"]
    page.order(model="\ud800", drop=page.drop(), fields=[]).refused(400, "is not there")


# --- uploads ---


@contextlib.contextmanager
def uploading(page: Page, drop: str, name: str = "a.tif") -> Iterator[socket.socket]:
    """An upload of which half has come."""
    raw = socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE)
    with raw:
        raw.sendall(
            f"PUT /api/drops/{drop}/files?name={name} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
            f"Origin: http://127.0.0.1:{page.port}\r\nX-VFN-Key: {page.key}\r\n"
            "Content-Length: 8\r\n\r\nhalf".encode()
        )
        if page.site is not None:
            until(lambda: page.site.workspace.drop(drop).coming > 0)
        yield raw


def answer(raw: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while part := raw.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_an_upload_under_way_is_in_use(serve: Callable[..., Page]) -> None:
    page = serve()
    drop = page.drop()
    with uploading(page, drop) as raw:
        for _ in range(KEPT + 2):
            page.drop()
        raw.sendall(b"half")
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")
    (file,) = page.site.workspace.drop(drop).folder.iterdir()
    assert file.read_bytes() == b"halfhalf"
    for _ in range(KEPT):
        page.drop()
    page.put(drop, "b.tif", b"x").refused(404, "drop them again")


def test_an_upload_into_files_that_were_removed_is_a_line(serve: Callable[..., Page]) -> None:
    page = serve()
    drop = page.drop()
    with uploading(page, drop) as raw:
        assert page.ask("DELETE", f"/api/drops/{drop}").status == 200
        raw.sendall(b"half")
        told = b""
        while b"drop them again" not in told:  # head and body may come one by one
            part = raw.recv(4096)
            assert part, told
            told += part


def test_uploads_at_once_are_bounded(serve: Callable[..., Page]) -> None:
    page = serve()
    drop = page.drop()
    with contextlib.ExitStack() as stack:
        for number in range(UPLOADS):
            stack.enter_context(uploading(page, drop, f"{number}.tif"))
            until(lambda n=number: page.site.workspace.drop(drop).coming == n + 1)  # type: ignore[misc]
        page.put(drop, "x.tif", b"x").refused(429, "on their way")
    until(lambda: page.site.workspace.drop(drop).coming == 0)
    assert page.put(drop, "x.tif", b"x").status == 200
    assert [path.name for path in page.site.workspace.drop(drop).folder.iterdir()] == ["x.tif"]


def test_silence_ends_a_connection(
    serve: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PAUSE", 0.3)
    page = serve()
    drop = page.drop()
    head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n".encode()
    for said in (b"", head):
        with socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE) as raw:
            raw.sendall(said)
            assert answer(raw) == b""
    with socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE) as raw:
        raw.sendall(head + b"\r\n")  # and nothing after the answer
        assert answer(raw).startswith(b"HTTP/1.1 200 ")
    with uploading(page, drop) as raw:
        assert answer(raw) == b""
    until(lambda: page.site.workspace.drop(drop).files == [])
    with uploading(page, drop) as raw:  # slow, but not silent
        for byte in b"half":
            time.sleep(0.15)
            raw.sendall(bytes([byte]))
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_connections_are_bounded(
    serve: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST", 3)
    page = serve()
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(
                socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE)
            )
        with pytest.raises(OSError):  # noqa: PT011  # refused, or cut off
            page.ask("GET", "/")
    until(lambda: _answers(page))


def _answers(page: Page) -> bool:
    with contextlib.suppress(OSError):
        return page.ask("GET", "/").status == 200
    return False


def test_leftovers_of_killed_pages_are_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(workspace, "STARTING", -1.0)
    killed, others = tmp_path / f"{PREFIX}killed", tmp_path / "elsewhere"
    for folder in (killed, others, tmp_path / f"{PREFIX}unknown"):
        (folder / "drop").mkdir(parents=True)
    (killed / LOCK).touch()
    (others / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(others)
    alive = Workspace(1, 1)
    assert not killed.exists()
    second = Workspace(1, 1)
    assert alive.root.exists()
    assert (others / "drop").exists()
    assert (tmp_path / f"{PREFIX}unknown").exists()  # not known to be of a page
    for one in (alive, second):
        one.close()
        assert not one.root.exists()


# --- what hangs ---


def test_a_prediction_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "GRACE", 0.05)
    line, gate = Queue(), threading.Event()
    hanging, next_one = Job(lambda job: gate.wait(PATIENCE)), Job(lambda job: "result")
    line.add(hanging)
    line.add(next_one)
    until(lambda: hanging.state == State.RUNNING)
    assert line.ahead(next_one) == 1
    line.stop(hanging)
    until(lambda: next_one.over)
    assert (hanging.state, hanging.result) == (State.STOPPED, None)
    assert (next_one.state, next_one.result) == (State.DONE, "result")
    assert not line.close(0.05)  # it still hangs
    gate.set()
    assert line.close(PATIENCE)
    assert (hanging.state, hanging.result) == (State.STOPPED, None)


def test_files_that_hang_leave_the_page_alone(
    serve: Callable[..., Page], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page, gate = serve(), threading.Event()
    drop = page.drop(specimen(tmp_path / "a_phase.tif"))
    monkeypatch.setattr("vfn.app.server.look", lambda *_: gate.wait(PATIENCE))
    asked = {"model": "nuclei", "drop": drop}
    hanging = [
        threading.Thread(target=page.ask, args=("POST", "/api/fields", asked)) for _ in range(8)
    ]
    for thread in hanging:
        thread.start()
    until(lambda: page.site._looking.available_tokens == 0)
    page.ask("POST", "/api/fields", asked).refused(429, "do not answer")
    assert page.ask("GET", "/api/models").status == 200
    gate.set()
    for thread in hanging:
        thread.join()


# What the page is made to do in a process of its own, before it starts.
HANGING = """
import sys, threading, vfn.app.server, vfn.app.predicting
for where in {where}:
    setattr(vfn.app.server, where, lambda *_, **__: threading.Event().wait())
from vfn.__main__ import run
run("app", sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_whatever_hangs(runs: Path, tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(HANGING.format(where=("predict", "look")))
    process = start(
        str(script), f"runs={runs}", "port=0", "device=cpu", cwd=tmp_path,
        env={"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), finish(process)
    address = urllib.parse.urlsplit(line.split()[1])
    page = Page(address.port or 0, None, address.fragment.removeprefix("key="))  # type: ignore[arg-type]
    image = specimen(tmp_path / "a_phase.tif")
    drop = page.drop(image)
    chosen = {"phase": {"file": "a_phase.tif", "index": 0}}
    job = page.order(model="nuclei", drop=drop, channels=chosen).told["job"]
    until(lambda: page.ask("GET", f"/api/jobs/{job}").told["state"] == "running")

    def ask() -> None:
        with contextlib.suppress(OSError):
            page.ask("POST", "/api/fields", {"model": "nuclei", "drop": drop})

    hanging = threading.Thread(target=ask)
    hanging.start()
    with uploading(page, drop, "b.tif"), socket.create_connection(("127.0.0.1", page.port)):
        time.sleep(0.3)
        began = time.monotonic()
        os.kill(process.pid, number)
        result = finish(process)
    hanging.join()
    assert (result.code, result.err) == (130, "interrupted\n")
    assert time.monotonic() - began < 15  # 3 s, and what other work on the machine adds
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


# --- requests of all kinds ---

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUIT")
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 3, 10**30, 1e308, float("nan"), float("inf"), "", "x", "0", "nuclei", "\ud800", "\udcff", "\0",
    "../..", "a" * 3000, "\u0663", [], [[]], {}, {"a": None}, {"root": 0, "path": ""}, {"root": 0, "path": "\udcff"},
    {"root": 0, "path": ["x"]}, {"phase": {"file": "a_phase.tif", "index": 0}}, {"phase": {"file": [], "index": {}}}, ["a"],
)  # fmt: skip
BODIES = (
    b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000, b"\0", b"1" * 10_000, b'"\\ud800"', b"{}", b"NaN",
    '{"model": "é"}'.encode("utf-16"),
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.tif"\r\n\r\nII\r\n--x--\r\n',
)  # fmt: skip
KEYS = ("model", "drop", "folder", "fields", "channels", "coverage", "root", "path")
VALUES = (
    "0",
    "-1",
    "9" * 5000,
    "1e3",
    "NaN",
    "%FF",
    "%00",
    "%ED%A0%80",
    "x",
    "",
    "a.tif",
    "..%2Fa.tif",
)


def odd_request(
    dice: random.Random, page: Page, drop: str, job: str
) -> tuple[str, str, bytes, list[str]]:
    """Method, target, body and header lines: some way off what the page asks."""
    names = (drop, job, "none", "%FF", "%2e%2e", "%ED%A0%80", "x" * 300)
    one = dice.choice(names)
    path = dice.choice((
        "/", "//", "/api", "/api/settings", "/api/models", "/api/folder", "/api/drops", f"/api/drops/{one}",
        f"/api/drops/{one}/files", "/api/fields", "/api/jobs", f"/api/jobs/{one}", f"/api/jobs/{one}/pixels",
        f"/api/jobs/{one}/file", f"/api/jobs/{one}/all", f"/static/{one}", "/once", f"/once/{one}", "*", "http://x/",
    ))  # fmt: skip
    queried = ("field", "layer", "top", "left", "height", "width", "side", "name", "to", "key")
    query = "&".join(f"{k}={dice.choice(VALUES)}" for k in queried if dice.random() < 0.7)
    if dice.random() < 0.4:
        body = dice.choice(BODIES)
    else:
        given = {"model": "nuclei", "drop": drop, "fields": ["none"]} if dice.random() < 0.5 else {}
        body = json.dumps(
            {**given, **{k: dice.choice(ODD) for k in KEYS if dice.random() < 0.3}}
        ).encode()
    origin = f"http://127.0.0.1:{page.port}"
    lines = [f"X-VFN-Key: {page.key}", f"Origin: {origin}", f"Host: {origin[7:]}"]
    extra = (
        "Content-Type: multipart/form-data; boundary=x", "Range: bytes=5-1,0-", "Range: bytes=-", "Accept-Encoding: \xff",
        "If-Range: \xff", "Cookie: \xff=;;=", "Expect: 100-continue", "Upgrade: websocket\r\nConnection: upgrade",
        "Sec-Fetch-Site: cross-site", "X-VFN-Key: \xff", "Origin: null", "Content-Encoding: gzip", "Host: [::1]",
        "X-Forwarded-Host: " + string.punctuation, "Transfer-Encoding: chunked", "Content-Length: 3",
    )  # fmt: skip
    lines += [dice.choice(extra) for _ in range(dice.choice((0, 0, 1, 2)))]
    method = dice.choice(METHODS) if dice.random() < 0.3 else dice.choice(("GET", "POST", "PUT"))
    if (method, path) == ("DELETE", f"/api/drops/{drop}"):
        method = "GET"
    return method, f"{path}?{query}" if dice.random() < 0.7 else path, body, lines


def status_of(
    page: Page, method: str, target: str, body: bytes, lines: list[str], cut: int = 0
) -> int:
    """0 where the connection ends without an answer, as for what is no HTTP.

    Args:
        cut: bytes of the body that do not come.
    """
    length = (
        []
        if any(line.startswith("Transfer-Enc") for line in lines)
        else [f"Content-Length: {len(body)}"]
    )
    head = "\r\n".join(
        [f"{method} {target} HTTP/1.1", *lines, *length, "Connection: close", "", ""]
    )
    said = b""
    with socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE) as raw:
        with contextlib.suppress(OSError):
            raw.sendall(head.encode("latin-1") + body[: len(body) - cut])
            raw.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while part := raw.recv(65536):
                said += part
    while said.startswith(b"HTTP/1.1 100"):
        said = said.partition(b"\r\n\r\n")[2]
    return int(said[9:12] or 0)


@pytest.mark.parametrize("seed", range(int(os.environ.get("VFN_ODD_SEEDS", "2"))))
def test_no_request_is_a_defect(
    serve: Callable[..., Page], tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    page = serve([tmp_path])
    drop = page.drop(specimen(tmp_path / "a_phase.tif"))
    job, _ = page.predict(model="nuclei", drop=drop, fields=["a"])
    dice = random.Random(seed)
    seen = set()
    sound = {"model": "nuclei", "drop": drop, "fields": ["none"]}  # no order that pushes out ours
    for path in ("/api/folder", "/api/fields", "/api/jobs"):
        for key, value in dice.sample([(key, value) for key in KEYS for value in ODD], 60):
            told = page.ask("POST", path, {**sound, key: value})
            assert told.status < 500, (path, key, value)
    for _ in range(200):
        asked = odd_request(dice, page, drop, job)
        status = status_of(page, *asked, cut=dice.random() < 0.1)
        assert status < 500, asked
        seen.add(status)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    assert {200, 400, 403, 404, 405} <= seen
    shutil.rmtree(page.site.queue.find(job).order.output)
    for path in ("file?field=0", "all", "pixels?field=0&layer=1&top=0&left=0&height=9&width=9"):
        assert 400 <= page.ask("GET", f"/api/jobs/{job}/{path}").status < 500
    assert page.ask("GET", f"/api/jobs/{job}").status == 200
