"""The HTTP interface of the page: JSON, pixels and files."""

import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from typing import Any

from anyio import CapacityLimiter, to_thread
from omegaconf import DictConfig
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from vfn import __version__
from vfn.app.exchange import ERRORS, Told, asked_by, to_number
from vfn.app.folders import Folders
from vfn.app.models import Models
from vfn.app.pixels import SIDE, part
from vfn.app.predicting import (
    SHOWN_FIELDS,
    Order,
    Predicted,
    Source,
    assigned,
    checkpoint_of,
    look,
    predict,
)
from vfn.app.queue import Job, Queue
from vfn.app.workspace import KEPT, UPLOADED, Drop, Refused, Workspace
from vfn.errors import UserError
from vfn.models.intervals import check_coverage
from vfn.report.html import environment

LOOKS = 8  # at files at once; where a disk does not answer, they hang and leave the rest of the page alone
Work = Callable[[Mapping[str, Any]], Response]  # of what the page asks, as plain data
STATIC = {"app.css": "text/css", "app.js": "text/javascript"}


class Site:
    """The routes of the page.

    Args:
        config: of `conf/app.yaml`.
    """

    def __init__(
        self, config: DictConfig, models: Models, folders: Folders, workspace: Workspace
    ) -> None:
        self.config, self.models, self.folders = config, models, folders
        self.workspace, self.queue = workspace, Queue()
        self._looking = CapacityLimiter(LOOKS)
        routes = [
            Route("/", self.page),
            Route("/static/{name}", self.static),
            Route("/api/settings", self.settings),
            Route("/api/models", self.list_models),
            Route("/api/folder", partial(self._apart, self.list_folder), methods=["POST"]),
            Route("/api/drops", self.new_drop, methods=["POST"]),
            Route("/api/drops/{drop}", self.remove_drop, methods=["DELETE"]),
            Route("/api/drops/{drop}/files", self.receive, methods=["PUT"]),
            Route("/api/fields", partial(self._apart, self.look), methods=["POST"]),
            Route("/api/jobs", partial(self._apart, self.order), methods=["POST"]),
            Route("/api/jobs/{job}", self.state),
            Route("/api/jobs/{job}", self.stop, methods=["DELETE"]),
            Route("/api/jobs/{job}/pixels", self.pixels),
            Route("/api/jobs/{job}/file", self.file),
            Route("/api/jobs/{job}/all", self.all_files),
        ]
        self.app = Starlette(routes=routes, exception_handlers=ERRORS)

    def page(self, request: Request) -> Response:
        """Return the page. It needs no key, so it says nothing about this machine."""
        template = environment().get_template("app/page.html.j2")
        return Response(template.render(accepted=",".join(UPLOADED)), media_type="text/html")

    def settings(self, request: Request) -> Response:
        """Return the settings of the page."""
        return Told(
            {
                "version": __version__,
                "runs": str(self.config.runs),
                "upload_mb": self.config.upload_mb,
                "files": self.config.files,
                "folders": [root.name or str(root) for root in self.folders.roots],
            }
        )

    def static(self, request: Request) -> Response:
        """Return the style sheet or the script."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise Refused(404, f"{name}: is not there")
        return Response(files("vfn").joinpath("app", name).read_bytes(), media_type=STATIC[name])

    def list_models(self, request: Request) -> Response:
        """Return every trained model."""
        return Told({"models": [dict(model.card) for model in self.models.all()]})

    def list_folder(self, asked: Mapping[str, Any]) -> Response:
        """List an allowed folder."""
        root = to_number(asked.get("root"), "root", int)
        folder = self.folders.resolve(root, str(asked.get("path", "")))
        found = self.folders.list(folder)
        below = folder.relative_to(self.folders.roots[root]).as_posix()
        return Told({"path": "" if below == "." else below, **asdict(found)})

    def new_drop(self, request: Request) -> Response:
        """Create a folder for uploads."""
        drop = self.workspace.new_drop(self._in_use)
        for job in self.queue.jobs():  # of files that made room
            if not job.order.source.folder.exists():
                self._forget(job)
        return Told({"drop": drop.name})

    async def receive(self, request: Request) -> Response:
        """Receive one file, streamed to disk."""
        drop = self.workspace.drop(request.path_params["drop"])
        name = request.query_params.get("name", "")
        stated = request.headers.get("content-length", "0")
        self.workspace.check_uploads()
        with drop.receiving(name) as write:
            drop.check_size(name, int(stated) if stated.isdecimal() else 0)
            async for chunk in request.stream():
                write(chunk)
        return Told({"files": drop.files})

    def remove_drop(self, request: Request) -> Response:
        """Delete uploads and the predictions from them."""
        drop = self.workspace.drop(request.path_params["drop"])
        for job in self.queue.jobs():
            if job.order.source.folder == drop.folder:
                self._forget(job)
        self.workspace.remove(drop)
        return Told({})

    def look(self, asked: Mapping[str, Any]) -> Response:
        """Return the fields that a model finds in a drop or a folder."""
        source = self._source(asked)
        model = self.models.find(str(asked.get("model")))
        found = look(model, source)
        inputs = checkpoint_of(model).task.inputs
        return Told(
            {
                "problem": found.problem,
                "damaged": list(found.damaged),
                "wanted": list(inputs),
                "planes": [{"file": name, "index": index} for name, index in found.planes],
                "count": len(found.samples),
                "fields": [
                    {
                        "name": sample.name,
                        "channels": {
                            channel: source.name(plane)
                            for channel, plane in zip(inputs, sample.inputs, strict=True)
                        },
                    }
                    for sample in found.samples[:SHOWN_FIELDS]
                ],
            }
        )

    def order(self, asked: Mapping[str, Any]) -> Response:
        """Queue a prediction."""
        source = self._source(asked)
        model = self.models.find(str(asked.get("model")))
        coverage = asked.get("coverage")
        if coverage is not None:
            coverage = check_coverage(to_number(coverage, "coverage"))
        if isinstance(asked.get("channels"), dict):
            chosen = {
                str(channel): (str(where.get("file")), to_number(where.get("index"), "index", int))
                for channel, where in asked["channels"].items()
                if isinstance(where, dict)
            }
            samples = assigned(model, source, chosen)
        else:
            found = look(model, source)
            if found.problem:
                raise UserError(found.problem)
            wanted = asked.get("fields")
            names = {str(name) for name in wanted} if isinstance(wanted, list) else set()
            samples = [sample for sample in found.samples if sample.name in names]
            if not samples:
                raise UserError("no field is chosen; choose one or more of the list")
        if len(samples) > self.config.files:
            raise Refused(
                413,
                f"{len(samples)} fields: the page predicts {self.config.files} at once; choose fewer, or use "
                "predict.py for a plate",
            )
        for job in [job for job in self.queue.jobs() if job.over][: -(KEPT - 1)]:
            self._forget(job)
        order = Order(model, source, samples, coverage, self.workspace.new_folder())
        job = Job(partial(predict, config=self.config), order)
        self.queue.add(job)
        return Told({"job": job.name})

    def state(self, request: Request) -> Response:
        """Return the progress and the results of a prediction."""
        job = self._job(request)
        order: Order = job.order
        progress = ("state", "label", "share", "seconds", "error")
        return Told(
            {
                **{key: getattr(job, key) for key in progress},
                "ahead": self.queue.ahead(job),
                "model": order.model.name,
                "verdicts": order.model.card["verdicts"],
                "coverage": order.coverage,
                "command": _command(order),
                "fields": [one.told for one in job.result or []],
            }
        )

    def stop(self, request: Request) -> Response:
        """Cancel a prediction at its next step."""
        self.queue.stop(self._job(request))
        return Told({})

    def pixels(self, request: Request) -> Response:
        """Return a part of a layer, see `vfn.app.pixels`."""
        query = request.query_params
        layers = self._field(request).layers
        keys = ("layer", "top", "left", "height", "width", "side")
        number, top, left, height, width, side = (
            to_number(query.get(key, SIDE if key == "side" else None), key, int) for key in keys
        )
        if not 0 <= number < len(layers):
            raise Refused(404, "there is no such image")
        plane, scale = layers[number].plane, layers[number].scale
        codes = part(plane.read(), scale, (top, top + height), (left, left + width), side)
        shape = {"X-Height": str(codes.shape[0]), "X-Width": str(codes.shape[1])}
        return Response(codes.tobytes(), media_type="application/octet-stream", headers=shape)

    def file(self, request: Request) -> Response:
        """Return the OME-TIFF of a field as it was written."""
        path = self._field(request).path
        if path is None:
            raise Refused(404, "this field was not predicted")
        name, status = _sendable(path.name), path.stat()
        return FileResponse(path, media_type="image/tiff", filename=name, stat_result=status)

    def all_files(self, request: Request) -> Response:
        """Return every OME-TIFF of a prediction in one uncompressed archive."""
        job = self._job(request)
        paths = [one.path for one in job.result or [] if one.path is not None]
        if not paths:
            raise Refused(404, "there is nothing to download yet")
        folder = self.workspace.new_folder()
        try:
            with zipfile.ZipFile(folder / "predicted.zip", "w", zipfile.ZIP_STORED) as archive:
                for path in paths:
                    archive.write(path, _sendable(path.name))
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(folder / "predicted.zip", filename="predicted.zip", background=gone)

    async def _apart(self, work: Work, request: Request) -> Response:
        """Run work that reads the user's files, which may hang, in a thread."""
        asked = await asked_by(request)
        if self._looking.available_tokens < 1:
            raise Refused(429, "files are still being read, and do not answer; try again later")
        return await to_thread.run_sync(work, asked, limiter=self._looking)

    def _job(self, request: Request) -> Job:
        return self.queue.find(request.path_params["job"])

    def _field(self, request: Request) -> Predicted:
        results: list[Predicted] = self._job(request).result or []
        number = to_number(request.query_params.get("field"), "field", int)
        if not 0 <= number < len(results):
            raise Refused(404, "there is no such field")
        return results[number]

    def _source(self, asked: Mapping[str, Any]) -> Source:
        if asked.get("drop") is not None:
            drop = self.workspace.drop(str(asked["drop"]))
            return Source(drop.folder, drop.folder, private=True)
        folder = asked.get("folder")
        if not isinstance(folder, dict):
            raise UserError("no images yet: drop files, or choose a folder")
        root = to_number(folder.get("root"), "root", int)
        path = self.folders.resolve(root, str(folder.get("path", "")))
        return Source(path, self.folders.roots[root], private=False)

    def _in_use(self, drop: Drop) -> bool:
        return any(
            not job.over and job.order.source.folder == drop.folder for job in self.queue.jobs()
        )

    def _forget(self, job: Job) -> None:
        self.queue.forget(job)
        shutil.rmtree(job.order.output, ignore_errors=True)


def _command(order: Order) -> str:
    """Return the command line of the same prediction."""
    source = "FILES" if order.source.private else str(order.source.folder)
    interval = "" if order.coverage is None else f" uncertainty={order.coverage:g}"
    return f"python predict.py ckpt={order.model.path} input={source} output=DIR{interval}"


def _sendable(name: str) -> str:
    r"""Return a file name in UTF-8, with other bytes written as %FF.

    >>> _sendable("a\udcff.tif")
    'a%FF.tif'
    """
    return re.sub("[\ud800-\udfff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)
