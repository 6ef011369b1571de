"""Public data sets: fetched, checked, and unpacked where `data=u2os_af` and `data=u2os_cps` read them.

`python -m vfn.download --help` says how. pooch keeps the archives and compares their SHA-256. What it
lacks is added here: a download that broke off goes on where it stopped (RFC 9110, sec. 13.1.5 and
14.2), and a folder is there whole or not at all.
"""

import argparse
import errno
import json
import logging
import os
import posixpath
import re
import shlex
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pooch  # type: ignore[import-untyped]
import requests
from rich.filesize import decimal

from vfn.cli.entry import LineParser, known_tasks, run_parsed, set_up_logging
from vfn.cli.help import as_called
from vfn.errors import UserError
from vfn.system.files import make_folder, write_text
from vfn.system.progress import progress, progress_bytes

PLANES = range(34)  # of BBBC006
# Of BBBC022: the twenty that the Broad Institute's notes on its back-up of this data set list
# (github.com/broadinstitute/imaging-backup-scripts, "Create a list of plates").
PLATES = (
    20585, 20586, 20589, 20590, 20591, 20592, 20593, 20594, 20595, 20596,
    20607, 20608, 20625, 20626, 20630, 20633, 20639, 20640, 20641, 20646,
)  # fmt: skip
CHANNELS = range(1, 6)  # of BBBC022

