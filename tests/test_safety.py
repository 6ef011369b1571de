"""Files from strangers: they run no code, take no more than they hold, write nowhere else."""

import io
import json
import math
import os
import pickle
import random
import resource
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

import vfn
from tests.cli import run
from tests.conftest import HEIGHT, WIDTH, make_image, write, write_tokens, write_zarr_image
from vfn.commands.download.unpack import DamagedError, unpack
from vfn.data import images
from vfn.data.discovery.layout import Layout
from vfn.data.formats import scenes
from vfn.data.images import check_promise, read_image
from vfn.errors import UserError
from vfn.models.card import card_of
from vfn.models.checkpoint import load_checkpoint
from vfn.models.checkpoint_io import AtomicCheckpointIO
from vfn.models.gan import VirtualStain
from vfn.models.nets import make_generator, with_weights
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE, check_recipe
from vfn.system.dotted import refuse_code

TINY = [
    "data=simulated", "data.fields=4", f"data.height={HEIGHT}", f"data.width={WIDTH}",
    "data.patch_size=64", "data.batch_size=2", "data.patches_per_epoch=4", "trainer.max_epochs=1",
    "model.generator.width=4", "model.generator.max_width=8", "loss=mae", "trainer=cpu", "logger=csv",
]  # fmt: skip
BEST, LAST = "outputs/good/checkpoints/best.ckpt", "outputs/good/checkpoints/last.ckpt"


class Malice:
    """Pickles to a call that leaves a folder behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained, calibrated model."""
    folder = tmp_path_factory.mktemp("good")
    run("train.py", *TINY, "run=good", cwd=folder).ok()
    run("vfn.calibrate", f"ckpt={BEST}", "steps=2", cwd=folder).ok()
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """Sound images and a sound run, to be spoiled."""
    write_tokens(tmp_path / "images", ("phase", "dapi"), 1, "uint16")
    for name in (BEST, LAST, "outputs/good/config.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((good / name).read_bytes())
    return tmp_path


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below `folder`: files with time and checksum."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, zlib.crc32(path.read_bytes()))
        if path.is_file()
        else (0, 0)
        for path in folder.rglob("*")
    }


def changed(path: Path, *, recipe: Callable[[dict[str, Any]], Any], to: Path) -> Path:
    """A checkpoint with another recipe."""
    raw = torch.load(path, weights_only=True)
    recipe(raw[RECIPE])
    torch.save(raw, to)
    return to


def stuffed(path: Path, malice: Malice) -> dict[str, Any]:
    """A sound checkpoint with something in it that is called when it is unpickled."""
    raw: dict[str, Any] = torch.load(path, weights_only=True)
    raw["hyper_parameters"] = malice
    return raw


