"""The local page: what it predicts is what predict.py writes, and it reads nothing but what it may."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import uvicorn
from omegaconf import OmegaConf

from tests.cli import ROOT, finish, run, start
from tests.test_cli import SIMULATED, TINY
from vfn.app.command import listen
from vfn.app.connections import make_server
from vfn.app.folders import Folders, check_inside
from vfn.app.guard import Guard
from vfn.app.models import Models
from vfn.app.pixels import SIDE, measure, part
from vfn.app.queue import LONGEST, Job, Queue, State
from vfn.app.server import Site
from vfn.app.workspace import KEPT, Refused, Workspace, safe_name
from vfn.data.images import DTYPES, read_image
from vfn.data.simulated import Specimen
from vfn.errors import UserError
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE

KEY = "the-key-of-this-test"
SHAPE = (70, 91)
PATIENCE = 60.0  # s


def specimen(path: Path, channel: str = "phase", seed: int = 900, **metadata: Any) -> Path:
    """A simulated image of cells that no training saw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Specimen(seed, SHAPE).render(channel, 0.0, "uint16")
    tifffile.imwrite(path, image, **metadata)
    return path


def seen(runs: Path) -> int:
    """Seed of a field that a model was trained on: no alarm can be for it."""
    checkpoint = read_raw(runs / "nuclei" / "checkpoints" / "best.ckpt")
    ((name, _), *_) = checkpoint[RECIPE]["split"]["train"]
    return int(name.removeprefix("sim"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, workers: ThreadPoolExecutor) -> Path:
    """Two trained models, of which one knows its uncertainty, and one that is damaged."""
    folder = tmp_path_factory.mktemp("app")

    def train(name: str, inputs: str, target: str) -> None:
        task = (f"task.inputs=[{inputs}]", f"task.targets=[{target}]")
        run("train.py", *SIMULATED, *TINY, *task, "logger=csv", f"run={name}", cwd=folder).ok()

    jobs = [
        workers.submit(train, "nuclei", "phase", "dapi"),
        workers.submit(train, "sweep/two", "golgi_actin,rna", "er"),
    ]
    for job in jobs:
        job.result()
    best = "outputs/nuclei/checkpoints/best.ckpt"
    run("vfn.calibrate", f"ckpt={best}", "steps=3", cwd=folder).ok()
    broken = folder / "outputs" / "broken" / "checkpoints" / "best.ckpt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no checkpoint")
    return folder / "outputs"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)

    def refused(self, status: int, *parts: str) -> str:
        """The line that says why, if it names `parts`."""
        assert self.status == status, self.body
        (line,) = str(self.told["error"]).splitlines()
        assert all(part in line for part in parts), line
        return line


@dataclass
class Page:
    """A running server, asked as a browser would."""

    port: int
    site: Site
    key: str = KEY

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        own = {
            "X-VFN-Key": self.key, "Origin": f"http://127.0.0.1:{self.port}", **(headers or {}),
        }  # fmt: skip
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, content, {k: v for k, v in own.items() if v})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def drop(self, *paths: Path) -> str:
        """Upload files together; returns what they are called by."""
        name = str(self.ask("POST", "/api/drops").told["drop"])
        for path in paths:
            answer = self.put(name, path.name, path.read_bytes())
            assert answer.status == 200, answer.body
        return name

    def put(self, drop: str, name: str, content: bytes) -> Answer:
        quoted = urllib.parse.quote(name, safe="")
        return self.ask("PUT", f"/api/drops/{drop}/files?name={quoted}", content)

    def order(self, **asked: Any) -> Answer:
        return self.ask("POST", "/api/jobs", asked)

    def predict(self, **asked: Any) -> tuple[str, dict[str, Any]]:
        """Order a prediction and wait for it: its name, and what came out."""
        answer = self.order(**asked)
        assert answer.status == 200, answer.body
        name = str(answer.told["job"])
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            told = self.ask("GET", f"/api/jobs/{name}").told
            if told["state"] not in ("waiting", "running"):
                return name, told
            time.sleep(0.02)
        raise AssertionError("the prediction does not end")


