"""Trained models below a folder of runs: what each is for, and how well it did."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfn.checkpoint import read_raw
from vfn.csv_files import read_epochs
from vfn.errors import UserError
from vfn.module import RECIPE

BEST = Path("checkpoints", "best.ckpt")
DEPTH = 3  # folders from the root down to a run: a sweep has its runs in a folder of its own


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
    """The models below `root`, looked for anew whenever they are asked for.

    Raises:
        UserError: no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(
                f"runs={root}: no such folder; give the one that train.py writes to, as runs=outputs"
            )
        self.root = root.resolve()
        self._cards: dict[tuple[Path, int, int], Mapping[str, Any]] = {}

    def all(self) -> list[Model]:
        """Every model, the newest first. Links that lead out of `root` are left out."""
        found = []
        for path in self._checkpoints():
            status = path.stat()
            key = (path, status.st_mtime_ns, status.st_size)
            if key not in self._cards:
                self._cards[key] = _card(path)
            run = path.parent.parent
            name = run.relative_to(self.root).as_posix() if run != self.root else self.root.name
            # What the run's tables say may come later than the checkpoint.
            card = {**self._cards[key], **_figures(run), "date": _date(status.st_mtime)}
            found.append((status.st_mtime, Model(name, path, {"name": name, **card})))
        return [model for _, model in sorted(found, key=lambda pair: -pair[0])]

    def find(self, name: str) -> Model:
        """The model that is called `name`.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        for model in self.all():  # a name is looked up, never made into a path
            if model.name == name:
                if "problem" in model.card:
                    raise UserError(str(model.card["problem"]))
                return model
        raise UserError(f"model {name}: is not there; choose one of the list")

    def _checkpoints(self) -> list[Path]:
        found, folders = [], [(self.root, 0)]
        while folders:
            folder, depth = folders.pop()
            if (folder / BEST).is_file():
                found.append(folder / BEST)
            elif depth < DEPTH:  # predictions, which may be plates, lie within run folders
                with suppress(OSError):  # somebody else's folder
                    folders += [
                        (below, depth + 1)
                        for below in folder.iterdir()
                        if below.is_dir() and not below.name.startswith(".")
                    ]
        return [path for path in found if path.resolve().is_relative_to(self.root)]


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _card(path: Path) -> dict[str, Any]:
    """What the checkpoint says of itself."""
    try:
        recipe = read_raw(path, mapped=True)[RECIPE]
        task, targets = recipe["task"], list(recipe["task"]["targets"])
        calibrated = recipe.get("uncertainty")
        train = recipe["split"]["train"]
        return {
            "task": str(task["name"]),
            "inputs": list(task["inputs"]),
            "targets": targets,
            "data": str(recipe["data"]["name"]),
            "root": str(recipe["data"]["root"] or ""),
            "input_dtypes": [str(one["dtype"]) for one in recipe["inputs"]],
            "target_dtype": str(recipe["targets"][0]["dtype"]),
            "pixel_size": recipe.get("pixel_size"),
            "train_fields": len({name for name, _ in train}),
            "split": str(recipe["split"]["by"]),
            "refocuses": recipe.get("refocus") is not None,
            "calibrated": None if calibrated is None else int(min(calibrated["fields"])),
        }
    except UserError as exc:
        return {"problem": str(exc)}
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        return {"problem": f"{path}: is a checkpoint that lacks something ({exc}); train anew"}


def _figures(run: Path) -> dict[str, Any]:
    """The best epoch's validation figures, and the verdicts of an evaluation in the run folder."""
    figures: dict[str, Any] = {"epochs": None, "val_psnr": None, "val_mae": None, "verdicts": {}}
    try:
        rows = read_epochs(run / "metrics.csv")
        best = min(rows, key=lambda row: float(row["val/mae"]))
        figures |= {"epochs": len(rows), "val_psnr": float(best["val/psnr"])}
        figures["val_mae"] = float(best["val/mae"])
    except (UserError, ValueError, KeyError):
        pass  # a checkpoint alone; the page says that nothing is known
    for path in (run / "summary.json", *sorted(run.glob("*/summary.json"))):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            figures["verdicts"] = {
                channel: str(part["verdict"]["level"]) for channel, part in summary.items()
            }
            break
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return figures