COMMANDS = {
    "predict": ("predict.py", f"ckpt={BEST}", "input=images", "output=out"),
    "evaluate": ("evaluate.py", f"ckpt={BEST}", "output=out"),
    "conditions": ("evaluate.py", f"ckpt={BEST}", "output=out", "data2.root=images"),
    "calibrate": ("vfn.calibrate", f"ckpt={BEST}"),
    "export": ("vfn.export", f"ckpt={BEST}", "output=out"),
    "info": ("vfn.info", BEST),
    "focus": ("vfn.focus", f"ckpt={BEST}", "input=images", "output=out"),
    "init": ("train.py", *TINY, f"init={BEST}", "run=new"),
    "refocus": ("train.py", *TINY, f"data.refocus={BEST}", "run=new"),
    "resume": ("train.py", "resume=outputs/good", "trainer.max_epochs=2"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_the_code_in_a_checkpoint(folder: Path, command: str) -> None:
    name = LAST if command == "resume" else BEST
    torch.save(stuffed(folder / name, Malice(folder / "owned")), folder / name)
    before = contents(folder)
    run(*COMMANDS[command], cwd=folder).refused(name, "is no checkpoint, or a damaged one")
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["archive", "legacy", "pickle"])
def test_no_format_of_torch_runs_code(folder: Path, kind: str) -> None:
    path, malice = folder / BEST, Malice(folder / "owned")
    raw = stuffed(path, malice)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(raw))
    else:
        torch.save(raw, path, _use_new_zipfile_serialization=kind == "archive")
    for load in (load_checkpoint, read_raw, vfn.load, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(UserError, match="is no checkpoint, or a damaged one"):
            load(path)
    # Whoever asks Lightning's own way for more than data gets no more.
    with pytest.raises(UserError, match="is no checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not (folder / "owned").exists()
    with suppress(RuntimeError):  # a bare pickle is no file of torch, but it was unpickled by then
        torch.load(path, weights_only=False)  # it is the real thing
    assert (folder / "owned").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_a_target_from_a_checkpoint(folder: Path, command: str) -> None:
    name = LAST if command == "resume" else BEST
    target = {"_target_": "os.system", "command": "touch owned"}
    changed(folder / name, recipe=lambda r: r["generator"].update(extra=[target]), to=folder / name)
    before = contents(folder)
    run(*COMMANDS[command], cwd=folder).refused(name, "_target_: os.system", "do not trust it")
    assert contents(folder) == before


@pytest.fixture
def own(folder: Path) -> Path:
    """A checkpoint whose generator is the user's own; importing its module leaves a file behind."""
    (folder / "strange.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nPath('owned').touch()\n"
        "class Net(nn.Conv2d):\n"
        "    def __init__(self, in_channels, out_channels):\n"
        "        super().__init__(in_channels, out_channels, 1)\n"
        "def not_a_network(in_channels, out_channels):\n    return in_channels\n"
    )
    keys = [key for key in TINY if not key.startswith("model.")]
    # Without a seed of its own a resumed run asks its checkpoint for one.
    keys += ["model=own", "model.generator._target_=strange.Net", "run=own", "seed=null"]
    run("train.py", *keys, cwd=folder).ok()
    (folder / "owned").unlink()
    return folder / "outputs/own"


OWN = "outputs/own/checkpoints/best.ckpt"
NAMED = {
    "predict": ("predict.py", f"ckpt={OWN}", "input=images", "output=out"),
    "evaluate": ("evaluate.py", f"ckpt={OWN}", "output=out"),
    "calibrate": ("vfn.calibrate", f"ckpt={OWN}", "steps=2"),
    "export": ("vfn.export", f"ckpt={OWN}", "output=out", "format=torch"),
    "resume": ("train.py", "resume=outputs/own", "trainer.max_epochs=2"),
}


def test_a_network_of_ones_own_is_loaded_when_it_is_named_again(own: Path) -> None:
    folder = own.parent.parent
    for name, words in NAMED.items():
        before = contents(folder)
        run(*words, cwd=folder).refused("_target_: strange.Net", "add trust=strange.Net")
        assert contents(folder) == before, name
    # The card is printed without it.
    assert "strange.Net" in run("vfn.info", OWN, cwd=folder).ok().out
    for other in (None, "strange", "strange.Other", "Net", ["os.system"]):
        with pytest.raises(UserError, match=r"add trust=strange\.Net"):
            vfn.load(folder / OWN, trust=other)
        with pytest.raises(UserError, match=r"add trust=strange\.Net"):
            VirtualStain.load_from_checkpoint(folder / OWN, trust=other)
    assert not (folder / "owned").exists()
    for words in NAMED.values():
        run(*words, "trust=strange.Net", cwd=folder).ok()
    assert (folder / "owned").exists()


@pytest.mark.parametrize(
    "target",
    [
        "vfn.system.files.write_text", "vfn.models.nets.make_generator", "vfn.models.nets.unet.nn.Module",
        "vfn.models.nets.generator.Generator", "vfn.models.nets.discriminator.PatchGAN", ["os.system"], 3,
    ],
)  # fmt: skip
def test_a_name_of_ours_that_is_no_generator_is_refused(folder: Path, target: Any) -> None:
    changed(
        folder / BEST, recipe=lambda r: r["generator"].update(_target_=target), to=folder / BEST
    )
    with pytest.raises(UserError, match=r"trust=|unknown"):
        load_checkpoint(folder / BEST)


def test_a_generator_of_ours_may_be_named_by_its_path(folder: Path) -> None:
    def named(recipe: dict[str, Any]) -> None:
        del recipe["generator"]["name"]
        recipe["generator"]["_target_"] = "vfn.models.nets.unet.UNetGenerator"

    changed(folder / BEST, recipe=named, to=folder / "named.ckpt")
    assert (
        load_checkpoint(folder / "named.ckpt").identity == load_checkpoint(folder / BEST).identity
    )
    wide = lambda r: (named(r), r["generator"].update(width=10**9))  # noqa: E731
    changed(folder / BEST, recipe=wide, to=folder / "wide.ckpt")
    with pytest.raises(UserError, match="give 1 to"):
        load_checkpoint(folder / "wide.ckpt")
    # Nothing is instantiated within the options of ours.
    inner = lambda r: (named(r), r["generator"].update(depth={"_target_": "os.getpid"}))  # noqa: E731
    changed(folder / BEST, recipe=inner, to=folder / "inner.ckpt")
    with pytest.raises(UserError, match=r"_target_: os\.getpid"):
        load_checkpoint(folder / "inner.ckpt", trust=["strange.Net"])


def test_a_trusted_name_must_make_a_network(own: Path) -> None:
    folder = own.parent.parent
    spec = {"_target_": "strange.not_a_network"}
    changed(folder / OWN, recipe=lambda r: r.update(generator=spec), to=folder / OWN)
    run(*NAMED["predict"], "trust=strange.not_a_network", cwd=folder).refused(
        "not a torch.nn.Module"
    )


def test_a_loss_of_a_strangers_checkpoint_is_not_imported(folder: Path) -> None:
    terms = {"strange.loss": 0.5}
    changed(folder / BEST, recipe=lambda r: r["loss"].update(terms=terms), to=folder / BEST)
    assert load_checkpoint(folder / BEST).task.inputs == ("phase",)  # none is needed to predict
    with pytest.raises(UserError, match=r"_target_: strange\.loss"):
        VirtualStain.load_from_checkpoint(folder / BEST)


def test_a_loss_of_a_strangers_run_folder_is_not_imported(folder: Path) -> None:
    stored = folder / "outputs/good/config.yaml"
    stored.write_text(stored.read_text().replace("terms: null", "terms: {strange: {loss: 0.5}}"))
    before = contents(folder)
    run(*COMMANDS["resume"], cwd=folder).refused(
        "config.yaml", "strange.loss", "trust=strange.loss"
    )
    assert contents(folder) == before


def test_what_a_file_says_reaches_no_terminal_as_a_command() -> None:
    with pytest.raises(UserError) as caught:
        refuse_code({"_target_": "\x1b]0;owned\x07\x9b31m"}, "x.ckpt")
    assert str(caught.value).startswith("x.ckpt: names code to run (_target_: ?]0;owned??31m)")


def test_no_target_is_taken_from_a_run_folder(folder: Path) -> None:
    with (folder / "outputs/good/config.yaml").open("a") as file:
        file.write("extra:\n  _target_: os.system\n  command: touch owned\n")
    before = contents(folder)
    run(*COMMANDS["resume"], cwd=folder).refused("config.yaml", "_target_: os.system")
    assert contents(folder) == before


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda data: {"a": data})
)
def test_plain_data_passes(data: dict[str, Any]) -> None:
    if "'_target_'" not in repr(data):
        refuse_code(data, "x")