CHECKSUMS = "checksums.txt"  # beside the folders, as sha256sum writes it
MARKER = ".unpacked.json"  # in each folder: file -> size
WAITS = (1.0, 3.0, 10.0, 30.0)  # s, before another attempt where the last one brought no new byte
TIMEOUT = 60.0  # s without a byte
CHUNK = 2**16  # bytes; so many at most are lost where a connection breaks off

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        url: folder of its archives.
        expansion: unpacked over packed size. Measured by deflating genuine images: 19 of BBBC006, LZW
            inside, gave 1.01 to 1.04; 13 of BBBC022, not compressed inside, 1.54 to 1.98. Rounded up.
        terms: whom to cite, and the licence.
    """

    url: str
    expansion: float
    terms: str


SOURCES = {
    "u2os_af": Source(
        "https://data.broadinstitute.org/bbbc/BBBC006/",
        1.1,
        "BBBC006v1 (licence: https://bbbc.broadinstitute.org/BBBC006); "
        "cite Ljosa et al., Nature Methods 2012",
    ),
    "u2os_cps": Source(
        "https://data.broadinstitute.org/bbbc/BBBC022/",
        2.0,
        "BBBC022v1 (CC0); cite Gustafsdottir et al., PLOS ONE 2013, and Ljosa et al., "
        "Nature Methods 2012",
    ),
}


class DamagedError(Exception):
    """An archive is not as its publisher made it; the message says in what."""


class _FailedError(Exception):
    """A fault of the network or the server that another attempt may mend."""


# --- which archives ---


def af_archive(plane: int) -> str:
    """Archive of one plane of BBBC006."""
    return f"BBBC006_v1_images_z_{plane:02d}.zip"


def cps_archive(plate: int, channel: int) -> str:
    """Archive of one channel of one plate of BBBC022."""
    return f"BBBC022_v1_images_{plate}w{channel}.zip"


def choose(
    option: str, text: str, known: Sequence[int], names: Mapping[str, int] | None = None
) -> list[int]:
    """Those of `known` that `text` names, in the order of `known`.

    Args:
        option: for the message, as "--planes".
        text: "all", or numbers, ranges ("11-14") and keys of `names`, separated by commas. A range
            takes the known numbers between its ends, which must be known themselves.

    Raises:
        UserError: anything else.
    """
    if text == "all":
        return list(known)
    chosen: set[int] = set()
    for part in text.split(","):
        part = part.strip()
        number = str((names or {}).get(part, part))
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", number, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or not {first, last} <= set(known):
            offer = (
                f"{known[0]}-{known[-1]}"
                if isinstance(known, range)
                else ", ".join(map(str, known))
            )
            raise UserError(
                f"{option} {text}: {part!r} is unknown; give all, or, separated by commas, numbers and ranges "
                f"of {', '.join([offer, *(names or ())])}"
            )
        chosen |= {n for n in known if first <= n <= last}
    return [n for n in known if n in chosen]


# The data sets bring torch with them; a mistyped option need not wait for that.


def _depth(plane: int) -> float:
    from vfn.data.sets import U2OSAF

    return (plane - U2OSAF.Z_ZERO) * U2OSAF.Z_STEP


def _channel_numbers() -> dict[str, int]:
    from vfn.data.sets import U2OSCPS

    return {name: int(token) for name, token in U2OSCPS.CHANNELS.items()}


def _refocus_depths() -> set[float]:
    """Where `task=refocus` looks for its inputs, um."""
    return {z for task in known_tasks() if task.name == "refocus" for z in task.input_z}


def chosen_archives(args: argparse.Namespace) -> list[str]:
    """Names of the archives that the command line asks for.

    Raises:
        UserError: see `choose`.
    """
    if args.data == "u2os_af":
        if args.planes is None:
            wanted = {0.0, *_refocus_depths()}
            return [af_archive(n) for n in PLANES if _depth(n) in wanted]
        return [af_archive(n) for n in choose("--planes", args.planes, PLANES)]
    plates = choose("--plates", args.plates, PLATES)
    channels = choose("--channels", args.channels, CHANNELS, _channel_numbers())
    return [cps_archive(plate, channel) for plate in plates for channel in channels]


def next_step(data: str, root: Path) -> str:
    """The training command that fits what is unpacked in `root`, or what it lacks."""

    def there(archive: str) -> bool:
        return (_folder(root, archive) / MARKER).exists()

    command = f"next: python train.py data={data} data.root={shlex.quote(str(root))}"
    if data == "u2os_af":
        depths = {_depth(n) for n in PLANES if there(af_archive(n))}
        others = sorted(depths - {0.0})
        if depths == set(others) or not others:
            return "training needs the focal plane, 16, and others: fetch them by --planes"
        if depths & _refocus_depths():
            return f"{command} task=refocus"
        planes = ", ".join(f"{z:g}" for z in others)
        return f"{command} task=refocus 'task.input_z=[{planes}]'"
    channels = {
        name
        for name, number in _channel_numbers().items()
        if any(there(cps_archive(plate, number)) for plate in PLATES)
    }
    fitting = [task.name for task in known_tasks() if set(task.channels) <= channels]
    if not fitting:
        return f"no task does with {', '.join(sorted(channels))}: fetch more by --channels"
    return f"{command} task={fitting[0]}"


# --- fetching ---


def _patiently(url: str, attempt: Callable[[], T], arrived: Callable[[], int] = lambda: 0) -> T:
    """Try again, after growing pauses, what the network may spoil.

    Args:
        arrived: bytes so far; where an attempt brought more than any before, the pauses start anew.

    Raises:
        UserError: no attempt succeeded, or `url` is no address.
    """
    waits, most = iter(WAITS), arrived()
    while True:
        try:
            return attempt()
        except (requests.RequestException, _FailedError) as exc:
            if isinstance(exc, ValueError):  # so requests marks addresses that cannot be one
                raise UserError(f"{url}: {exc}; correct --url") from exc
            reason = _words(exc)
            if arrived() > most:
                waits, most = iter(WAITS), arrived()
            pause = next(waits, None)
            if pause is None:
                raise UserError(
                    f"{url}: {reason}, {len(WAITS) + 1} times in a row; try later (the same command goes on "
                    "where it stopped), or another server by --url"
                ) from exc
        log.warning("%s: %s; trying again in %g s", url, reason, pause)
        time.sleep(pause)


def _words(exc: Exception) -> str:
    """What went wrong, without the layers that requests and urllib3 wrap it in."""
    if isinstance(exc, _FailedError):
        return str(exc)
    if isinstance(exc, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(exc, requests.Timeout):
        return f"no answer for {TIMEOUT:g} s"
    inner = getattr(exc.args[0], "reason", exc) if exc.args else exc
    return f"no connection ({str(inner).rpartition(': ')[2]})"


def _ask(
    method: str, url: str, headers: Mapping[str, str], allowed: Sequence[int] = ()
) -> requests.Response:
    """An answer that can be used; its body is still to be read.

    Raises:
        UserError: the server refuses.
        _FailedError: it fails, or is busy.
    """
    # Packed on the way, lengths and ranges would not be those of the file.
    headers = {"Accept-Encoding": "identity", **headers}
    reply = requests.request(
        method, url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=True
    )
    status = reply.status_code
    if reply.ok or status in allowed:
        return reply
    reply.close()
    says = f"the server answers {status} {reply.reason}"
    if status >= 500 or status in (408, 429):
        raise _FailedError(says)
    raise UserError(f"{url}: {says}; check the address, or give another by --url")


def _size(url: str) -> int:
    """Bytes of the file at `url`; 0 where the server does not say."""
    with _ask("HEAD", url, {}) as reply:
        return _length(reply)


def _length(reply: requests.Response) -> int:
    length = reply.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else 0


def _version(reply: requests.Response) -> str:
    """What `If-Range` takes: a strong ETag, else the date; empty where there is neither."""
    etag = reply.headers.get("ETag", "")
    return etag if etag.startswith('"') else reply.headers.get("Last-Modified", "")


def _held(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def resume(url: str, output_file: str, _: object, label: str) -> None:
    """Downloader for pooch: `output_file` from `url`, going on with what an earlier call left.

    What has arrived is kept beside `output_file` in NAME.part, and in NAME.part.version which
    version of the file it belongs to.

    Raises:
        UserError: the server refuses, or fails again and again.
    """
    part = Path(output_file).with_name(PurePosixPath(url).name + ".part")
    version = part.with_name(part.name + ".version")
    _patiently(url, partial(_fetch_rest, url, part, version, label), partial(_held, part))
    os.replace(part, output_file)
    version.unlink(missing_ok=True)


def _fetch_rest(url: str, part: Path, version: Path, label: str) -> None:
    """Ask for the bytes that `part` lacks, and for all where it belongs to another version.

    Raises:
        UserError, _FailedError: see `_ask`; the file changed; fewer bytes came than were promised.
    """
    known = version.read_text(encoding="utf-8") if version.exists() else ""
    held = _held(part) if known else 0
    headers = {"Range": f"bytes={held}-", "If-Range": known} if held else {}
    with _ask("GET", url, headers, allowed=(416,)) as reply:
        span = reply.headers.get("Content-Range", "")
        if held and reply.status_code == 416 and span == f"bytes */{held}":
            return  # whole already: the last call was stopped just before it could say so
        if reply.status_code == 200:
            held, total = 0, _length(reply)
            part.unlink(missing_ok=True)  # before its version is forgotten
            version.write_text(_version(reply), encoding="utf-8")
        else:
            continued = re.fullmatch(rf"bytes {held}-\d+/(\d+)", span)
            if not (held and continued and _version(reply) in ("", known)):
                part.unlink(missing_ok=True)
                raise _FailedError("the file changed after its first part came")
            total = int(continued[1])
        with part.open("ab") as file:
            for chunk in progress_bytes(reply.iter_content(CHUNK), held, total, label):
                file.write(chunk)
    if total and _held(part) != total:
        raise _FailedError(f"{_held(part)} of {total} bytes came")


# --- unpacking ---


def _folder(root: Path, archive: str) -> Path:
    return root / Path(archive).stem


def is_whole(folder: Path) -> bool:
    """Whether `folder` was unpacked by `unpack` and still has every file in its size."""
    try:
        sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Files of `archive` by their path (with "/") below the folder that holds them all, if one does.

    Raises:
        UserError: a path that leads out of the folder.
        zipfile.BadZipFile: no file, not as many as the archive says, or a name that has changed.
    """
    assert archive.fp is not None
    archive.fp.seek(-len(archive.comment) - 12, os.SEEK_END)
    (count,) = struct.unpack("<H", archive.fp.read(2))
    # A wrong byte in the table of contents can hide files, which zipfile does not notice.
    if count not in (len(archive.infolist()), 0xFFFF):
        raise zipfile.BadZipFile(f"{len(archive.infolist())} of {count} files found")
    paths: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        archive.open(info).close()  # compares the name with that beside the data
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", info.filename):
            raise UserError(
                f"{archive.filename}: {info.filename!r} would land outside the folder; do not trust "
                "this archive, fetch it from elsewhere by --url"
            )
        hidden = any(part.startswith(".") for part in path.parts)  # what macOS adds
        if not info.is_dir() and not hidden:
            paths[path] = info
    if not paths:
        raise zipfile.BadZipFile("no file in it")
    shared = posixpath.commonpath([str(path.parent) for path in paths])
    return {path.relative_to(shared).as_posix(): info for path, info in paths.items()}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the zip file `archive` as `folder`, whole or not at all.

    Every file is compared with its CRC-32. A folder that is there keeps what the archive does not
    have; the rest is replaced.

    Raises:
        DamagedError: it is no zip file, or a file in it does not fit its checksum.
        UserError: too little space, or a path that leads out of the folder.
    """
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened)
            sizes = {name: info.file_size for name, info in members.items()}
            _check_space(folder.parent, sum(sizes.values()), f"{archive.name} unpacked")
            for name in progress(members, len(members), f"unpacking {archive.name}"):
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(members[name]) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
        write_text(temporary / MARKER, json.dumps(sizes, indent=0))
        if folder.exists():
            for name in (*members, MARKER):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / name, folder / name)
        else:
            os.replace(temporary, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as exc:
        # The last two: headers that ask for passwords, unknown methods, offsets before the file.
        raise DamagedError(str(exc) or "it ends too early") from exc
    except OSError as exc:
        if exc.errno not in (None, errno.EINVAL):  # the disk's; those two are of impossible offsets
            raise
        raise DamagedError(str(exc)) from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# --- all together ---


def _check_space(root: Path, needed: float, what: str) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"{root}: {decimal(int(needed))} are needed ({what}), {decimal(free)} are free; make room, "
            "ask for less, or choose another --root"
        )


def read_checksums(path: Path) -> dict[str, str]:
    """File name -> SHA-256, from lines as sha256sum writes them.

    Raises:
        UserError: no such file, or a line that is something else.
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
    """Fetch `archive` unless it lies in `root` already, check it, unpack it, note its SHA-256.

    Args:
        given: checksums from the user; what an earlier download noted in `root` stands in for them.
        keep: leave the archive in `root`.

    Raises:
        UserError: it cannot be had, or is damaged when fetched anew, too.
    """
    noted = root / CHECKSUMS
    known = read_checksums(noted) if noted.exists() else {}
    expected = given.get(archive, known.get(archive))
    by = "--sha256" if archive in given else noted
    # The hash is compared here: pooch would throw the download away when interrupted meanwhile.
    store = pooch.Pooch(root, url, registry={archive: None})
    path = root / archive
    for last in (False, True):
        try:
            store.fetch(archive, downloader=partial(resume, label=label))
            digest = pooch.file_hash(str(path))
            if expected not in (None, digest):
                raise DamagedError(f"its SHA-256 is {digest}, {by} says {expected}")
            unpack(path, _folder(root, archive))
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
    """Say what will come, and refuse what the disk cannot hold."""
    to_fetch = unpacked = taken = most = 0.0
    for archive in progress(archives, len(archives), "sizes"):
        held = _held(root / archive)
        size = held or _patiently(url + archive, partial(_size, url + archive))
        rest = size - (held or _held(root / f"{archive}.part"))
        to_fetch += rest
        unpacked += size * source.expansion
        taken += rest + size * source.expansion
        most = max(most, taken)  # while both the archive and its folder are there
        taken -= 0 if keep else size
    what = f"{len(archives)} archive(s), {decimal(int(to_fetch))} to fetch"
    log.info("%s, about %s unpacked in %s", what, decimal(int(unpacked)), root)
    _check_space(root, most, f"{what} and to unpack")


def download(
    source: Source,
    archives: Sequence[str],
    root: Path,
    url: str,
    given: Mapping[str, str],
    keep: bool,
) -> None:
    """Bring `archives` into `root` as folders; those that are there whole are left alone.

    Args:
        url: folder of the archives, ending in "/".
        given, keep: see `obtain`.

    Raises:
        UserError: too little space, a server that fails, a damaged archive, a folder that cannot be
            written.
    """
    make_folder(root)
    missing = [archive for archive in archives if not is_whole(_folder(root, archive))]
    if len(missing) < len(archives):
        log.info("%d of %d in %s already", len(archives) - len(missing), len(archives), root)
    pooch.get_logger().setLevel(logging.ERROR)  # we say ourselves what happens
    try:
        if missing:
            _announce(source, missing, root, url, keep)
        for number, archive in enumerate(missing, start=1):
            label = f"{number}/{len(missing)} {archive}"
            obtain(archive, root, url, given, keep, label)
            log.info("%s is in %s", label, _folder(root, archive))
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
    """Command line; returns the exit code."""
    going_on = "interrupted; the same command goes on where it stopped"
    return run_parsed(partial(_command, argv), going_on)
