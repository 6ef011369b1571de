"""Image folders that the page may read: those that the user named."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vfn.data.images import is_container, is_image
from vfn.data.walk import is_folder
from vfn.errors import UserError

SHOWN = 500  # subfolders


@dataclass(frozen=True)
class Listing:
    """The content of a folder: names of subfolders, and number of images and containers."""

    folders: tuple[str, ...]
    images: int


class Folders:
    """The allowed roots.

    Raises:
        UserError: one of them is no folder.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        for root in roots:
            if not root.is_dir():
                raise UserError(f"folders=[{root}]: no such folder; give folders that hold images")
        self.roots = tuple(root.resolve() for root in roots)

    def resolve(self, root: int, path: str) -> Path:
        """Return the folder `path` below root number `root`.

        Raises:
            UserError: it is not there, or would lie elsewhere.
        """
        if not 0 <= root < len(self.roots):
            raise UserError("that folder is none of those that folders=[...] allows")
        allowed = self.roots[root]
        try:
            folder = (allowed / path).resolve()
            there = inside(folder, allowed) and folder.is_dir()
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, links in a circle
            there = False
        if not there:
            raise UserError(f"{path}: is no folder below {allowed}; choose one of the list")
        return folder

    def list(self, folder: Path) -> Listing:
        """List `folder`, from `resolve`, without links to folders outside the roots."""
        folders, images = [], 0
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = Path(entry.name)
                    if is_image(name) or is_container(name):
                        images += 1
                    elif is_folder(entry) and not entry.name.startswith("."):
                        folders.append(entry.name)
        except OSError as exc:
            raise UserError(f"{folder}: cannot be read ({exc.strerror}); check its rights") from exc
        roots = [root for root in self.roots if inside(folder, root)]
        shown = [n for n in sorted(folders) if any(inside(folder / n, root) for root in roots)]
        return Listing(tuple(shown[:SHOWN]), images)


def inside(path: Path, folder: Path) -> bool:
    """Return True if `path`, with links followed, is `folder` (resolved) or lies below it."""
    return path.resolve().is_relative_to(folder)


def check_inside(source: Path, folder: Path) -> None:
    """Refuse a source with links that lead out of `folder`.

    Raises:
        UserError: it names the first of them.
    """

    if not inside(source, folder):
        raise UserError(f"{source}: lies outside of {folder}, which is not allowed")
    pending, seen = [source] if source.is_dir() else [], set[Path]()
    while pending:
        below = pending.pop().resolve()  # what a link leads to may hold links itself
        if below in seen:
            continue
        seen.add(below)
        with suppress(PermissionError), os.scandir(below) as entries:  # nothing is read there
            for entry in entries:
                path = Path(entry.path)
                if entry.is_symlink() and not inside(path, folder):
                    raise UserError(
                        f"{path}: is a link that leads out of {folder}, which is not allowed; "
                        "copy the file, or start the page with folders=[...] that hold it"
                    )
                if is_folder(entry):
                    pending.append(path)