def spend(limit: int) -> None:
    """Let the command have so many bytes more than it has; for `prepare`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    whole = pages * resource.getpagesize() + limit
    resource.setrlimit(resource.RLIMIT_AS, (whole, whole))


def absurd(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda recipe: recipe["generator"].update({key: value})


def wide_head(recipe: dict[str, Any]) -> None:
    recipe["uncertainty"]["width"] = 10**6


def endless_curves(recipe: dict[str, Any]) -> None:
    one = torch.zeros(1, dtype=torch.float64)
    recipe["uncertainty"]["misses"] = one.as_strided((10**9, 1000), (0, 0))


ABSURD = {
    "width": (absurd("width", 10**9), "model.generator.width=1000000000: give 1 to"),
    "depth": (absurd("depth", 10**9), "model.generator.depth=1000000000: give 1 to"),
    "negative width": (absurd("width", -1), "model.generator.width=-1"),
    "within bounds, 1 GB": (
        lambda r: r["generator"].update(width=1024, max_width=2048), "weights do not fit its network"
    ),
    "kernel": (absurd("kernel_size", "big"), "model.generator: "),
    "no number": (absurd("dropout", 7), "model.generator: "),
    "network": (absurd("name", "os.system"), "model.generator.name=os.system: unknown"),
    "error model": (wide_head, "its recipe is damaged"),
    "curves": (endless_curves, "1,000,000,000,000 elements has fewer in the file"),
    "dtype": (lambda r: r["targets"][0].update(dtype="U999999999"), "its recipe is damaged"),
    "nothing": (lambda r: r.pop("inputs"), "its recipe is damaged (KeyError: 'inputs')"),
    "a list for a task": (lambda r: r.update(task=[]), "its recipe is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_sizes_are_refused_before_memory_is_taken(folder: Path, what: str) -> None:
    recipe, says = ABSURD[what]
    path = changed(folder / BEST, recipe=recipe, to=folder / "odd.ckpt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        vfn.load(path)
    assert says in str(caught.value)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert taken < 200 * 1024 or sys.platform == "darwin"  # bytes there


def test_a_users_own_absurd_size_is_refused(tmp_path: Path) -> None:
    keys = [*TINY, "run=new", "model.generator.width=1000000000"]
    run("train.py", *keys, cwd=tmp_path).refused("model.generator.width=1000000000", "give 1 to")
    assert not list(tmp_path.iterdir())


def test_looking_at_sizes_draws_no_random_numbers() -> None:
    """A seeded training that reads another model goes on as before."""
    spec = {"name": "unet", "width": 4, "depth": 3}
    weights = make_generator(spec, 1, 1).state_dict()
    torch.manual_seed(0)
    make_generator(spec, 1, 1)
    expected = torch.rand(3)
    torch.manual_seed(0)
    found = with_weights(lambda: make_generator(spec, 1, 1), weights)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(found.state_dict()[k], v) for k, v in weights.items())
    assert not any(p.is_meta for p in found.parameters())


def parts_of(data: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places in plain data; of lists the first item stands for all, weights are left out."""
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data[:1])
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        if key != "head":
            yield (*where, key)
            yield from parts_of(value, (*where, key))


