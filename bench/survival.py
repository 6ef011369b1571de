"""What bench/faults.py breaks: small commands, and how one tells that nothing of theirs is lost."""

import csv
import hashlib
import io
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import yaml
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.cli import Running, run, spawn
from vfn.data.simulated import write_fields
from vfn.models.archive import is_whole
from vfn.models.recipe import RECIPE
from vfn.system.files import LEFTOVER
from vfn.system.locks import LOCK

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # half files are looked for on purpose
CHANNELS = ("phase", "dapi", "actin")
RUN = "r"  # of every training
FIELDS, PLATE = 8, 24  # to learn from, to predict
TINY = (
    "model=virfluonet", "data.patch_size=64", "data.batch_size=2", "data.patches_per_epoch=4", "data.val_patches=2",
    "model.generator.width=4", "model.generator.max_width=8", "model.discriminator.width=4",
    "trainer=cpu", "trainer.precision=32-true", "logger=csv",
)  # fmt: skip
TASK = ("data=folder", "task.inputs=[phase]", "task.targets=[dapi]")


@dataclass(frozen=True)
class Job:
    """One command line, that is run in a folder of its own.

    Attributes:
        script: "train.py", or a module as "vfn.doctor".
        output: what it writes to, in that folder; a pattern of the folders that it claims.
        content: what of its results must be the same however often it was stopped, from the folder.
        inputs: what is copied into the folder first.
    """

    script: str
    overrides: tuple[str, ...]
    output: str
    content: Callable[[Path], Any]
    inputs: Mapping[str, Path]

    def start(self, folder: Path, *more: str, prepare: Callable[[], None] | None = None) -> Running:
        """Start it in `folder`; the store of decoded images lies there, too."""
        cache = {"VFN_CACHE": str(folder / "cache")}
        return spawn(self.script, *self.overrides, *more, cwd=folder, env=cache, prepare=prepare)

    def at_work(self, folder: Path, command: Running, seconds: float = 60.0) -> bool:
        """Wait until `command` has claimed its output; False where it ended before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not command.is_over():
            for lock in folder.glob(f"{self.output}/{Path(LOCK).stem}*.lock"):
                try:
                    if f"process {command.pid} " in lock.read_text(encoding="utf-8"):
                        return True
                except FileNotFoundError:  # released meanwhile
                    continue
            time.sleep(0.002)
        return False


def write_specimen(folder: Path) -> None:
    """Simulated images to learn from, a plate to predict, and larger images to decode."""
    write_fields(folder / "images", range(FIELDS), CHANNELS, (96, 128))
    write_fields(folder / "plate", range(100, 100 + PLATE), ("phase",), (200, 240))
    write_fields(folder / "truth", range(100, 100 + PLATE), ("dapi",), (200, 240))
    fields = folder / "images"
    (folder / "large").mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(fields.glob("*_[pd]*.tif"))[: 2 * FIELDS]):
        image = np.tile(tifffile.imread(path), (8, 8)) + np.uint16(number)
        tifffile.imwrite(folder / "large" / path.name, image, compression="zlib")


def make_jobs(specimen: Path) -> dict[str, Job]:
    """The commands; `specimen` holds images, and from `train_model` on a model."""
    model = specimen / "outputs" / RUN / "checkpoints" / "best.ckpt"
    learn = (*TASK, f"data.root={specimen / 'images'}", *TINY)
    once = {"model.ckpt": model}
    predict = ("input=" + str(specimen / "plate"), "precision=float32", "output=out")
    return {
        "training": Job(
            "train.py", (*learn, f"run={RUN}", "resume=auto", "trainer.max_epochs=6"),
            f"outputs/{RUN}", training, {},
        ),
        "predicting": Job(
            "predict.py", ("ckpt=model.ckpt", *predict), "out", lambda f: pixels(f / "out"), once
        ),
        "building a store": Job(
            "train.py",
            (*TASK, f"data.root={specimen / 'large'}", *TINY, f"run={RUN}", "resume=auto",
             "trainer.max_epochs=1"),
            f"outputs/{RUN}", lambda f: planes(f / "cache"), {},
        ),
        "evaluating": Job(
            "evaluate.py",
            ("ckpt=model.ckpt", f"data.root={specimen / 'images'}", "precision=float32", "output=e"),
            "e", evaluation, once,
        ),
        "a panel": Job(
            "vfn.panel",
            ("data=folder", f"data.root={specimen / 'images'}",
             "data.channels={phase: phase, dapi: dapi, actin: actin}", "inputs_up_to=1", "repeats=1",
             "steps=2", "data.patch_size=32", "data.batch_size=2", "model.generator.width=4",
             "model.generator.depth=3", "trainer.accelerator=cpu", "output=P"),
            "P/cells/*", panel, {},
        ),
        "the doctor": Job(
            "vfn.doctor", (*TASK, f"data.root={specimen / 'images'}", "output=d"), "d",
            lambda f: [text(f / "d" / name) for name in ("doctor.csv", "exclude.csv")], {},
        ),
        "calibrating": Job(
            "vfn.calibrate", ("ckpt=model.ckpt", "steps=5"), ".",
            lambda f: torch.load(f / "model.ckpt", weights_only=True)[RECIPE]["uncertainty"], once,
        ),
        "scoring": Job(
            "evaluate.py",
            (f"pred={specimen / 'out'}", "truth=truth", "channels=[dapi]", "output=e"), "e",
            lambda f: [text(f / "e" / name) for name in ("metrics.csv", "summary.json")],
            {"truth": specimen / "truth"},
        ),
    }  # fmt: skip


def train_model(specimen: Path) -> None:
    """What the jobs that predict and score begin from."""
    cache = {"VFN_CACHE": str(specimen / "cache")}
    learn = (*TASK, "data.root=images", *TINY, "trainer.max_epochs=2", f"run={RUN}")
    run("train.py", *learn, cwd=specimen, env=cache).ok()
    model = f"ckpt=outputs/{RUN}/checkpoints/best.ckpt"
    run("predict.py", model, "input=plate", "output=out", "precision=float32", cwd=specimen).ok()


def text(path: Path) -> str:
    """A file that is the same whenever it is written."""
    return path.read_text(encoding="utf-8")


def table(path: Path, without: Sequence[str]) -> list[dict[str, str]]:
    """A table, without the columns that tell of time."""
    rows = list(csv.DictReader(io.StringIO(text(path))))
    return [{k: v for k, v in row.items() if k not in without} for row in rows]


def training(folder: Path) -> Any:
    """Weights, both optimisers, random state, and the figures of every epoch."""
    run_folder = folder / "outputs" / RUN
    last, best = (
        torch.load(run_folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for name in ("last", "best")
    )
    kept = ("state_dict", "optimizer_states", "rng", "epoch", "global_step")
    return [
        {key: last[key] for key in kept},
        last["callbacks"]["Checkpoints"],  # others tell of time
        best["state_dict"],
        table(run_folder / "metrics.csv", ["images_per_s"]),
    ]


def pixels(folder: Path) -> dict[str, np.ndarray]:
    """Every prediction."""
    return {path.name: tifffile.imread(path) for path in sorted(folder.glob("*.ome.tif"))}


def evaluation(folder: Path) -> Any:
    """Figures and predictions."""
    names = ("metrics.csv", "baselines.csv", "objects.csv", "summary.json")
    return [*(text(folder / "e" / n) for n in names), pixels(folder / "e" / "predictions")]


def panel(folder: Path) -> Any:
    """Figures of every training."""
    return table(folder / "P" / "panel.csv", ["seconds"])


def planes(cache: Path) -> list[str]:
    """Digests of all decoded planes."""
    found = {}
    for index in cache.rglob("*.json"):
        raw = index.with_suffix(".planes").read_bytes()
        for key, offset, shape, dtype, *_ in json.loads(text(index).partition("\n")[2])["planes"]:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            found[key] = hashlib.sha256(raw[offset : offset + size]).hexdigest()
    return sorted(found.values())


def fingerprint(value: Any) -> str:
    """Of nested plain data, arrays and tensors, to the last bit."""
    sha = hashlib.sha256()
    for part in _parts(value):
        sha.update(part)
    return sha.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}:".encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}]".encode()
        for item in value:
            yield from _parts(item)
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.ascontiguousarray(value)
        yield f"{array.dtype}{array.shape}".encode() + array.tobytes()
    else:
        yield repr(value).encode()


def half_files(folder: Path) -> list[str]:
    """Files below `folder` that are not whole, though they bear their final names."""
    return [
        f"{path.relative_to(folder)}: {why}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(LEFTOVER.fullmatch(part) for part in path.relative_to(folder).parts)
        and (why := _fault(path))
    ]


def leftovers(folder: Path) -> list[str]:
    """Temporary names and locks below `folder`."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if LEFTOVER.fullmatch(path.name)
        or (path.name.startswith(".vfn") and path.suffix == ".lock")
    ]


