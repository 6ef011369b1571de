"""Damaged and odd image files, each with what `read_image` must make of it."""

import io
import os
import struct
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

RNG = np.random.default_rng(7)
GREY16 = RNG.integers(1, 60_000, (37, 53)).astype(np.uint16)  # no zero: it stands for "missing"
GREY8 = RNG.integers(1, 256, (37, 53)).astype(np.uint8)
SMOOTH = (np.add.outer(np.arange(37), np.arange(53)) + 1).astype(np.uint8)  # that JPEG can hold
STACK = RNG.integers(1, 60_000, (3, 37, 53)).astype(np.uint16)
COLOUR = RNG.integers(1, 256, (37, 53, 3)).astype(np.uint8)
NOISE = RNG.bytes(200)

# TIFF tags
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
OFFSETS, SAMPLES, ROWS, COUNTS, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = (
    273,
    277,
    278,
    279,
    322,
    323,
    339,
)

ANEW = "copy it anew"
GREY = "export each channel as a single-channel grey image"
DTYPES = "convert them to one of uint8, uint16, int16, uint32, int32, float32"


@dataclass(frozen=True)
class OddFile:
    """One file: `pixels` (C, H, W) if it must be read, else what the refusal must say."""

    path: Path
    pixels: np.ndarray | None
    words: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """How to make one odd file: its name, its bytes or what makes it, and see `OddFile`."""

    name: str
    content: bytes | Callable[[Path], None]
    pixels: np.ndarray | None = None
    words: tuple[str, ...] = ()

    def write(self, folder: Path) -> OddFile:
        path = folder / self.name
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)
        # Whoever runs the tests as root reads what nobody may read.
        return OddFile(path, self.pixels if os.access(path, os.R_OK) else None, self.words)


def write_odd_files(folder: Path) -> list[OddFile]:
    """Write all of them into `folder` (made if need be); no name holds a channel's."""
    folder.mkdir(parents=True, exist_ok=True)
    return [case.write(folder) for case in CASES]


def tiff(array: np.ndarray, **options: Any) -> bytes:
    """TIFF file of `array`; without tifffile's own description unless `metadata` is given."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"metadata": None, **options})
    return file.getvalue()


def pages(*arrays: np.ndarray, **options: Any) -> bytes:
    """TIFF file of several images that make no stack."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for array in arrays:
            writer.write(array, **{"metadata": None, **options})
    return file.getvalue()


def ome(array: np.ndarray = STACK, **options: Any) -> bytes:
    """OME-TIFF file of `array` (C, H, W)."""
    metadata = {"axes": "CYX", "Channel": {"Name": ["one", "two", "three"]}}
    return tiff(array, ome=True, photometric="minisblack", metadata=metadata, **options)


def directory(data: bytes) -> int:
    """Where the first page's tags begin in a little-endian TIFF (not BigTIFF)."""
    return int(struct.unpack_from("<I", data, 4)[0])


def link(data: bytes, page: int = 0) -> int:
    """Where the offset of the page after number `page` stands."""
    at = 4
    for _ in range(page + 1):
        start = struct.unpack_from("<I", data, at)[0]
        at = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    return at


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def retag(data: bytes, code: int, *values: int) -> bytes:
    """Give a tag of the first page other values: one, or as many as it has."""
    start = directory(data)
    for at in range(start + 2, link(data), 12):
        found, kind, count = struct.unpack_from("<HHI", data, at)
        if found == code and len(values) == 1:
            return put(data, at, struct.pack("<HHII", code, 4, 1, values[0]))
        if found == code:
            assert count == len(values)
            new = struct.pack(f"<{count}{'I' if kind == 4 else 'H'}", *values)
            return put(data, struct.unpack_from("<I", data, at + 8)[0], new)
    raise LookupError(f"no tag {code}")


def tag(data: bytes, code: int) -> tuple[int, ...]:
    """Values of a tag of the first page."""
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        value = tif.pages.first.tags[code].value
    return tuple(value) if isinstance(value, tuple) else (value,)