def with_part(data: Any, where: tuple[Any, ...], value: Any) -> Any:
    if not where:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[where[0]] = with_part(data[where[0]], where[1:], value)
    return copy


WRONG = (
    None,
    "x",
    [],
    {},
    [None],
    {"a": 1},
    -1,
    10**30,
    math.nan,
    True,
    "${oc.env:HOME}",
    torch.zeros(2),
)


def test_a_recipe_of_wrong_types_ends_in_a_line(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part in turn holds something else; all that reads a model takes it or refuses it."""
    loaded, raw = load_checkpoint(good / BEST), read_raw(good / BEST)
    monkeypatch.setattr(
        "vfn.models.checkpoint.with_weights", lambda *_: loaded.generator
    )  # takes its time
    monkeypatch.setattr("vfn.models.checkpoint.digest", lambda _: "0" * 12)
    monkeypatch.setattr("vfn.models.checkpoint.torch.load", lambda *_, **__: raw)
    recipe = raw[RECIPE]
    cases = [(where, value) for where in parts_of(recipe) for value in WRONG]
    refused = 0
    for where, value in random.Random(0).sample(cases, 150):
        raw[RECIPE] = with_part(recipe, where, value)
        try:
            checkpoint = load_checkpoint(good / BEST)
            card = card_of(checkpoint.recipe)
        except UserError:
            refused += 1
            continue
        json.dumps(card)
        assert checkpoint.patch_size > 0
        assert checkpoint.pixel_size is None or checkpoint.pixel_size > 0
        Layout(**checkpoint.recipe["layout"])
    assert refused > 50


@pytest.mark.parametrize(
    "where", ["data.name", "data.patch_size", "split.test", "layout.pattern", "task"]
)
def test_a_part_that_is_asked_for_late_is_missed_at_once(good: Path, where: str) -> None:
    recipe = read_raw(good / BEST)[RECIPE]
    first, _, second = where.partition(".")
    spoiled = with_part(recipe, (first, second) if second else (first,), -7)
    with pytest.raises(ValueError, match=f"^{where} is '-7'"):
        check_recipe(spoiled)
    check_recipe(recipe)


@pytest.mark.parametrize("where", ["model", "data.name", "split.test", "shifts.usual"])
def test_a_part_that_is_not_there_is_missed_at_once(good: Path, where: str) -> None:
    recipe = read_raw(good / BEST)[RECIPE]
    first, _, second = where.partition(".")
    spoiled = (
        {**recipe, first: {k: v for k, v in recipe[first].items() if k != second}}
        if second
        else {key: value for key, value in recipe.items() if key != first}
    )
    with pytest.raises(ValueError, match=f"lacks {where}"):
        check_recipe(spoiled)


def test_a_compressed_checkpoint_is_refused(folder: Path) -> None:
    """It could grow a thousandfold when it is read."""
    packed = io.BytesIO()
    with zipfile.ZipFile(folder / BEST) as old, zipfile.ZipFile(packed, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    (folder / BEST).write_bytes(packed.getvalue())
    with pytest.raises(UserError, match="is no checkpoint, or a damaged one"):
        load_checkpoint(folder / BEST)


# --- images ---


def huge_strip(path: Path, side: int, blob: bytes) -> None:
    """A TIFF of one Deflate strip that is stated to be `side` squared."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((64, 64), np.uint16), compression="zlib", rowsperstrip=64)
    data = stream.getvalue()
    path.write_bytes(data + blob)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        for name, value in (
            ("ImageWidth", side), ("ImageLength", side), ("RowsPerStrip", side),
            ("StripOffsets", len(data)), ("StripByteCounts", len(blob)),
        ):  # fmt: skip
            tags[name].overwrite(value)


def huge_tiles(path: Path, side: int, blob: bytes) -> None:
    """A TIFF whose tiles are all the same few bytes."""
    count = (side // 512) ** 2
    tags = [
        (256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 16), (259, 3, 1, 8), (262, 3, 1, 1),
        (277, 3, 1, 1), (322, 3, 1, 512), (323, 3, 1, 512), (324, 4, count, 0), (325, 4, count, 0),
    ]  # fmt: skip
    lists = 8 + 2 + 12 * len(tags) + 4
    values = {324: lists, 325: lists + 4 * count}
    entries = b"".join(struct.pack("<HHII", t, k, n, values.get(t, v)) for t, k, n, v in tags)
    place = struct.pack("<I", lists + 8 * count) * count
    sizes = struct.pack("<I", len(blob)) * count
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + place + sizes + blob)


def huge_png(path: Path, side: int, blob: bytes) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", blob) + chunk(b"IEND", b"")
    path.write_bytes(images.PNG_SIGNATURE + parts)


@pytest.mark.parametrize(
    ("name", "make"),
    [("f_phase.tif", huge_strip), ("f_phase.tif", huge_tiles), ("f_phase.png", huge_png)],
)
def test_an_image_of_ten_billion_pixels_from_a_small_file_is_refused(
    folder: Path, name: str, make: Callable[[Path, int, bytes], None]
) -> None:
    (folder / "input").mkdir()
    make(folder / "input" / name, 102_400, zlib.compress(bytes(2 * 512 * 512)))
    keys = (f"ckpt={BEST}", "input=input", "output=out")
    result = run("predict.py", *keys, cwd=folder, prepare=partial(spend, 2**29))
    result.refused(name, "promises 20,971,520,000 bytes")
    assert not list(folder.glob("out/*"))


def test_a_strip_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    huge_strip(path, 64, zlib.compress(bytes(2**28), 9))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(path)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 100 * 1024 or sys.platform == "darwin"


def test_fields_that_microscopes_write_are_no_bombs() -> None:
    slide = 2 * 20_000**2  # 16 bit
    check_promise(Path("a.tif"), slide, slide)
    check_promise(Path("a.tif"), slide, slide // 100)  # mostly glass
    check_promise(Path("a.tif"), 2 * 100_000**2, 2 * 100_000**2 // 20)
    with pytest.raises(UserError, match="promises"):
        check_promise(Path("a.tif"), 2 * 100_000**2, 4_000_000)


def test_an_image_that_the_disk_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.tif", make_image(1, "uint16"))
    monkeypatch.setattr(images, "MAPPED", 1000)
    read_image(tmp_path / "a.tif")
    os.utime(tmp_path / "a.tif", (1, 1))  # to be read anew

    def disk_usage(_: str) -> Any:
        return type("Usage", (), {"free": 5000})

    monkeypatch.setattr(images.shutil, "disk_usage", disk_usage)
    with pytest.raises(UserError, match=r"needs 0.0 GiB for its pixels, .*TMPDIR"):
        read_image(tmp_path / "a.tif")


def test_a_png_that_the_memory_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    huge_png(path, 100, zlib.compress(bytes(100 * 201)))
    assert read_image(path).array.shape == (1, 100, 100)
    os.utime(path, (1, 1))
    monkeypatch.setattr(images, "_memory", lambda: 5000.0)
    with pytest.raises(UserError, match=r"for its pixels, this machine has"):
        read_image(path)


def test_an_array_of_a_trillion_pixels_from_a_small_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_zarr_image(path, make_image(1, "uint16")[None], "cyx", ["phase"])
    (scene,) = scenes(path)
    ((plane,),) = scene.load()[0].planes
    plane.read()
    (array,) = path.glob("*0/zarr.json")
    data = json.loads(array.read_text())
    data["shape"] = [1, 10**6, 10**6]
    array.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"promises 2,000,000,000,000 bytes"):
        plane.read()


@pytest.mark.parametrize("name", ["../b/0", "/etc"])
def test_an_array_outside_of_its_folder_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.ome.zarr"
    write_zarr_image(path, make_image(1, "uint16")[None], "cyx", ["phase"])
    data = json.loads((path / "zarr.json").read_text())
    data["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = name
    (path / "zarr.json").write_text(json.dumps(data))
    (scene,) = scenes(path)
    with pytest.raises(UserError, match=f"name '{name}', outside of it"):
        scene.load()


# --- archives; tests/commands/test_download.py has those whose paths lead out of the folder ---


def test_a_link_in_an_archive_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "data"
    root.mkdir()
    link = zipfile.ZipInfo("in/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        archive.writestr("in/good.tif", b"1")
        archive.writestr(link, str(tmp_path / "elsewhere"))
        archive.writestr("in/link/evil.tif", b"2")
    with pytest.raises((UserError, DamagedError, OSError)):
        unpack(root / "a.zip", root / "a")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert [path.name for path in root.iterdir()] == ["a.zip"]