def _fault(path: Path) -> str:
    """What is wrong with a file; empty where nothing is."""
    try:
        return _READERS.get(path.suffix, lambda _: "")(path) or ""
    except Exception as exc:  # noqa: BLE001 - whatever a half file leads to
        return f"{type(exc).__name__}: {exc}"


def _read_checkpoint(path: Path) -> str:
    torch.load(path, weights_only=True)
    return "" if is_whole(path) else "its checksums do not fit"


def _read_tiff(path: Path) -> str:
    with tifffile.TiffFile(path) as tif:
        array = tif.asarray()
        named = tif.ome_metadata is not None or not path.name.endswith(".ome.tif")
    return "" if array.size and named else "lacks its metadata"


def _read_csv(path: Path) -> str:
    content = text(path)
    widths = {len(row) for row in csv.reader(io.StringIO(content))}
    return "" if content.endswith("\n") and len(widths) == 1 else "its last row is cut"


def _read_json(path: Path) -> str:
    shard, content = path.with_suffix(".planes"), text(path)
    if not shard.exists():
        json.loads(content)
        return ""
    described = json.loads(content.partition("\n")[2])  # behind its checksum
    return "" if shard.stat().st_size == described["bytes"] else "its pixels are cut"


def _read_html(path: Path) -> str:
    return "" if text(path).rstrip().endswith("</html>") else "its end is missing"


def _read_png(path: Path) -> str:
    with Image.open(path) as image:
        image.load()
    return ""


def _read_yaml(path: Path) -> str:
    yaml.safe_load(text(path))
    return ""


_READERS: dict[str, Callable[[Path], str]] = {
    ".ckpt": _read_checkpoint,
    ".tif": _read_tiff,
    ".csv": _read_csv,
    ".json": _read_json,
    ".html": _read_html,
    ".png": _read_png,
    ".yaml": _read_yaml,
}