@pytest.fixture
def serve(
    runs: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Page]]:
    """Start servers with settings on top of `conf/app.yaml`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    running: list[tuple[uvicorn.Server, threading.Thread, Site]] = []

    def serve(folders: list[Path] | None = None, root: Path = runs, **settings: Any) -> Page:
        config = OmegaConf.load(ROOT / "conf" / "app.yaml")
        config.merge_with({"runs": str(root), "device": "cpu", **settings})
        workspace = Workspace(int(config.upload_mb * 2**20), config.files)
        site = Site(config, Models(root), Folders(folders or []), workspace)
        listening = listen(0)
        port = listening.getsockname()[1]
        server = make_server(Guard(site.app, KEY))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        running.append((server, thread, site))
        return Page(port, site)

    yield serve
    for server, thread, site in running:
        server.should_exit = True
        thread.join()
        assert site.queue.close(PATIENCE)
        site.workspace.close()
        assert not site.workspace.root.exists()


# --- predictions ---


@pytest.mark.parametrize("coverage", [None, 0.9])
def test_the_file_is_the_one_that_predict_writes(
    serve: Callable[..., Page], runs: Path, tmp_path: Path, coverage: float | None
) -> None:
    page = serve()
    image = specimen(tmp_path / "new" / "f1_phase.tif")
    drop = page.drop(image)
    found = page.ask("POST", "/api/fields", {"model": "nuclei", "drop": drop}).told
    assert found["problem"] == ""
    assert found["fields"] == [{"name": "f1", "channels": {"phase": "f1_phase.tif"}}]
    job, told = page.predict(model="nuclei", drop=drop, fields=["f1"], coverage=coverage)
    assert told["state"] == "done"
    assert told["share"] == 1
    assert [verdict["level"] for verdict in told["verdicts"]] == [None]
    (one,) = told["fields"]
    assert (one["name"], one["error"], one["height"], one["width"]) == ("f1", "", *SHAPE)
    kinds = [layer["kind"] for layer in one["layers"]]
    assert kinds == ["input", "stain", *([] if coverage is None else ["halfwidth"])]
    written = page.ask("GET", f"/api/jobs/{job}/file?field=0")
    assert 'filename="f1.ome.tif"' in written.headers["content-disposition"]
    command = [f"ckpt={runs}/nuclei/checkpoints/best.ckpt", f"input={image}", "output=out"]
    interval = [] if coverage is None else [f"uncertainty={coverage}"]
    run("predict.py", *command, *interval, "device=cpu", cwd=tmp_path).ok()
    assert written.body == (tmp_path / "out" / "f1.ome.tif").read_bytes()
    if coverage is not None:
        assert any("no guarantee" in note for note in one["notes"])
        assert one["layers"][2]["bright"] > 0


def test_every_pixel_that_is_shown_is_one_of_the_file(
    serve: Callable[..., Page], tmp_path: Path
) -> None:
    page = serve()
    image = specimen(tmp_path / "f1_phase.tif")
    job, _ = page.predict(model="nuclei", drop=page.drop(image), fields=["f1"])
    (tmp_path / "out.ome.tif").write_bytes(page.ask("GET", f"/api/jobs/{job}/file?field=0").body)
    truths = [tifffile.imread(image), read_image(tmp_path / "out.ome.tif").array[0]]
    for layer, truth in enumerate(truths):
        box = f"field=0&layer={layer}&top=3&left=5&height=20&width=30"
        answer = page.ask("GET", f"/api/jobs/{job}/pixels?{box}")
        shape = (int(answer.headers["x-height"]), int(answer.headers["x-width"]))
        shown = np.frombuffer(answer.body, "<u2").reshape(shape)
        np.testing.assert_array_equal(shown, truth[3:23, 5:35])


def test_the_user_says_which_image_is_which_channel(
    serve: Callable[..., Page], runs: Path, tmp_path: Path
) -> None:
    page = serve()
    files = [
        specimen(tmp_path / "a.tif", "rna"), specimen(tmp_path / "b.tif", "golgi_actin"),
    ]  # fmt: skip
    drop = page.drop(*files)
    found = page.ask("POST", "/api/fields", {"model": "sweep/two", "drop": drop}).told
    assert found["wanted"] == ["golgi_actin", "rna"]
    assert found["fields"] == []
    assert "golgi_actin" in found["problem"]
    assert found["planes"] == [{"file": "a.tif", "index": 0}, {"file": "b.tif", "index": 0}]
    assert str(page.site.workspace.root) not in json.dumps(found)
    chosen = {"golgi_actin": {"file": "b.tif", "index": 0}, "rna": {"file": "a.tif", "index": 0}}
    job, told = page.predict(model="sweep/two", drop=drop, channels=chosen)
    assert [one["name"] for one in told["fields"]] == ["b"]
    for path, channel in zip(files, ("rna", "golgi_actin"), strict=True):
        path.rename(tmp_path / f"b_{channel}.tif")
    command = [f"ckpt={runs}/sweep/two/checkpoints/best.ckpt", f"input={tmp_path}"]
    run("predict.py", *command, "output=../out", "device=cpu", cwd=tmp_path).ok()
    named = (tmp_path / ".." / "out" / "b.ome.tif").read_bytes()
    assert page.ask("GET", f"/api/jobs/{job}/file?field=0").body == named
    for wrong, parts in (
        ({"rna": chosen["rna"]}, ("golgi_actin", "no image is chosen")),
        ({**chosen, "rna": {"file": "../a.tif", "index": 0}}, ("rna", "not among the dropped")),
        ({**chosen, "rna": {"file": "a.tif", "index": 1}}, ("rna", "not among the dropped")),
    ):
        page.order(model="sweep/two", drop=drop, channels=wrong).refused(400, *parts)


def test_warnings_reach_the_page(serve: Callable[..., Page], runs: Path, tmp_path: Path) -> None:
    page = serve()
    specimen(tmp_path / "same_phase.tif", seed=seen(runs))
    image = tifffile.imread(tmp_path / "same_phase.tif")
    size = {"axes": "CYX", "Channel": {"Name": ["phase"]}, "PhysicalSizeX": 0.13}
    tifffile.imwrite(tmp_path / "other_phase.ome.tif", 3 * image[None] + 9000, metadata=size)
    drop = page.drop(tmp_path / "same_phase.tif", tmp_path / "other_phase.ome.tif")
    _, told = page.predict(model="nuclei", drop=drop, fields=["same", "other"])
    by_name = {one["name"]: one for one in told["fields"]}
    assert by_name["same"]["warnings"] == []
    assert any("no pixel size" in note for note in by_name["same"]["notes"])
    text = " ".join(by_name["other"]["warnings"])
    assert "phase: background" in text
    assert "brighter background than in training" in text
    assert "pixel size 0.13 um (training 0.65): structures are larger" in text


def test_a_field_that_cannot_be_predicted_stops_no_other(
    serve: Callable[..., Page], tmp_path: Path
) -> None:
    page = serve()
    specimen(tmp_path / "a_phase.tif")
    tifffile.imwrite(tmp_path / "b_phase.tif", np.zeros(SHAPE, np.uint8))
    (tmp_path / "c_phase.tif").write_bytes((tmp_path / "a_phase.tif").read_bytes()[:-900])
    drop = page.drop(*sorted(tmp_path.glob("*.tif")))
    found = page.ask("POST", "/api/fields", {"model": "nuclei", "drop": drop}).told
    (damaged,) = found["damaged"]
    assert damaged.startswith("c_phase.tif: is truncated")
    job, told = page.predict(model="nuclei", drop=drop, fields=["a", "b", "c"])
    errors = {one["name"]: one["error"] for one in told["fields"]}
    assert errors["a"] == ""
    assert "channel phase is uint8, the model was trained on uint16" in errors["b"]
    assert errors["c"].startswith("c_phase.tif: is truncated")
    assert str(page.site.workspace.root) not in json.dumps(told)
    page.ask("GET", f"/api/jobs/{job}/file?field=1").refused(404, "not predicted")
    archive = page.ask("GET", f"/api/jobs/{job}/all")
    assert archive.body[:2] == b"PK"
    assert b"a.ome.tif" in archive.body
    assert b"b.ome.tif" not in archive.body


def test_the_wrong_number_of_channels_is_a_line(serve: Callable[..., Page], tmp_path: Path) -> None:
    page = serve()
    image = np.stack([Specimen(1, SHAPE).render("rna", 0.0, "uint16")] * 3)
    tifffile.imwrite(tmp_path / "three.tif", image, photometric="minisblack")
    drop = page.drop(tmp_path / "three.tif")
    found = page.ask("POST", "/api/fields", {"model": "sweep/two", "drop": drop}).told
    assert len(found["planes"]) == 3
    page.order(model="sweep/two", drop=drop, fields=["three"]).refused(400, "golgi_actin")


def test_a_folder_is_looked_through_and_predicted(
    serve: Callable[..., Page], tmp_path: Path
) -> None:
    specimen(tmp_path / "images" / "plate" / "x_phase.tif")
    specimen(tmp_path / "images" / "plate" / "y_phase.tif", seed=901)
    (tmp_path / "images" / ".hidden").mkdir()
    page = serve([tmp_path / "images"])
    told = page.ask("POST", "/api/folder", {"root": 0, "path": ""}).told
    assert told == {"path": "", "folders": ["plate"], "images": 0}
    folder = {"root": 0, "path": "plate"}
    assert page.ask("POST", "/api/folder", folder).told["images"] == 2
    found = page.ask("POST", "/api/fields", {"model": "nuclei", "folder": folder}).told
    assert [one["name"] for one in found["fields"]] == ["x", "y"]
    assert found["planes"] == []
    _, told = page.predict(model="nuclei", folder=folder, fields=["y"])
    assert [one["name"] for one in told["fields"]] == ["y"]
    assert f"input={tmp_path}/images/plate" in told["command"]
    assert sorted(p.name for p in (tmp_path / "images" / "plate").iterdir()) == [
        "x_phase.tif", "y_phase.tif",
    ]  # fmt: skip


# --- models ---


def test_models_say_what_they_are_for(serve: Callable[..., Page], runs: Path) -> None:
    cards = {card["name"]: card for card in serve().ask("GET", "/api/models").told["models"]}
    assert set(cards) == {"nuclei", "sweep/two", "broken"}
    one = cards["nuclei"]
    assert (one["inputs"], one["targets"], one["data"]) == (["phase"], ["dapi"], "simulated")
    assert (one["pixel_size"], one["input_dtypes"]) == (0.65, ["uint16"])
    assert one["val_psnr"] > 0
    assert one["val_mae"] > 0
    assert one["calibrated"] == 1
    (verdict,) = one["verdicts"]
    assert (verdict["channel"], verdict["level"]) == ("dapi", None)
    assert verdict["text"].startswith("dapi: never scored on test fields")
    assert cards["sweep/two"]["calibrated"] is None
    assert "is no checkpoint" in cards["broken"]["problem"]


def test_models_outside_of_the_runs_are_not_there(
    serve: Callable[..., Page], runs: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "runs"
    inside.mkdir()
    (inside / "linked").symlink_to(runs / "nuclei")
    page = serve(root=inside)
    assert page.ask("GET", "/api/models").told["models"] == []
    image = specimen(tmp_path / "a_phase.tif")
    drop = page.drop(image)
    for name in ("linked", "../app0/outputs/nuclei", str(runs / "nuclei"), "..", "", "%2e%2e"):
        page.order(model=name, drop=drop, fields=["a"]).refused(400, "is not there")


def test_a_damaged_model_is_refused(serve: Callable[..., Page], tmp_path: Path) -> None:
    page = serve()
    drop = page.drop(specimen(tmp_path / "a_phase.tif"))
    page.order(model="broken", drop=drop, fields=["a"]).refused(400, "is no checkpoint")


def test_uncertainty_of_a_model_that_is_not_calibrated(
    serve: Callable[..., Page], tmp_path: Path
) -> None:
    page = serve()
    drop = page.drop(
        specimen(tmp_path / "a_rna.tif", "rna"), specimen(tmp_path / "a_golgi_actin.tif", "golgi_actin")
    )  # fmt: skip
    _, told = page.predict(model="sweep/two", drop=drop, fields=["a"], coverage=0.9)
    assert told["state"] == "failed"
    assert "python -m vfn.calibrate" in told["error"]
    page.order(model="nuclei", drop=drop, fields=["a"], coverage=2).refused(400, "uncertainty=2")
    page.order(model="nuclei", drop=drop, fields=["a"], coverage="x").refused(400, "coverage=x")


# --- bounds ---


def kept(page: Page) -> list[Path]:
    """Folders of the files that were dropped and predicted."""
    return [path for path in page.site.workspace.root.iterdir() if path.is_dir()]


def test_uploads_are_bounded(serve: Callable[..., Page]) -> None:
    page = serve(upload_mb=0.01, files=2)
    drop = page.drop()
    half = bytes(6000)
    assert page.put(drop, "a.tif", half).status == 200
    page.put(drop, "b.tif", half).refused(413, "b.tif", "0.01 MB", "upload_mb=")
    assert page.put(drop, "b.tif", bytes(100)).status == 200
    page.put(drop, "c.tif", b"x").refused(413, "c.tif", "files=")
    (folder,) = kept(page)
    assert sorted(path.name for path in folder.iterdir()) == ["a.tif", "b.tif"]


def test_a_body_without_length_is_bounded_too(serve: Callable[..., Page]) -> None:
    page = serve(upload_mb=0.01)
    drop = page.drop()
    raw = socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE)
    head = (
        f"PUT /api/drops/{drop}/files?name=a.tif HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
        f"Origin: http://127.0.0.1:{page.port}\r\nX-VFN-Key: {KEY}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n%s\r\n" % (8000, bytes(8000))
    with raw:
        raw.sendall(head.encode() + chunk + chunk)
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")
    (folder,) = kept(page)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["a.exe", "", "..", "a.tif/", ".tif", "plate.zarr", "page.html"])
def test_what_is_no_image_by_its_name_is_refused(serve: Callable[..., Page], name: str) -> None:
    page = serve()
    page.put(page.drop(), name, b"x").refused(415, "no image by its name")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/a.tif", "a.tif"),
        ("C:\\images\\a.tif", "a.tif"),
        ("/etc/a.tif", "a.tif"),
        ("...a.tif", "a.tif"),
        ("a\nb\x00.tif", "a_b_.tif"),
        ('a<b>:"|?*.tif', "a_b______.tif"),
        ("Zelle é 1.tif", "Zelle é 1.tif"),
        ("e\u0301.png", "é.png"),
        (300 * "x" + ".tif", 176 * "x" + ".tif"),
    ],
)
def test_names_are_made_safe(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def test_two_files_of_one_name_are_refused(serve: Callable[..., Page]) -> None:
    page = serve()
    drop = page.drop()
    assert page.put(drop, "a.tif", b"x").status == 200
    page.put(drop, "other/a.tif", b"y").refused(409, "a.tif", "rename")


def test_a_full_disk_is_a_line(serve: Callable[..., Page], monkeypatch: pytest.MonkeyPatch) -> None:
    page = serve()
    drop = page.drop()

    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("vfn.system.files._reach_disk", full)
        page.put(drop, "a.tif", b"x").refused(507, "a.tif", "TMPDIR=")
    assert page.put(drop, "a.tif", b"x").status == 200


def test_too_many_fields_at_once_are_refused(serve: Callable[..., Page], tmp_path: Path) -> None:
    for name in "abc":
        specimen(tmp_path / "images" / f"{name}_phase.tif")
    page = serve([tmp_path / "images"], files=2)
    asked = {"model": "nuclei", "folder": {"root": 0, "path": ""}, "fields": ["a", "b", "c"]}
    page.order(**asked).refused(413, "3 fields", "predict.py")


def test_older_files_and_predictions_make_room(serve: Callable[..., Page], tmp_path: Path) -> None:
    page = serve()
    image = specimen(tmp_path / "a_phase.tif")
    drops = [page.drop(image) for _ in range(KEPT + 2)]
    assert page.put(drops[0], "b.tif", b"x").status == 404
    assert len(kept(page)) == KEPT
    jobs = [page.predict(model="nuclei", drop=drops[-1], fields=["a"])[0] for _ in range(KEPT + 1)]
    page.ask("GET", f"/api/jobs/{jobs[0]}").refused(404, "predict again")
    assert page.ask("GET", f"/api/jobs/{jobs[-1]}/file?field=0").status == 200
    assert page.ask("DELETE", f"/api/drops/{drops[-1]}").status == 200
    page.ask("GET", f"/api/jobs/{jobs[-1]}/file?field=0").refused(404, "predict again")
    assert len(kept(page)) == KEPT - 1


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b'{"drop": 1}', b'{"folder": []}', b'{"folder": {"root": "x"}}', bytes(2**20 + 9)]
)  # fmt: skip
def test_odd_questions_get_a_line(serve: Callable[..., Page], body: bytes) -> None:
    for path in ("/api/fields", "/api/jobs"):
        answer = serve().ask("POST", path, body)
        assert 400 <= answer.status < 500
        assert answer.told["error"]


# --- who may ask, and for what ---


def test_nobody_without_the_key_gets_anything_of_the_user(
    serve: Callable[..., Page], tmp_path: Path
) -> None:
    (folder := tmp_path / "private name").mkdir()
    page = serve([folder])
    stranger = Page(page.port, page.site, key="guessed")
    for path in ("/", "/static/app.js", "/static/app.css"):  # the same for everybody
        answer = stranger.ask("GET", path)
        assert answer.status == 200, path
        assert not any(
            word in answer.body.decode()
            for word in (KEY, "private name", str(page.site.config.runs))
        )
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert page.ask("GET", "/api/settings").told["folders"] == ["private name"]
    everywhere = {"Cookie": f"vfn_{page.port}={KEY}; key={KEY}", "Authorization": KEY}
    for path in ("/api/settings", "/api/models", f"/?key={KEY}&x", "/static/none", "/once/x", "//"):
        for key in ("guessed", "", "\xe9"):
            refused = stranger.ask(
                "GET", f"{path}?key={KEY}", headers={"X-VFN-Key": key, **everywhere}
            )
            if not path.startswith("/?"):
                refused.refused(403, "key", "python -m vfn.app")
            assert KEY not in str(refused.headers)
    for path in ("/", "/api/settings", f"/?key={KEY}"):  # nothing for other ports to receive
        assert "set-cookie" not in page.ask("GET", path).headers


def test_a_download_link_works_once_and_soon(
    serve: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = serve()
    stranger = Page(page.port, page.site, key="")
    job, _ = page.predict(
        model="nuclei", drop=page.drop(specimen(tmp_path / "f1_phase.tif")), fields=["f1"]
    )
    path = f"/api/jobs/{job}/file?field=0"

    def link() -> str:
        return str(page.ask("POST", f"/once?to={urllib.parse.quote(path, safe='')}").told["link"])

    once = link()
    stranger.ask("GET", once, headers={"Host": "evil.example"}).refused(403, "evil.example")
    answer = stranger.ask("GET", once)
    assert answer.body == page.ask("GET", path).body
    assert 'filename="f1.ome.tif"' in answer.headers["content-disposition"]
    stranger.ask("GET", once).refused(403, "key")
    stranger.ask("POST", f"/once?to={path}").refused(403, "key")
    monkeypatch.setattr("vfn.app.guard.LASTING", -1.0)
    late = link()
    stranger.ask("GET", late).refused(403, "key")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "0.0.0.0", "[::1]:80"]
)
def test_another_name_for_this_machine_is_refused(serve: Callable[..., Page], host: str) -> None:
    page = serve()
    for path in ("/", "/static/app.js", "/api/models"):
        page.ask("GET", path, headers={"Host": host}).refused(403, "127.0.0.1")


def test_localhost_is_a_name_for_it(serve: Callable[..., Page]) -> None:
    page = serve()
    named = {"Host": "localhost:9999", "Origin": "http://localhost:9999"}  # as by ssh -L 9999:...
    assert page.ask("GET", "/api/models", headers=named).status == 200
    assert page.ask("POST", "/api/drops", headers=named).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "https://127.0.0.1:{port}", "http://127.0.0.1:1"]
)
def test_other_pages_change_nothing(serve: Callable[..., Page], origin: str) -> None:
    page = serve()
    headers = {"Origin": origin.format(port=page.port)}
    drop = page.drop()
    for method, path in (
        ("POST", "/api/drops"), ("POST", "/api/jobs"), ("POST", "/api/fields"),
        ("PUT", f"/api/drops/{drop}/files?name=a.tif"), ("DELETE", f"/api/drops/{drop}"),
    ):  # fmt: skip
        page.ask(method, path, {}, headers).refused(403, "another page")
    assert page.put(drop, "a.tif", b"x").status == 200


def test_other_pages_read_nothing(serve: Callable[..., Page]) -> None:
    page = serve()
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        page.ask("GET", "/api/models", headers=headers).refused(403, "another page")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../page.html.j2", "/static/..%2f..%2fcli.py", "/static/%2e%2e/%2e%2e/cli.py",
        "/static//etc/passwd", "/static/page.html.j2", "/static/..%5c..%5ccli.py", "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/etc/passwd", "/static/app.js%00.css",
        "/api/jobs/../../etc/passwd/file?field=0", "/api/jobs/%2e%2e/file?field=0",
        "/api/drops/%2e%2e%2f%2e%2e/files",
    ],
)  # fmt: skip
def test_addresses_are_no_paths(serve: Callable[..., Page], path: str) -> None:
    answer = serve().ask("GET", path)
    assert answer.status in (404, 405), answer.body
    assert set(answer.told) == {"error"}


def test_no_folder_but_those_that_are_allowed(serve: Callable[..., Page], tmp_path: Path) -> None:
    specimen(tmp_path / "secret" / "s_phase.tif")
    specimen(tmp_path / "images" / "x_phase.tif")
    (tmp_path / "images" / "way_out").symlink_to(tmp_path / "secret")
    (tmp_path / "images_too").mkdir()
    page = serve([tmp_path / "images"])
    assert page.ask("POST", "/api/folder", {"root": 0, "path": ""}).told["folders"] == []
    ways = (
        "..", "../secret", str(tmp_path / "secret"), "way_out", "x/../../secret", "../images_too",
        "/", "~", "..\\secret", "\0", 5000 * "x", "x_phase.tif", "file:///etc",
    )  # fmt: skip
    for way in ways:
        for path in (way, urllib.parse.quote(way, safe="")):
            answer = page.ask("POST", "/api/folder", {"root": 0, "path": path})
            assert answer.status == 400, way
            assert "secret/s_phase" not in answer.told["error"]
        for path in ("/api/fields", "/api/jobs"):
            asked = {"model": "nuclei", "folder": {"root": 0, "path": way}, "fields": ["s"]}
            assert page.ask("POST", path, asked).status == 400, way
    for root in (1, -1, "x", ""):
        assert page.ask("POST", "/api/folder", {"root": root, "path": ""}).status == 400
    assert serve().ask("POST", "/api/folder", {"root": 0, "path": ""}).status == 400


@pytest.mark.parametrize("linked", ["y_phase.tif", "deeper/y_phase.tif", "plate.zarr/0"])
def test_links_that_lead_out_are_not_followed(
    serve: Callable[..., Page], tmp_path: Path, linked: str
) -> None:
    secret = specimen(tmp_path / "secret" / "y_phase.tif")
    specimen(tmp_path / "images" / "x_phase.tif")
    link = tmp_path / "images" / linked
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(secret)
    page = serve([tmp_path / "images"])
    folder = {"root": 0, "path": ""}
    for asked in ({"model": "nuclei", "folder": folder, "fields": ["x", "y"]},):
        page.ask("POST", "/api/fields", asked).refused(400, "link", "not allowed")
        page.order(**asked).refused(400, "link", "not allowed")
    link.unlink()
    specimen(tmp_path / "images" / "inner" / "z_phase.tif")
    link.symlink_to(tmp_path / "images" / "inner" / "z_phase.tif")
    if linked.endswith(".tif"):  # a link within is no way out
        assert page.ask("POST", "/api/fields", {"model": "nuclei", "folder": folder}).status == 200


def test_linked_folders_within_are_shown_and_searched_for_ways_out(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
    (root / "a" / "to_b").symlink_to(root / "b")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "out").symlink_to(tmp_path)
    folders = Folders([root])
    assert folders.list(folders.resolve(0, "a")).folders == ("to_b", "up")
    (root / "a" / "out").unlink()
    check_inside(root / "a", root)
    (tmp_path / "secret.tif").touch()
    (root / "b" / "x.tif").symlink_to(tmp_path / "secret.tif")  # behind the link to b
    with pytest.raises(UserError, match=r"b/x\.tif: is a link that leads out"):
        check_inside(root / "a", root)


def test_a_dropped_image_is_read_by_itself(serve: Callable[..., Page], tmp_path: Path) -> None:
    """An OME-TIFF may say that its pixels lie in another file; that one is not looked at."""
    secret = specimen(tmp_path / "secret.tif")
    own = Specimen(1, SHAPE).render("phase", 0.0, "uint16")
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
        'Type="uint16" SizeX="91" SizeY="70" SizeC="1" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" '
        'SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1">'
        f'<UUID FileName="{secret}">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    bait = tmp_path / "bait_phase.ome.tif"
    tifffile.imwrite(bait, own, description=text, metadata=None)
    page = serve()
    job, _ = page.predict(model="nuclei", drop=page.drop(bait), fields=["bait"])
    box = "field=0&layer=0&top=0&left=0&height=70&width=91"
    shown = page.ask("GET", f"/api/jobs/{job}/pixels?{box}").body
    np.testing.assert_array_equal(np.frombuffer(shown, "<u2").reshape(SHAPE), own)


# --- the queue ---


def test_one_prediction_at_a_time_in_order() -> None:
    queue, gate, order = Queue(), threading.Event(), []

    def work(job: Job) -> str:
        order.append(job.name)
        assert gate.wait(PATIENCE)
        job.tell(0.5, "half")
        return "result"

    jobs = [Job(work) for _ in range(3)]
    for job in jobs:
        queue.add(job)
    until(lambda: jobs[0].state == State.RUNNING)
    assert [queue.ahead(job) for job in jobs] == [0, 1, 2]
    queue.stop(jobs[1])
    assert jobs[1].state == State.STOPPED
    assert queue.ahead(jobs[2]) == 1
    gate.set()
    until(lambda: jobs[2].over)
    assert 0 < jobs[0].seconds < PATIENCE
    assert order == [jobs[0].name, jobs[2].name]
    assert (jobs[2].state, jobs[2].result, jobs[2].label) == (State.DONE, "result", "half")
    assert queue.close(PATIENCE)


def test_a_running_job_stops_at_its_next_word() -> None:
    queue, gate = Queue(), threading.Event()

    def work(job: Job) -> None:
        assert gate.wait(PATIENCE)
        job.tell(0.9)

    job = Job(work)
    queue.add(job)
    until(lambda: job.state == State.RUNNING)
    queue.stop(job)
    gate.set()
    until(lambda: job.over)
    assert (job.state, job.result) == (State.STOPPED, None)
    assert queue.close(PATIENCE)


def test_a_job_that_fails_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue()

    def wrong(job: Job) -> None:
        raise UserError("image.tif: is colour")

    def defect(job: Job) -> None:
        raise ZeroDivisionError

    jobs = [Job(wrong), Job(defect), Job(lambda job: 1)]
    for job in jobs:
        queue.add(job)
    until(lambda: jobs[2].over)
    assert [job.state for job in jobs] == [State.FAILED, State.FAILED, State.DONE]
    assert jobs[0].error == "image.tif: is colour"
    assert "a defect of vfn" in jobs[1].error
    assert queue.close(PATIENCE)


def test_not_too_many_wait() -> None:
    queue, gate = Queue(), threading.Event()
    first = Job(lambda job: gate.wait(PATIENCE))
    queue.add(first)
    until(lambda: first.state == State.RUNNING)
    for _ in range(LONGEST):
        queue.add(Job(lambda job: None))
    with pytest.raises(Refused, match="wait already"):
        queue.add(Job(lambda job: None))
    gate.set()
    assert queue.close(PATIENCE)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- pixels ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_stand_for_grey_values(dtype: str) -> None:
    below = 0 if dtype.startswith("u") else 100
    image = (np.random.default_rng(0).random((40, 50)) * 200 - below).astype(dtype)
    scale = measure(image)
    codes = part(image, scale, (0, 40), (0, 50), SIDE)
    assert codes.dtype == np.dtype("<u2")
    grey = scale.offset + scale.step * codes
    np.testing.assert_allclose(grey, image, atol=200 / 65535)
    assert scale.low <= scale.black < scale.white <= scale.high


def test_large_images_are_averaged_for_the_screen() -> None:
    image = np.zeros((4000, 3000), np.uint16)
    image[:2000] = 1000
    image[::2] += 60  # finer than the screen: an average shows neither 0 nor 60
    codes = part(image, measure(image), (0, 4000), (0, 3000), SIDE)
    assert codes.shape == (1024, 768)
    assert abs(int(codes[:500].mean()) - 1030) <= 2
    assert abs(int(codes[524:].mean()) - 30) <= 2


@pytest.mark.parametrize(
    ("rows", "columns"),
    [((0, 0), (0, 0)), ((-5, 3), (2, 999)), ((99, 120), (50, 40)), ((7, 8), (9, 10))],
)
def test_parts_are_cut_at_the_image(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    image = np.arange(200, dtype=np.uint16).reshape(10, 20)
    codes = part(image, measure(image), rows, columns, SIDE)
    assert codes.size >= 1
    assert codes.max() < 200


def test_a_flat_image_has_a_scale() -> None:
    for dtype in ("uint8", "float32"):
        image = np.full((8, 8), 7, dtype)
        scale = measure(image)
        assert scale.black < scale.white
        codes = part(image, scale, (0, 8), (0, 8), SIDE)
        np.testing.assert_array_equal(scale.offset + scale.step * codes, image)


# --- the command ---


def test_ctrl_c_ends_it_and_nothing_stays(runs: Path, tmp_path: Path) -> None:
    asked: dict[signal.Signals, subprocess.Popen[str]] = {}
    for number in (signal.SIGINT, signal.SIGTERM):  # both start before either is asked for anything
        (folder := tmp_path / number.name).mkdir()
        asked[number] = start(
            "vfn.app", f"runs={runs}", "port=0", "device=cpu", cwd=folder, env={"TMPDIR": str(folder)}
        )  # fmt: skip
    for number, process in asked.items():
        folder = tmp_path / number.name
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), finish(process)
        address = urllib.parse.urlsplit(line.split()[1])
        key = address.fragment.removeprefix("key=")
        page = Page(address.port or 0, None, key)  # type: ignore[arg-type]
        drop = page.drop(specimen(folder / "a_phase.tif"))
        page.order(model="nuclei", drop=drop, fields=["a"])
        assert list(folder.glob("vfn-app-*"))
        os.kill(process.pid, number)
        result = finish(process)
        assert (result.code, result.err) == (130, "interrupted\n")
        assert list(folder.glob("vfn-app-*")) == []


def test_a_port_that_is_taken_names_one_that_is_free(runs: Path, tmp_path: Path) -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        line = run("vfn.app", f"runs={runs}", f"port={port}", cwd=tmp_path).refused(f"port={port}")
    free = int(line.split("say port=")[1].split(",")[0])
    assert free == 0 or port < free <= port + 50


def without_uvicorn() -> None:
    sys.modules["uvicorn"] = None  # type: ignore[assignment]


def test_wrong_settings_get_one_line(runs: Path, tmp_path: Path) -> None:
    for overrides, parts in (
        ([f"runs={tmp_path}/none"], (f"runs={tmp_path}/none", "no such folder")),
        ([f"runs={runs}", "folders=[none]"], ("folders=[none]", "no such folder")),
        ([f"runs={runs}", "port=70000"], ("port=70000",)),
        ([f"runs={runs}", "upload_mb=0"], ("upload_mb=0",)),
        ([f"runs={runs}", "files=-1"], ("files=-1",)),
        ([f"runs={runs}", "host=0.0.0.0"], ("host: no such setting",)),
    ):
        run("vfn.app", *overrides, cwd=tmp_path).refused(*parts)
    missing = run("vfn.app", f"runs={runs}", cwd=tmp_path, prepare=without_uvicorn)
    missing.refused("python -m vfn.app", 'pip install "vfn[app]"')
