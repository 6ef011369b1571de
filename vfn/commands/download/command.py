"""Download the public data sets of `data=u2os_af` and `data=u2os_cps`."""

import argparse
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from vfn.cli.entry import LineParser, run_parsed, set_up_logging
from vfn.cli.help import as_called
from vfn.commands.download.archives import PLATES, SOURCES, Source, chosen_archives, next_step
from vfn.commands.download.fetch import fetch, held_bytes, part_of, patiently, size_of
from vfn.commands.download.unpack import DamagedError, check_space, folder_of, is_whole, unpack
from vfn.errors import UserError
from vfn.system.files import make_folder, write_text
from vfn.system.progress import progress

CHECKSUMS = "checksums.txt"  # beside the folders, as sha256sum writes it
log = logging.getLogger(__name__)


def read_checksums(path: Path) -> dict[str, str]:
    """Read a file of sha256sum; return the checksums by file name.

    Raises:
        UserError: no such file, or another kind of line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise UserError(f"{path}: cannot be read as checksums ({exc})") from exc
    found = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if match:
            found[PurePosixPath(match[2]).name] = match[1].lower()
        elif line.strip() and not line.startswith("#"):
            raise UserError(f"{path}: line {number} is no '64 HEX DIGITS  NAME'; see sha256sum")
    return found


def obtain(
    archive: str, root: Path, url: str, given: Mapping[str, str], keep: bool, label: str
) -> None:
    """Fetch `archive` unless `root` has it, check and unpack it, record its SHA-256.

    Args:
        given: checksums from the user; by default those that an earlier download recorded.
        keep: keep the archive in `root`.

    Raises:
        UserError: it cannot be fetched, or is damaged twice.
    """
    noted = root / CHECKSUMS
    known = read_checksums(noted) if noted.exists() else {}
    expected = given.get(archive, known.get(archive))
    by = "--sha256" if archive in given else noted
    path = root / archive
    for last in (False, True):
        try:
            if not path.exists():
                fetch(url + archive, path, label)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if expected not in (None, digest):
                raise DamagedError(f"its SHA-256 is {digest}, {by} says {expected}")
            unpack(path, folder_of(root, archive))
            break
        except DamagedError as exc:
            path.unlink(missing_ok=True)
            if last:
                remedy = f", or, if the publisher changed it, correct {by}" if expected else ""
                raise UserError(
                    f"{url}{archive}: damaged, fetched again, damaged again ({exc}); try another server "
                    f"by --url{remedy}"
                ) from exc
            log.warning("%s: damaged (%s); removed, fetching it again", path, exc)
    lines = (f"{sha256}  {name}\n" for name, sha256 in sorted({**known, archive: digest}.items()))
    write_text(noted, "".join(lines))
    if not keep:
        path.unlink()


def _announce(source: Source, archives: Sequence[str], root: Path, url: str, keep: bool) -> None:
    """Log the sizes, and check that the disk has room."""
    to_fetch = unpacked = taken = most = 0.0
    for archive in progress(archives, len(archives), "sizes"):
        held = held_bytes(root / archive)
        size = held or patiently(url + archive, partial(size_of, url + archive))
        rest = size - (held or held_bytes(part_of(root / archive)))
        to_fetch += rest
        unpacked += size * source.expansion
        taken += rest + size * source.expansion
        most = max(most, taken)  # while both the archive and its folder are there
        taken -= 0 if keep else size
    what = f"{len(archives)} archive(s), {decimal(int(to_fetch))} to fetch"
    log.info("%s, about %s unpacked in %s", what, decimal(int(unpacked)), root)
    check_space(root, most, f"{what} and to unpack")


def download(
    source: Source,
    archives: Sequence[str],
    root: Path,
    url: str,
    given: Mapping[str, str],
    keep: bool,
) -> None:
    """Download and unpack `archives` into `root`; skip those that are complete.

    Args:
        url: folder of the archives, ending in "/".
        given, keep: see `obtain`.

    Raises:
        UserError: not enough space, a failing server, a damaged archive, a folder without write access.
    """
    make_folder(root)
    missing = [archive for archive in archives if not is_whole(folder_of(root, archive))]
    if len(missing) < len(archives):
        log.info("%d of %d in %s already", len(archives) - len(missing), len(archives), root)
    try:
        if missing:
            _announce(source, missing, root, url, keep)
        for number, archive in enumerate(missing, start=1):
            label = f"{number}/{len(missing)} {archive}"
            obtain(archive, root, url, given, keep, label)
            log.info("%s is in %s", label, folder_of(root, archive))
    except OSError as exc:
        raise UserError(
            f"{exc.filename or root}: cannot be written ({exc.strerror or exc}); make room or correct the "
            "rights, then the same command goes on"
        ) from exc


EXAMPLES = """examples:
  python -m vfn.download u2os_af --root bbbc006
  python -m vfn.download u2os_cps --root bbbc022 --plates 20585 --channels dna,er
  python -m vfn.download u2os_cps --help

exit codes: 0 done, 2 your input is wrong (one line says what), 130 interrupted
"""


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        as_called("python -m vfn.download"),
        description="Fetch, check and unpack a public data set. Run again after an interruption, it goes on\n"
        "where it stopped; what is there already is not fetched.",
        epilog=as_called(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = LineParser(add_help=False)
    common.add_argument("--root", type=Path, required=True, help="folder for the data (data.root)")
    common.add_argument("--url", help="folder of the archives on another server")
    common.add_argument(
        "--sha256", type=Path, metavar="FILE", help="known checksums, as sha256sum writes them"
    )
    common.add_argument(
        "--keep-archives", action="store_true", help="leave the zip files in --root"
    )
    kinds = parser.add_subparsers(dest="data", required=True, metavar="u2os_af|u2os_cps")
    af = kinds.add_parser("u2os_af", parents=[common], help="BBBC006, 34 planes")
    af.add_argument(
        "--planes",
        help="all, or as 0-33 or 11,16,20; default: those of task=refocus; 16 is in focus",
    )
    cps = kinds.add_parser("u2os_cps", parents=[common], help="BBBC022, 20 plates x 5 channels")
    cps.add_argument(
        "--plates", default=str(PLATES[0]),
        help="all, or as 20585,20592 or 20589-20596; default: %(default)s; a plate is about 12.5 GB",
    )  # fmt: skip
    cps.add_argument(
        "--channels", default="all", help="all, or as 1-5 or dna,golgi_actin; default: %(default)s"
    )
    return parser


def _command(argv: Sequence[str] | None) -> None:
    args = _parser().parse_args(argv)
    set_up_logging()
    source = SOURCES[args.data]
    archives = chosen_archives(args)
    given = read_checksums(args.sha256) if args.sha256 else {}
    if args.sha256 and not given.keys() & set(archives):
        raise UserError(f"{args.sha256}: names none of the archives, as {archives[0]}")
    url = (args.url or source.url).rstrip("/") + "/"
    download(source, archives, args.root, url, given, args.keep_archives)
    log.info("%s", source.terms)
    log.info("%s", next_step(args.data, args.root))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    going_on = "interrupted; the same command goes on where it stopped"
    return run_parsed(partial(_command, argv), going_on)
