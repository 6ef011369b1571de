"""The archives of the public data sets: where they are, and which ones a command line asks for."""

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfn.cli.entry import known_tasks
from vfn.commands.download.unpack import MARKER, folder_of
from vfn.errors import UserError

PLANES = range(34)  # of BBBC006
# Of BBBC022: the twenty that the Broad Institute's notes on its back-up of this data set list
# (github.com/broadinstitute/imaging-backup-scripts, "Create a list of plates").
PLATES = (
    20585, 20586, 20589, 20590, 20591, 20592, 20593, 20594, 20595, 20596,
    20607, 20608, 20625, 20626, 20630, 20633, 20639, 20640, 20641, 20646,
)  # fmt: skip
CHANNELS = range(1, 6)  # of BBBC022


@dataclass(frozen=True)
class Source:
    """The source of a data set.

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


def af_archive(plane: int) -> str:
    """Return the name of the archive of one plane of BBBC006."""
    return f"BBBC006_v1_images_z_{plane:02d}.zip"


def cps_archive(plate: int, channel: int) -> str:
    """Return the name of the archive of one channel of one plate of BBBC022."""
    return f"BBBC022_v1_images_{plate}w{channel}.zip"


def choose(
    option: str, text: str, known: Sequence[int], names: Mapping[str, int] | None = None
) -> list[int]:
    """Return the numbers of `known` that `text` names, in the order of `known`.

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
            several = f"{known[0]}-{known[-1]}" if isinstance(known, range) else None
            offer = several or ", ".join(map(str, known))
            raise UserError(
                f"{option} {text}: {part!r} is unknown; give all, or, separated by commas, numbers and ranges "
                f"of {', '.join([offer, *(names or ())])}"
            )
        chosen |= {n for n in known if first <= n <= last}
    return [n for n in known if n in chosen]


# The data sets import torch, which a mistyped option need not wait for.


def depth_of(plane: int) -> float:
    """Return the depth of a plane of BBBC006, um from focus."""
    from vfn.data.sets import U2OSAF

    return (plane - U2OSAF.Z_ZERO) * U2OSAF.Z_STEP


def channel_numbers() -> dict[str, int]:
    """Return the number of each channel of BBBC022."""
    from vfn.data.sets import U2OSCPS

    return {name: int(token) for name, token in U2OSCPS.CHANNELS.items()}


def refocus_depths() -> set[float]:
    """Return the depths of the inputs of `task=refocus`, um."""
    return {z for task in known_tasks() if task.name == "refocus" for z in task.input_z}


def chosen_archives(args: argparse.Namespace) -> list[str]:
    """Return the names of the archives that the command line asks for.

    Raises:
        UserError: see `choose`.
    """
    if args.data == "u2os_af":
        if args.planes is None:
            wanted = {0.0, *refocus_depths()}
            return [af_archive(n) for n in PLANES if depth_of(n) in wanted]
        return [af_archive(n) for n in choose("--planes", args.planes, PLANES)]
    plates = choose("--plates", args.plates, PLATES)
    channels = choose("--channels", args.channels, CHANNELS, channel_numbers())
    return [cps_archive(plate, channel) for plate in plates for channel in channels]


def next_step(data: str, root: Path) -> str:
    """Return the training command for the archives in `root`, or which are missing."""

    def there(archive: str) -> bool:
        return (folder_of(root, archive) / MARKER).exists()

    command = f"next: python train.py data={data} data.root={shlex.quote(str(root))}"
    if data == "u2os_af":
        depths = {depth_of(n) for n in PLANES if there(af_archive(n))}
        others = sorted(depths - {0.0})
        if depths == set(others) or not others:
            return "training needs the focal plane, 16, and others: fetch them by --planes"
        if depths & refocus_depths():
            return f"{command} task=refocus"
        planes = ", ".join(f"{z:g}" for z in others)
        return f"{command} task=refocus 'task.input_z=[{planes}]'"
    channels = {
        name
        for name, number in channel_numbers().items()
        if any(there(cps_archive(plate, number)) for plate in PLATES)
    }
    fitting = [task.name for task in known_tasks() if set(task.channels) <= channels]
    if not fitting:
        return f"no task does with {', '.join(sorted(channels))}: fetch more by --channels"
    return f"{command} task={fitting[0]}"
