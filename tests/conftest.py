"""Tiny specimens of every data set's layout, and workers that run commands side by side."""

import os
import signal
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from vfn.system.signals import TERMINATING

HEIGHT, WIDTH = 70, 91  # odd on purpose: no multiple of a tile, of a stride, or of each other
CPS_WELLS = {"20585": ("A01", "A02"), "20586": ("B01", "B02"), "20592": ("C01",)}
AF_WELLS = ("a01", "a02", "b07")
AF_FOLDERS = (11, 12, 13, 14, 16, 18, 19, 20, 21)  # -10 to 10 um, 2 um each; z_16 is in focus

# In the background of a script Ctrl-C is ignored, and the commands that the tests start inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    """Give signals their handlers back: the commands that later tests start inherit what is ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATING)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make_image(seed: int, dtype: str, blur: float = 3.0) -> np.ndarray:
    """Smooth blobs (H, W) that fill an eighth to a half of the range of `dtype`."""
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH))
    smooth = gaussian_filter(noise, blur)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return ((0.125 + 0.375 * smooth) * np.iinfo(dtype).max).astype(dtype)


def write(path: Path, image: np.ndarray, compression: str | None = "lzw") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, compression=compression)


def _uuid(seed: int) -> str:
    return str(uuid.UUID(int=seed * 0x9E3779B97F4A7C15 % 2**128)).upper()


def write_cps(root: Path) -> None:
    """BBBC022's names: a folder a plate and channel, another identifier in every file."""
    seed = 0
    for plate, wells in CPS_WELLS.items():
        for well in wells:
            for channel in range(1, 6):
                seed += 1
                folder = root / f"BBBC022_v1_images_{plate}w{channel}"
                name = f"IXMtest_{well}_s1_w{channel}{_uuid(seed)}.tif"
                write(folder / name, make_image(seed, "uint16"))


def write_af(root: Path) -> None:
    """BBBC006's names: a folder a plane."""
    for number, well in enumerate(AF_WELLS):
        for folder in AF_FOLDERS:
            for channel in (1, 2):
                seed = 10 * number + channel
                blur = 2 + abs(folder - 16) / 2
                name = (
                    f"mcf-z-stacks-03212011_{well}_s1_w{channel}{_uuid(seed + folder).lower()}.tif"
                )
                write(
                    root / f"BBBC006_v1_images_z_{folder}" / name,
                    make_image(seed, "uint16", blur),
                )


def write_tokens(
    root: Path, channels: Sequence[str], fields: int, dtype: str, suffix: str = ".tif"
) -> None:
    """Names that hold the channel: `f01_phase.tif`."""
    for field in range(1, fields + 1):
        for number, channel in enumerate(channels):
            image = make_image(100 * field + number, dtype)
            write(root / f"f{field:02d}_{channel}{suffix}", image)


def write_zarr_image(
    path: Path,
    array: np.ndarray,
    axes: str,
    names: Sequence[str],
    version: str = "0.5",
    scale: Mapping[str, float] | None = None,
    unit: str | None = "micrometer",
) -> None:
    """An OME-Zarr image as ome-zarr writes it, with two smaller levels."""
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import add_metadata, write_image

    steps = {"y": 0.65, "x": 0.65, **(scale or {})}
    ngff = {"0.4": FormatV04, "0.5": FormatV05}[version]()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(
        array, str(path), [2, 4], fmt=ngff, axes=axes, scale={a: steps.get(a, 1.0) for a in axes},
        axes_units={a: unit for a in axes if a in "zyx" and unit},
    )  # fmt: skip
    if names:
        add_metadata(str(path), {"omero": {"channels": [{"label": n} for n in names]}}, ngff)


def write_zarr_plate(
    path: Path, wells: Mapping[str, int], names: Sequence[str], version: str = "0.5"
) -> dict[tuple[str, int], np.ndarray]:
    """An OME-Zarr plate of odd fields: wells ("A/1") and how many fields each has.

    Returns:
        Pixels (C, H, W) by (well, field).
    """
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_plate_metadata, write_well_metadata

    ngff = {"0.4": FormatV04, "0.5": FormatV05}[version]()
    truth = {}
    for well, count in wells.items():
        for site in range(count):
            seeds = range(100 * len(truth), 100 * len(truth) + len(names))
            truth[well, site] = np.stack([make_image(seed, "uint16") for seed in seeds])
            write_zarr_image(path / well / str(site), truth[well, site], "cyx", names, version)
        write_well_metadata(str(path / well), [str(site) for site in range(count)], ngff)
    rows, columns = ([*dict.fromkeys(w.split("/")[i] for w in wells)] for i in (0, 1))
    write_plate_metadata(str(path), rows, columns, list(wells), ngff)
    return truth


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stores of decoded images go away with the tests; commands inherit the variable."""
    os.environ["VFN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data set -> its folder."""
    base = tmp_path_factory.mktemp("data")
    write_cps(base / "u2os_cps")
    write_af(base / "u2os_af")
    write_tokens(base / "mda_mb_231", ("phase", "dapi", "actin", "vinculin"), 4, "uint8")
    write_tokens(base / "folder", ("phase", "dapi", "Cy5", "tubulin"), 4, "uint16")
    return {path.name: path for path in base.iterdir()}


@pytest.fixture(scope="session")
def workers() -> Iterator[ThreadPoolExecutor]:
    """Two commands at a time, one for each core of the smallest machine that we think of."""
    pool = ThreadPoolExecutor(2)
    yield pool
    pool.shutdown(cancel_futures=True)
