"""The images below a folder: links are followed, thumbnails left out, and what is left out is named."""

import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from vfn.data.images import CONTAINERS, SUFFIXES, is_container, is_image, strip_suffix
from vfn.errors import UserError

log = logging.getLogger(__name__)
_THUMBNAIL = re.compile(r"thumb(?:nail)?s?", re.IGNORECASE)
# ImageXpress ends each name with one of its own: A01_s1_w1<UUID>.tif, A01_s1_w1_thumb<UUID>.tif.
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def find_images(folder: Path) -> list[Path]:
    """All image files below `folder`, sorted; none inside of OME-Zarr folders, nor of hidden ones
    (half-made, or another program's), and no thumbnail beside its image.

    Raises:
        UserError: no such folder, or no image in it.
    """
    return _sorted(folder, [path for path in walk(folder) if is_image(path)], SUFFIXES)


def find_sources(root: Path) -> list[Path]:
    """Images and containers below `root`, sorted; `root` alone if it is itself a container.

    Raises:
        UserError: see `find_images`.
    """
    if is_container(root):
        return [root]
    paths = [path for path in walk(root) if is_image(path) or is_container(path)]
    return _sorted(root, paths, SUFFIXES + CONTAINERS)


def tokenize(text: str) -> list[str]:
    """Runs of letters and digits; "é" is one letter, though macOS spells it as "e" and an accent.

    >>> tokenize("plate1/A01_Phase")
    ['plate1', 'A01', 'Phase']
    """
    return [token for token in re.split(r"[\W_]+", unicodedata.normalize("NFC", text)) if token]


def path_tokens(relative_path: str) -> list[str]:
    """Tokens of a path without its suffix."""
    return tokenize(str(Path(relative_path).with_name(strip_suffix(relative_path))))


def _sorted(folder: Path, paths: list[Path], suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the images")
    if not paths:
        raise UserError(f"{folder}: no image in it; {', '.join(suffixes)} files are read")
    return _without_thumbnails(folder, sorted(paths))


def _without_thumbnails(folder: Path, paths: list[Path]) -> list[Path]:
    """`paths` but for those with the token thumb (thumbnail, thumbs) that is all they have beyond the
    path of another image: small copies, which would be fields of another pixel size."""
    if not any(_THUMBNAIL.search(str(path.relative_to(folder))) for path in paths):
        return paths
    words = {p: path_tokens(_UUID.sub(" ", p.relative_to(folder).as_posix())) for p in paths}
    bare = {
        path: tuple(token.casefold() for token in own if not _THUMBNAIL.fullmatch(token))
        for path, own in words.items()
    }
    images = {bare[path] for path in paths if len(bare[path]) == len(words[path])}
    kept = [p for p in paths if len(bare[p]) == len(words[p]) or bare[p] not in images]
    if len(kept) < len(paths):
        first = next(path for path in paths if path not in set(kept))
        _warn_once(
            f"{folder}: {len(paths) - len(kept)} thumbnail(s) beside their images are left out, "
            f"the first: {first.relative_to(folder)}"
        )
    return kept


def walk(root: Path) -> Iterator[Path]:
    """Files below `root` and, whole, the OME-Zarr folders: those hold a file for every chunk.

    Linked folders come after all others, so that a folder that is there by itself and by a link is
    read under its own name, once. Links to images that lead nowhere stay in: reading them says so.
    """
    seen = {_identity(above) for above in root.resolve().parents}
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        entries = _entries(folder)
        if entries is None:
            continue
        own = _identity(folder)
        if own in seen:
            _warn_once(f"{folder}: links to a folder that holds it or is read already; left out")
            continue
        seen.add(own)
        for entry in entries:
            path = folder / entry.name
            if not is_folder(entry):
                if entry.is_symlink() and not is_image(path) and not path.exists():
                    _warn_once(f"{path}: is a link that leads nowhere; left out")
                yield path
            elif entry.name.startswith("."):
                continue
            elif entry.name.lower().endswith(".zarr"):
                yield path
            else:
                (links if entry.is_symlink() else folders).append(path)


def _entries(folder: Path) -> "list[os.DirEntry[str]] | None":
    """List a folder by name; None, with a warning, where that fails. The caller tells of a missing one."""
    try:
        with os.scandir(folder) as listed:
            return sorted(listed, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        _warn_once(f"{folder}: cannot be listed ({exc.strerror}), so its images are left out")
        return None


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Return True if `entry`, its links followed, is a folder."""
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


@cache
def _warn_once(message: str) -> None:
    """Warn, but not again where a folder is gone through twice."""
    log.warning("%s", message)
