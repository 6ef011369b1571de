"""Read checkpoints as plain data and tensors: no code in them is imported or run."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from vfn.errors import UserError
from vfn.models.archive import check_entries, check_pickle, is_whole
from vfn.models.nets import OURS
from vfn.models.recipe import RECIPE, check_recipe
from vfn.system.dotted import TARGET, refuse_code

FORMAT = 2  # of the recipe; raised when a reader must know


def read_raw(
    path: Path, mapped: bool = False, trust: Collection[str] | None = ()
) -> dict[str, Any]:
    """Read the file as plain data and tensors; nothing in it is imported or run.

    Args:
        mapped: tensors stay in the file until they are looked at, and its checksums unread.
        trust: dotted paths of networks and data sets that are not part of vfn and may be built from what is
            read; None for a reader that builds none.

    Raises:
        UserError: missing, unreadable, or no checkpoint of vfn.
    """
    raw = _unpickled(path, mapped)
    recipe = raw.get(RECIPE) if isinstance(raw, dict) else None
    if not isinstance(recipe, dict) or "state_dict" not in raw:
        raise UserError(f"ckpt={path}: is not a checkpoint of vfn; give one that train.py wrote")
    stated = recipe.get("format")
    if type(stated) is not int or stated != FORMAT:
        raise UserError(
            f"ckpt={path}: format {str(stated)[:40]}, this version reads {FORMAT}; "
            "use the version of vfn that wrote it"
        )
    refuse_code(recipe, f"ckpt={path}", (*OURS, *(_named(recipe) if trust is None else trust)))
    try:
        check_recipe(recipe)
    except ValueError as exc:
        raise UserError(
            f"ckpt={path}: its recipe is damaged ({exc}), or older than version 0.1.0; "
            "train anew or copy it again"
        ) from exc
    return raw


def _unpickled(path: Path, mapped: bool) -> Any:
    """Return the content of a checkpoint, whose archive and pickle were looked through."""
    if path.is_dir():
        raise UserError(
            f"ckpt={path}: is a folder; give a file, as outputs/NAME/checkpoints/best.ckpt"
        )
    if not path.is_file():
        raise UserError(f"ckpt={path}: no such file; give outputs/NAME/checkpoints/best.ckpt")
    try:
        check_entries(path)
        if not mapped and not is_whole(path):
            raise UserError(
                f"ckpt={path}: is damaged (its checksums do not fit); copy it again or train anew"
            )
        check_pickle(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: they are refused below
            # weights_only: a stranger's file can hold data, never code.
            with path.open("rb") as file:
                # torch maps no file whose name is not UTF-8.
                mapped = mapped and _is_utf8(path)
                what = path if mapped else file
                return torch.load(what, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except Exception as exc:  # the unpickler raises whatever damaged bytes lead to
        raise UserError(
            f"ckpt={path}: is no checkpoint, or a damaged one ({type(exc).__name__}: {exc}); "
            "train anew or copy it again"
        ) from exc


def _named(recipe: Mapping[str, Any]) -> list[str]:
    """Return the dotted paths of a recipe's networks and data set."""
    specs = [recipe.get(part) for part in ("generator", "discriminator", "data")]
    return [spec[TARGET] for spec in specs if isinstance(spec, Mapping) and spec.get(TARGET)]


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
