"""An image whose planes lie in several OME-TIFFs."""

from pathlib import Path

import numpy as np
import tifffile

GREY = np.random.default_rng(0).integers(0, 30_000, (37, 53)).astype(np.uint16)


def page(c: int, z: int = 0, t: int = 0) -> np.ndarray:
    """Pixels that tell the plane."""
    return GREY + np.uint16(1000 * c + 100 * z + 10 * t)


def ome_set(
    folder: Path,
    files: dict[str, list[tuple[int, int, int]]],
    sizes: tuple[int, int, int] = (2, 1, 1),
) -> None:
    """One OME-TIFF a file, each describing all of them, as Bio-Formats and Micro-Manager write them.

    Args:
        files: name -> (c, z, t) of its pages, whose pixels are `page(c, z, t)`.
        sizes: SizeC, SizeZ, SizeT.
    """
    ids = {name: f"urn:uuid:{n:08d}-0000-0000-0000-000000000000" for n, name in enumerate(files)}
    planes = "".join(
        f'<TiffData FirstC="{c}" FirstZ="{z}" FirstT="{t}" IFD="{ifd}" PlaneCount="1">'
        f'<UUID FileName="{name}">{ids[name]}</UUID></TiffData>'
        for name, pages in files.items()
        for ifd, (c, z, t) in enumerate(pages)
    )
    for name, pages in files.items():
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[name]}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" '
            f'SizeX="53" SizeY="37" SizeC="{sizes[0]}" SizeZ="{sizes[1]}" SizeT="{sizes[2]}" '
            f'PhysicalSizeX="0.5"><Channel ID="C:0" Name="one"/><Channel ID="C:1" Name="two"/>{planes}'
            "</Pixels></Image></OME>"
        )
        tifffile.imwrite(
            folder / name, np.stack([page(*at) for at in pages]), description=xml, metadata=None,
            photometric="minisblack",
        )  # fmt: skip
