"""Trained models below a folder of runs, with their tasks and scores."""

import json
import math
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vfn.errors import UserError
from vfn.models.card import verdicts_of
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE
from vfn.system.csv_files import read_epochs

BEST = Path("checkpoints", "best.ckpt")
DEPTH = 3  # folders from the root down to a run: a sweep has its runs in a folder of its own
LONGEST, LARGEST = 500, 2**16  # characters of a line, and of a card
LARGEST_TABLE = 2**26  # bytes


@dataclass(frozen=True)
class Model:
    """A checkpoint, as the page shows it.

    Attributes:
        name: of the run folder relative to the folder of the runs; the page knows a model by it.
        path: of the checkpoint.
        card: what the page shows, as plain data; `problem` alone where it cannot be read.
    """

    name: str
    path: Path
    card: Mapping[str, Any]


class Models:
    """The models below `root`, listed anew on every request.

    Raises:
        UserError: no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(
                f"runs={root}: no such folder; give the one that train.py writes to, as runs=outputs"
            )
        self.root = root.resolve()

    def all(self) -> list[Model]:
        """Return every model, newest first, without links out of `root`."""
        found = sorted(map(self._listed, self._places()), key=lambda pair: -pair[0])
        return [model for _, model in found]

    def find(self, name: str) -> Model:
        """Return the model of that name.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        for model in self.all():  # a name is looked up, never made into a path
            if model.name == name:
                if "problem" in model.card:
                    raise UserError(str(model.card["problem"]))
                return model
        raise UserError(f"model {name}: is not there; choose one of the list")

    def _places(self) -> list[Path]:
        """Return the paths of checkpoints, and of unreadable folders."""
        found, folders = [], [(self.root, 0)]
        while folders:
            folder, depth = folders.pop()
            if os.path.lexists(folder / BEST):
                found.append(folder / BEST)
            elif depth < DEPTH:  # predictions, which may be plates, lie within run folders
                try:
                    folders += [(below, depth + 1) for below in sorted(_folders(folder))]
                except OSError:
                    found.append(folder)
        return [path for path in found if self._is_inside(path)]

    def _is_inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # links in a circle: inside, and of no use
            return True

    def _listed(self, path: Path) -> tuple[float, Model]:
        """Return the modification time and the card of `path`; the card states any problem."""
        run = path.parent.parent if path.parts[-2:] == BEST.parts else path
        name = run.relative_to(self.root).as_posix() if run != self.root else self.root.name
        modified = 0.0
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                os.listdir(path)  # a folder that cannot be read says why
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path}: is no file; remove it")
            modified = status.st_mtime
            date = time.strftime("%Y-%m-%d %H:%M", time.localtime(modified))
            card = _card(path, status.st_mtime_ns, status.st_size)
            # What the run's table says may come later than the checkpoint.
            card = {**card, **_figures(run), "date": date}
        except (OSError, ValueError, OverflowError, UserError) as exc:  # the others stay usable
            card = _problem(path, exc)
        return modified, Model(name, path, {"name": name, **card})


def _folders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that may hold runs, without links back up."""
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
    above = {folder.resolve(), *folder.resolve().parents}
    return [
        path for path in paths
        if os.path.isdir(path) and not (path.is_symlink() and path.resolve() in above)
    ]  # fmt: skip


def _problem(path: Path, exc: Exception) -> dict[str, Any]:
    """Return the card of an unusable checkpoint."""
    if isinstance(exc, UserError):
        text = str(exc)
    elif isinstance(exc, OSError):
        text = f"{path}: cannot be read ({exc.strerror or exc}); check its rights"
    else:
        text = f"{path}: is a checkpoint that lacks something ({type(exc).__name__}: {exc}); train anew"
    return {"problem": text[:LONGEST]}


@cache
def _card(path: Path, _mtime: int, _size: int) -> dict[str, Any]:
    """Return the card of a checkpoint; it is read once."""
    try:
        recipe = read_raw(path, mapped=True)[RECIPE]
        task, calibrated, size = recipe["task"], recipe.get("uncertainty"), recipe.get("pixel_size")
        inputs, targets = list(task["inputs"]), list(task["targets"])
        card = {
            "task": str(task["name"]),
            "inputs": inputs,
            "targets": targets,
            "data": str(recipe["data"]["name"]),
            "root": str(recipe["data"]["root"] or ""),
            "input_dtypes": [
                str(one["dtype"]) for _, one in zip(inputs, recipe["inputs"], strict=True)
            ],
            "target_dtype": str(recipe["targets"][0]["dtype"]),
            "pixel_size": None if size is None else float(size),
            "train_fields": len({str(name) for name, _ in recipe["split"]["train"]}),
            "split": str(recipe["split"]["by"]),
            "refocuses": recipe.get("refocus") is not None,
            "calibrated": None if calibrated is None else int(min(calibrated["fields"])),
            "verdicts": [asdict(verdict) for verdict in verdicts_of(recipe)],
        }
        if len(json.dumps(card, allow_nan=False)) > LARGEST:
            raise ValueError("names of absurd length")
    except Exception as exc:  # noqa: BLE001  # a stranger's file: it must take no other model with it
        return _problem(path, exc)
    return card


def _figures(run: Path) -> dict[str, Any]:
    """Return the number of epochs and the validation metrics of the best one; None if unknown."""
    table = run / "metrics.csv"
    epochs: list[tuple[float, float]] = []
    # A pipe or a folder in its place, or a table of absurd size, is not opened.
    with suppress(OSError, UserError, ValueError, KeyError):
        status = table.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_TABLE:
            rows = read_epochs(table)
            epochs = [(float(row["val/mae"]), float(row["val/psnr"])) for row in rows]
    known = [pair for pair in epochs if all(map(math.isfinite, pair))]
    mae, psnr = min(known, key=lambda pair: pair[0], default=(None, None))
    return {"epochs": len(known) or None, "val_psnr": psnr, "val_mae": mae}