def spoil(data: bytes, new: bytes, strip: int = 0) -> bytes:
    """Overwrite the middle of a strip."""
    offset, count = tag(data, OFFSETS)[strip], tag(data, COUNTS)[strip]
    return put(data, offset + count // 2 - len(new) // 2, new)


def packed(values: np.ndarray, bits: int) -> bytes:
    """TIFF with `bits` bits a pixel; rows (H, W) fill whole bytes."""
    each = (values[..., np.newaxis] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(each.reshape(len(values), -1).astype(np.uint8), axis=1)
    return retag(retag(tiff(rows), WIDTH, values.shape[1]), BITS, bits)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"", adam: int = 0
) -> bytes:
    """PNG file; `rows` are filter bytes and packed pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, adam)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra
        + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    )  # fmt: skip


def interlaced(array: np.ndarray) -> bytes:
    """PNG of an 8-bit image in the seven passes of Adam7 (PNG specification, 8.1)."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # fmt: skip
    parts = [array[row::down, column::right] for row, column, down, right in passes]
    rows = b"".join(b"\0" + line.tobytes() for part in parts for line in part if line.size)
    return png(array.shape[1], array.shape[0], 8, 0, rows, adam=1)


def cut() -> Iterator[Case]:
    """Files that end at each tenth."""
    whole = {
        "plain.tif": tiff(GREY16, rowsperstrip=5),
        "lzw.tif": tiff(GREY16, compression="lzw", rowsperstrip=5),
        "tiled.tif": tiff(GREY16, tile=(16, 16), compression="zlib"),
        "stack.ome.tif": ome(),
        "big.tif": tiff(GREY16, bigtiff=True, compression="lzw"),
        "grey.png": imagecodecs.png_encode(GREY16),
    }
    for name, data in whole.items():
        for tenth in range(1, 10):
            yield Case(f"cut{tenth}_{name}", data[: len(data) * tenth // 10], words=(ANEW,))


def encodings() -> Iterator[Case]:
    """Rare but sound ways to store a grey image."""
    behind = np.ascontiguousarray(np.moveaxis(STACK, 0, -1))
    ramp = np.repeat(np.arange(256, dtype=np.uint16)[np.newaxis] * 257, 3, axis=0)
    few = GREY8[:, :52] >> 4
    for name, data, pixels in (
        ("big_endian.tif", tiff(GREY16, byteorder=">"), GREY16),
        ("big_endian_lzw.tif", tiff(GREY16, byteorder=">", compression="lzw"), GREY16),
        ("bigtiff.tif", tiff(GREY16, bigtiff=True), GREY16),
        ("bigtiff_big_endian.tif", tiff(GREY16, bigtiff=True, byteorder=">"), GREY16),
        ("tiles.tif", tiff(GREY16, tile=(16, 32)), GREY16),
        ("separate.tif", tiff(STACK, photometric="minisblack", planarconfig="separate"), STACK),
        ("contig.tif", tiff(behind, photometric="minisblack", planarconfig="contig"), STACK),
        ("ramp.tif", tiff(GREY8, photometric="palette", colormap=ramp), GREY8),
        # An inverted display table over the measured values; see GREY_PHOTOMETRICS.
        ("white_is_zero.tif", tiff(GREY16, photometric="miniswhite"), GREY16),
        ("float16.tif", tiff(GREY8.astype(np.float16)), GREY8.astype(np.float32)),
        ("float64.tif", tiff(GREY16 / 7), (GREY16 / 7).astype(np.float32)),
        ("bits12.tif", packed(GREY16[:, :52] >> 4, 12), GREY16[:, :52] >> 4),
        ("bits4.tif", packed(few, 4), few),
        ("pages.tif", pages(*STACK), STACK),
        ("thumbnail.tif", pages(GREY16, GREY16[::4, ::4]), GREY16),
        ("pyramid.tif", pyramid(), GREY16),
        ("png_named.tif", imagecodecs.png_encode(GREY8), GREY8),
        ("tiff_named.png", tiff(GREY16), GREY16),
        ("grey16.png", imagecodecs.png_encode(GREY16), GREY16),
        ("one_pixel.tif", tiff(GREY16[:1, :1]), GREY16[:1, :1]),
        ("garbage_behind.tif", tiff(GREY16, compression="lzw") + NOISE, GREY16),
        ("garbage_behind.png", imagecodecs.png_encode(GREY8) + NOISE, GREY8),
        ("imagej_empty.tif", tiff(GREY16, description="ImageJ=\n"), GREY16),
        ("imagej_nonsense.tif", tiff(GREY16, description="ImageJ=1\nslices=-3\n"), GREY16),
        ("shape_nonsense.tif", tiff(GREY16, description='{"shape": [5, 3]}'), GREY16),
    ):  # fmt: skip
        yield Case(name, data, pixels if pixels.ndim == 3 else pixels[np.newaxis])


def pyramid() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY16, subifds=2, tile=(16, 16))
        writer.write(GREY16[::2, ::2], subfiletype=1, tile=(16, 16))
        writer.write(GREY16[::4, ::4], subfiletype=1, tile=(16, 16))
    return file.getvalue()


def names() -> Iterator[Case]:
    """Sound and damaged files under names that a shell, a CSV or a terminal stumbles over."""
    arrays = {
        "with  two spaces": GREY16,
        "a,b;c": GREY8,
        "'single' \"double\"": GREY16,
        unicodedata.normalize("NFC", "Zellkern für Élise"): GREY8,
        unicodedata.normalize("NFD", "Zytoplasma für Élise"): GREY8,
        "核_🔬": GREY16,
        "-rf": GREY8,
        "[0-9]*?{x}%s$HOME": GREY8,
        "<b>&amp;": GREY8,
        "long" * 61: GREY16,  # 250 bytes with the rest, of the 255 that file systems allow
    }
    for stem, array in arrays.items():
        yield Case(f"{stem}.tif", tiff(array), array[np.newaxis])
        yield Case(f"{stem}_x.tif", tiff(array)[:-9], words=("truncated", ANEW))
    stems = ["two\nlines"]
    if sys.platform == "linux":  # others have Unicode names alone
        stems.append(os.fsdecode("latin-1_é".encode("latin-1")))
    for stem in stems:
        yield Case(f"{stem}.tif", tiff(GREY8), GREY8[np.newaxis])
        yield Case(f"{stem}_x.tif", tiff(GREY8)[:-9], words=("truncated", ANEW))
    yield Case("SHOUTING.TIF", tiff(GREY8), GREY8[np.newaxis])
    yield Case("..dots..tif.tif", tiff(GREY8), GREY8[np.newaxis])


def no_images() -> Iterator[Case]:
    """What is named like an image and is none."""
    for suffix in (".tif", ".tiff", ".ome.tif", ".png"):
        yield Case(f"text{suffix}", b"well,site\nA01,1\n", words=("neither TIFF nor PNG", "export"))
        yield Case(f"empty{suffix}", b"", words=("empty", "0 bytes", ANEW))
    jpeg = imagecodecs.jpeg_encode(SMOOTH)
    yield Case("jpeg.tif", jpeg, words=("JPEG", "export it anew"))
    yield Case("jpeg.png", jpeg, words=("JPEG", "export it anew"))
    yield Case("noise.tif", b"\x07" + NOISE, words=("neither TIFF nor PNG",))
    yield Case("zeros.tif", bytes(5000), words=("neither TIFF nor PNG",))
    yield Case("header.tif", b"II*\0", words=(ANEW,))
    yield Case("zeros_behind_header.tif", b"II*\0" + bytes(5000), words=("without images",))
    yield Case("folder.tif", Path.mkdir, words=("folder", "rename it"))
    yield Case("pipe.tif", os.mkfifo, words=("pipe", "rename it"))
    yield Case("lost.tif", lambda p: p.symlink_to("nowhere"), words=("No such file", "check path"))
    yield Case("ring.tif", lambda p: p.symlink_to(p.name), words=("symbolic links", "check path"))
    yield Case("locked.tif", lock, GREY16[np.newaxis], ("Permission denied", "rights"))


def lock(path: Path) -> None:
    path.write_bytes(tiff(GREY16))
    path.chmod(0)


def wrong_kinds() -> Iterator[Case]:
    """Sound files that are no grey image of a dtype that we know."""
    table = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    alpha = np.dstack([COLOUR, COLOUR[..., :1]])
    for name, data, word in (
        ("rgb.tif", tiff(COLOUR, photometric="rgb"), "RGB"),
        ("rgb_planar.tif", tiff(np.moveaxis(COLOUR, -1, 0), photometric="rgb"), "RGB"),
        ("rgba.tif", tiff(alpha, photometric="rgb"), "transparency"),
        ("ycbcr.tif", tiff(COLOUR, photometric="ycbcr", compression="jpeg"), "RGB"),
        ("cmyk.tif", tiff(alpha, photometric="separated"), "SEPARATED"),
        ("palette.tif", tiff(GREY8, photometric="palette", colormap=table), "PALETTE"),
        ("photometric.tif", retag(tiff(GREY8), PHOTOMETRIC, 999), "999"),
        ("rgb.png", imagecodecs.png_encode(COLOUR), "RGB"),
        ("rgba.png", imagecodecs.png_encode(alpha), "transparency"),
        ("palette.png", png(2, 1, 8, 3, b"\0\0\1", png_chunk(b"PLTE", bytes(range(6)))), "RGB"),
        ("grey_alpha.png", png(2, 1, 8, 4, b"\0\5\6\7\1"), "transparency"),
    ):
        remedy = {"RGB": "data.channels=", "transparency": "save it without"}.get(word, GREY)
        yield Case(name, data, words=(word, "is expected", remedy))
    yield Case(
        "transparent.png",
        png(2, 1, 8, 0, b"\0\5\6", png_chunk(b"tRNS", b"\0\5")),
        words=("transparency", "save it without"),
    )
    yield Case("interlaced.png", interlaced(GREY8), words=("interlaced", "save it without"))
    for bits in (1, 2, 4):
        yield Case(f"bits{bits}.png", png(8, 1, bits, 0, b"\0" + b"\x55" * bits), words=(f"{bits}-bit", "8 or 16 bit"))  # fmt: skip
    for dtype in ("int8", "int64", "uint64", "complex64", "bool"):
        yield Case(f"{dtype}.tif", tiff((GREY8 > 99).astype(dtype)), words=(dtype, DTYPES))
    yield Case("bits200.tif", retag(tiff(GREY8), BITS, 200), words=("200 bits", DTYPES))
    signed = tiff(GREY16.astype(np.int16))
    yield Case("sample_format.tif", retag(signed, SAMPLE_FORMAT, 9), words=("sample format 9", DTYPES))  # fmt: skip
    for value in (np.nan, np.inf, -np.inf):
        holed = GREY16.astype(np.float32)
        holed[3, 4] = holed[30, 40] = value
        yield Case(f"{value}.tif", tiff(holed), words=("2 pixels are NaN or infinite", "replace"))
    yield Case("beyond_float32.tif", tiff(np.full((4, 5), 1e300)), words=("20 pixels", "replace"))
    yield Case("no_rows.tif", retag(tiff(GREY16), LENGTH, 0), words=("no pixels", "leave it out"))
    yield Case("no_columns.tif", retag(tiff(GREY16), WIDTH, 0), words=("no pixels", "leave it out"))
    yield Case("two.tif", pages(GREY16, GREY16 + 1, metadata={}), words=("holds 2 images", "channels as one stack"))  # fmt: skip
    sizes = pages(GREY16[::2, ::2], GREY16, GREY16[:20])
    yield Case("three_sizes.tif", sizes, words=("holds 3 images", "a file of its own"))
    four = np.ones((2, 3, 8, 9), np.uint16)
    yield Case("four_axes.tif", tiff(four, imagej=True, metadata={"axes": "TZYX"}), words=("axes TZYX", "split time points"))  # fmt: skip


def broken_structure() -> Iterator[Case]:
    """Headers, page chains, strips and metadata that do not fit the file."""
    plain = tiff(GREY16, rowsperstrip=5)
    single, lzw = tiff(GREY16), tiff(GREY16, compression="lzw")
    tiles = tiff(GREY16, tile=(16, 16), compression="zlib")
    two = pages(GREY16, GREY16 + 1)
    jpeg = tiff(SMOOTH, compression="jpeg")
    counts, offsets = tag(plain, COUNTS), tag(plain, OFFSETS)
    strips = len(counts)
    beyond = struct.pack("<I", 2**31)
    start = struct.pack("<I", directory(plain))
    half = tag(lzw, COUNTS)[0] // 2
    for name, data, *words in (
        ("order_swapped.tif", put(plain, 0, b"MM"), "neither TIFF nor PNG"),
        ("header_swapped.tif", put(plain, 0, b"MM\0*"), "truncated", ANEW),
        ("first_page_beyond.tif", put(plain, 4, beyond), "truncated", "only 0 can be read"),
        ("first_page_in_pixels.tif", put(plain, 4, struct.pack("<I", offsets[3])), ANEW),
        ("next_page_beyond.tif", put(plain, link(plain), beyond), "truncated", "only 1 can be read"),
        ("next_page_itself.tif", put(plain, link(plain), start), "page 1 is followed by page 1"),
        ("last_page_first.tif", put(two, link(two, 1), struct.pack("<I", directory(two))),
         "page 2 is followed by page 1", ANEW),
        ("no_tags.tif", put(plain, directory(plain), b"\0\0"), ANEW),
        ("many_tags.tif", put(plain, directory(plain), b"\xff\xff"), ANEW),
        ("rows_2e31.tif", retag(single, LENGTH, 2**31), "1 are there", ANEW),
        ("rows_2e31_strip.tif", retag(retag(single, LENGTH, 2**31), ROWS, 2**31), "need 227633266688"),
        ("rows_2e31_lzw.tif", retag(retag(lzw, LENGTH, 2**31), ROWS, 2**31), "promises 227,633,266,688"),
        ("rows_2e31_tiles.tif", retag(tiles, LENGTH, 2**31), "are there", ANEW),
        ("tile_columns_2e31.tif", retag(tiles, TILE_WIDTH, 2**31 - 16), ANEW),
        ("tile_rows_2e31.tif", retag(retag(tiles, LENGTH, 9), TILE_LENGTH, 2**31 - 16), "promises", ANEW),
        ("columns_2e31.tif", retag(single, WIDTH, 2**31), "need", ANEW),
        ("columns_2e31_lzw.tif", retag(lzw, WIDTH, 2**31), "promises", ANEW),
        ("both_2e31.tif", retag(retag(lzw, WIDTH, 2**31), LENGTH, 2**31), ANEW),
        ("more_rows.tif", retag(retag(single, LENGTH, 40), ROWS, 40), "need 4240", ANEW),
        ("more_rows_lzw.tif", retag(retag(lzw, LENGTH, 40), ROWS, 40), "cannot be read", ANEW),
        ("no_rows_in_strip.tif", retag(plain, ROWS, 0), ANEW),
        ("three_samples.tif", retag(single, SAMPLES, 3), "need 11766", ANEW),
        ("three_samples_lzw.tif", retag(lzw, SAMPLES, 3), ANEW),
        ("samples_65535.tif", retag(lzw, SAMPLES, 65535), ANEW),
        ("counts_beyond.tif", retag(single, COUNTS, 10**6), "truncated", ANEW),
        ("counts_zero.tif", retag(plain, COUNTS, *[0] * strips), "of page 1 0 are there", ANEW),
        ("count_zero.tif", retag(plain, COUNTS, *counts[:-1], 0), f"{strips - 1} are there", ANEW),
        ("count_small.tif", retag(plain, COUNTS, *counts[:-1], 9), "bytes of pixels", ANEW),
        ("count_missing.tif", retag(plain, COUNTS, counts[0]), "of the 8 strips", "1 are there"),
        ("offset_zero.tif", retag(plain, OFFSETS, *offsets[:-1], 0), f"{strips - 1} are there"),
        ("offset_beyond.tif", retag(plain, OFFSETS, *offsets[:-1], 2**20), "truncated"),
        ("count_small_lzw.tif", retag(lzw, COUNTS, half), "cannot be read", ANEW),
        ("count_small_jpeg.tif", retag(jpeg, COUNTS, tag(jpeg, COUNTS)[0] // 2), "lacks its end"),
        ("zeros_in_jpeg.tif", jpeg[:-40] + bytes(40), "lacks its end", ANEW),
        ("no_compression.tif", retag(plain, COMPRESSION, 50_999), "method 50999", "save it with LZW"),
        ("compression_wrong.tif", retag(lzw, COMPRESSION, 8), "cannot be read", ANEW),
        ("imagej_planes.tif", tiff(GREY16, description="ImageJ=1.5\nimages=1000000\nslices=1000000\n"),
         "state 1000000 images", ANEW),
        ("shape_huge.tif", tiff(GREY16, description='{"shape": [1000000, 37, 53]}'), "promises", ANEW),
        ("imagej_words.tif", tiff(GREY16, description="ImageJ=1.5\nimages=many\n"), ANEW),
        ("xml_damaged.ome.tif", ome().replace(b"<Pixels", b"<Pixel>"), ANEW),
        ("xml_size.ome.tif", ome().replace(b'SizeC="3"', b'SizeC="z"'), ANEW),
    ):  # fmt: skip
        yield Case(name, data, words=tuple(words))
    # Wrong metadata beside sound pages: the pages count.
    for count in (b"2", b"5", b"0"):
        yield Case(f"xml_{count.decode()}.ome.tif", ome().replace(b'SizeC="3"', b'SizeC="%s"' % count), STACK)  # fmt: skip
    xml = tifffile.tiffcomment(io.BytesIO(ome())).replace('SizeC="3"', 'SizeC="999999999"')
    stack = pages(*STACK, description=xml)
    yield Case("xml_huge.ome.tif", stack, STACK)
    yield Case("xml_open.ome.tif", ome().replace(b"</OME>", b"</OMX "), STACK)
    yield Case("no_samples.tif", retag(single, SAMPLES, 0), GREY16[np.newaxis])
    # More bytes than the strip needs, all of them there.
    longer = retag(single, COUNTS, tag(single, COUNTS)[0] + 100) + bytes(100)
    yield Case("count_large.tif", longer, GREY16[np.newaxis])
    longer = retag(lzw, COUNTS, tag(lzw, COUNTS)[0] + 100) + NOISE
    yield Case("count_large_lzw.tif", longer, GREY16[np.newaxis])


def broken_pixels() -> Iterator[Case]:
    """Compressed pixels that no longer decode."""
    noise = b"\xff" * 4 + NOISE[:60]
    for method in ("lzw", "zlib", "deflate", "lzma", "jpegxl", "packbits"):
        data = tiff(GREY8, compression=method, rowsperstrip=9)
        yield Case(f"noise_{method}.tif", spoil(data, noise, 2), words=("cannot be read", ANEW))
        yield Case(f"zeros_{method}.tif", spoil(data, bytes(80), 2), words=("cannot be read", ANEW))
    tiles = tiff(GREY16, tile=(16, 16), compression="zlib")
    yield Case("noise_tiles.tif", put(tiles, len(tiles) - 300, noise), words=(ANEW,))
    jpeg = tiff(SMOOTH, compression="jpeg")
    offset = tag(jpeg, OFFSETS)[0]
    yield Case("noise_jpeg.tif", put(jpeg, offset, noise), words=("cannot be read", ANEW))
    zstd = tiff(GREY16, compression="zstd")
    yield Case("noise_zstd.tif", put(zstd, tag(zstd, OFFSETS)[0], noise), words=(ANEW,))
    whole = imagecodecs.png_encode(GREY16)
    middle = len(whole) // 2
    yield Case("noise.png", put(whole, middle, noise), words=("wrong checksum", ANEW))
    yield Case(
        "checksum.png", put(whole, len(whole) - 16, b"\0\0\0\0"), words=("wrong checksum", ANEW)
    )
    yield Case("header_checksum.png", put(whole, 29, b"\0\0\0\0"), words=("wrong checksum", ANEW))
    yield Case("no_end.png", whole[:-12], words=("truncated", ANEW))
    yield Case("huge.png", png(2**30, 2**30, 16, 0, b"\0"), words=("promises", ANEW))
    yield Case("no_columns.png", png(0, 5, 8, 0, b"\0"), words=("no pixels", "leave it out"))
    yield Case("few_rows.png", png(3, 9, 8, 0, b"\0abc" * 4), words=("cannot be read", ANEW))


CASES = [
    case
    for group in (cut, encodings, names, no_images, wrong_kinds, broken_structure, broken_pixels)
    for case in group()
]
