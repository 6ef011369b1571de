"""Every task and every choice of every group through the real command line, on tiny odd files."""

import csv
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml

from tests.cli import ROOT, Result, run
from tests.conftest import (
    AF_WELLS,
    HEIGHT,
    WIDTH,
    make_image,
    write,
    write_tokens,
    write_zarr_plate,
)
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover

TASKS = sorted(path.stem for path in (ROOT / "conf" / "task").glob("*.yaml"))
TINY = [
    "data.patch_size=64", "data.batch_size=2", "data.patches_per_epoch=4", "trainer.max_epochs=1",
    "model.generator.width=4", "model.generator.max_width=8", "model.discriminator.width=4",
    "trainer=cpu",
]  # fmt: skip
# A small data set that costs no file; `data.split` etc. may come on top.
SIMULATED = ["data=simulated", "data.fields=4", f"data.height={HEIGHT}", f"data.width={WIDTH}"]
COLUMNS = [
    "field",
    "channel",
    "mae",
    "psnr",
    "ssim",
    "pearson",
    "tolerance_level",
    "tolerance_threshold",
    "mae_signal",
    "psnr_signal",
    "ssim_signal",
]


def task_file(task: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "conf" / "task" / f"{task}.yaml").read_text())


def data_set(task: str) -> str:
    """The data set that the comment of a task names."""
    if task == "custom":
        return "folder"
    comment = (ROOT / "conf" / "task" / f"{task}.yaml").read_text().splitlines()[0]
    named = {"MDA-MB-231": "mda_mb_231", "U2OS-CPS": "u2os_cps", "U2OS-AF": "u2os_af"}
    return next((folder for name, folder in named.items() if name in comment), "u2os_af")


def channels(task: str) -> tuple[list[str], list[str]]:
    if task == "custom":
        return ["phase", "cy5"], ["dapi", "tubulin"]
    return task_file(task)["inputs"], task_file(task)["targets"]


@dataclass(frozen=True)
class Chain:
    """What train, predict (three times) and evaluate (twice) left of one task."""

    folder: Path
    first: dict[str, tuple[int, bytes]]  # after each of the three predictions: mtime, content
    second: dict[str, tuple[int, bytes]]
    third: dict[str, tuple[int, bytes]]
    damaged: str


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.glob("*.tif"))}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _chain(task: str, root: Path, folder: Path) -> Chain:
    name = data_set(task)
    inputs, targets = channels(task)
    given = [f"data={name}", f"task={task}", f"data.root={root}"]
    if task == "custom":
        given += [f"task.inputs=[{','.join(inputs)}]", f"task.targets=[{','.join(targets)}]"]
    run("train.py", *given, *TINY, "logger=csv", f"run={task}", cwd=folder).ok()
    ckpt = f"ckpt=outputs/{task}/checkpoints/best.ckpt"
    predict = ("predict.py", ckpt, f"input={root}", "output=predicted")
    shots = []
    for attempt in range(3):
        run(*predict, cwd=folder).ok()
        shots.append(snapshot(folder / "predicted"))
        if attempt == 1:
            damaged = folder / "predicted" / min(shots[0])
            os.truncate(damaged, damaged.stat().st_size // 2)
    run("evaluate.py", ckpt, f"data={name}", f"data.root={root}", "output=scored", cwd=folder).ok()
    _write_truth(folder, name, root, targets)
    run("evaluate.py", "pred=scored/predictions", "truth=truth", "output=again", cwd=folder).ok()
    return Chain(folder, *shots, damaged.name)


def _write_truth(folder: Path, name: str, root: Path, targets: list[str]) -> None:
    """Copies of the truth under the names of the test fields, found without our own discovery."""
    for path in (folder / "scored" / "predictions").iterdir():
        field = path.name.removesuffix(".ome.tif")
        planes = [truth_plane(name, root, field, target) for target in targets]
        write(folder / "truth" / f"{field}.tif", np.stack(planes).squeeze())


def truth_plane(name: str, root: Path, field: str, channel: str) -> np.ndarray:
    if name == "u2os_cps":
        plate, well, site = field.split("_")
        number = ["dna", "er", "rna", "golgi_actin", "mito"].index(channel) + 1
        pattern = f"*{plate}w{number}/*_{well}_{site}_w{number}*.tif"
    elif name == "u2os_af":
        well, site = field.split("_")[:2]
        pattern = f"*_z_16/*_{well}_{site}_w2*.tif"
    else:
        names = {"cy5": "Cy5"}
        pattern = f"{field}_{names.get(channel, channel)}.tif"
    (path,) = root.glob(pattern)
    return tifffile.imread(path)


@pytest.fixture(scope="module")
def chains(
    request: pytest.FixtureRequest,
    roots: dict[str, Path],
    workers: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Future[Chain]]:
    """The chains of the tasks that this session tests, under way."""
    chosen = dict.fromkeys(
        item.callspec.params["task"]
        for item in request.session.items
        if hasattr(item, "callspec") and "chain" in item.fixturenames
    )
    return {
        task: workers.submit(_chain, task, roots[data_set(task)], tmp_path_factory.mktemp(task))
        for task in chosen
    }


@pytest.fixture
def chain(task: str, chains: dict[str, Future[Chain]]) -> Chain:
    return chains[task].result()


@pytest.mark.parametrize("task", TASKS)
def test_train(task: str, chain: Chain) -> None:
    folder = chain.folder / "outputs" / task
    left = {path.name for path in folder.iterdir()}
    assert left == {"config.yaml", "metrics.csv", "checkpoints", "samples", "log.txt"}
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert [p.name for p in (folder / "samples").iterdir()] == ["epoch_0000.png"]
    (row,) = read_csv(folder / "metrics.csv")
    assert row["epoch"] == "0"
    assert row["batches"] == "2"
    paper = ("loss_d", "adversarial", "weight_l1") if data_set(task) != "folder" else ()
    for key in ("loss_g", "mae", *paper):
        assert np.isfinite(float(row[f"train/{key}"]))
    assert {"val/mae", "lr/g", "images_per_s"} <= row.keys()
    assert ("lr/d" in row) == bool(paper)
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert (stored["task"]["inputs"], stored["task"]["targets"]) == channels(task)
    assert "training" in (folder / "log.txt").read_text()
    recipe = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["vfn"]
    # Nothing that is tested was trained on, and nothing of its well or plate.
    split = recipe["split"]
    assert split["by"] == {"u2os_cps": "plate", "u2os_af": "well"}.get(data_set(task), "field")
    parts = {
        part: {name.split("_z")[0] for name, _ in split[part]} for part in ("train", "val", "test")
    }
    assert all(parts.values())
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["val"]
    assert not parts["val"] & parts["test"]
    if data_set(task) == "u2os_cps":
        assert {name[:5] for name in parts["test"]} == {"20592"}


@pytest.mark.parametrize("task", TASKS)
def test_predict(task: str, chain: Chain) -> None:
    name, (_, targets) = data_set(task), channels(task)
    expected = {
        "u2os_cps": 5,
        "u2os_af": 9 * len(AF_WELLS),  # every plane is refocused
    }.get(name, 4)
    assert len(chain.first) == expected
    for file in chain.first:
        path = chain.folder / "predicted" / file
        assert file.endswith(".ome.tif")
        with tifffile.TiffFile(path) as tif:
            (series,) = tif.series
            assert series.axes in ("CYX", "YX")  # tifffile hides an axis of one
            assert tif.ome_metadata is not None
            assert f'SizeC="{len(targets)}"' in tif.ome_metadata
            assert re.findall(r'<Channel [^>]*Name="([^"]+)"', tif.ome_metadata) == targets
            image = series.asarray().reshape(-1, *series.shape[-2:])
        assert image.shape == (len(targets), HEIGHT, WIDTH)
        assert image.dtype == ("uint8" if name == "mda_mb_231" else "uint16")
        assert np.ptp(image) > 0
    assert chain.second == chain.first, "a field that was there was written again"
    untouched = {file: shot for file, shot in chain.third.items() if file != chain.damaged}
    assert untouched == {f: shot for f, shot in chain.first.items() if f != chain.damaged}
    ours, whole = (
        tifffile.imread(path)
        for path in (
            chain.folder / "predicted" / chain.damaged,
            _as_file(chain.folder / "whole.ome.tif", chain.first[chain.damaged][1]),
        )
    )
    np.testing.assert_array_equal(ours, whole)


def _as_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("task", TASKS)
def test_evaluate(task: str, chain: Chain) -> None:
    _, targets = channels(task)
    folder = chain.folder / "scored"
    rows = read_csv(folder / "metrics.csv")
    assert list(rows[0])[: len(COLUMNS)] == COLUMNS
    predicted = sorted(p.name.removesuffix(".ome.tif") for p in (folder / "predictions").iterdir())
    assert sorted((r["field"], r["channel"]) for r in rows) == sorted(
        (field, target) for field in predicted for target in targets
    )
    recipe = torch.load(
        chain.folder / "outputs" / task / "checkpoints" / "best.ckpt", weights_only=True
    )["vfn"]
    assert predicted == sorted(name for name, _ in recipe["split"]["test"])
    for field in predicted:  # evaluate.py predicts what predict.py predicts
        one = tifffile.imread(folder / "predictions" / f"{field}.ome.tif")
        np.testing.assert_array_equal(
            one, tifffile.imread(chain.folder / "predicted" / f"{field}.ome.tif")
        )
    summary = json.loads((folder / "summary.json").read_text())
    for target in targets:
        part = summary[target]
        assert {"range_full", "range_signal"} <= part.keys()
        mae = [float(row["mae"]) for row in rows if row["channel"] == target]
        assert part["mae"]["mean"] == pytest.approx(np.mean(mae), rel=1e-4)
        assert part["mae"]["n"] == len(predicted)
        assert {"mean", "std", "n"} <= part["psnr_signal"].keys()
    page = (folder / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page), "the page loads from elsewhere"
    assert len(page) > 10_000
    assert list((folder / "figures").glob("*.png"))
    baselines = read_csv(folder / "baselines.csv")
    rivals = {"input", "wiener"} if task == "refocus" else set()
    assert {row["baseline"] for row in baselines} == {
        "mean", "median", "linear", "filter", *rivals
    }  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_evaluate_images_alone(task: str, chain: Chain) -> None:
    """The same images scored without the model give the same scores, and they are right."""
    ours, theirs = (
        sorted(read_csv(chain.folder / folder / "metrics.csv"), key=lambda row: row["field"])
        for folder in ("again", "scored")
    )
    for given in theirs:
        given["well"] = given["z"] = ""  # which the data set knows, and bare images do not
    for given in (*ours, *theirs):  # inputs are channels that bare images do not have
        given["bleed_through"] = given["note"] = ""
    assert ours == theirs
    row, (_, targets) = ours[0], channels(task)
    truth = tifffile.imread(chain.folder / "truth" / f"{row['field']}.tif")
    prediction = tifffile.imread(chain.folder / "predicted" / f"{row['field']}.ome.tif")
    place = targets.index(row["channel"])
    one, other = (
        image.reshape(-1, HEIGHT, WIDTH)[place].astype(float) / np.iinfo(truth.dtype).max
        for image in (truth, prediction)
    )
    assert float(row["mae"]) == pytest.approx(np.abs(one - other).mean(), rel=1e-4)
    psnr = -10 * np.log10(np.square(one - other).mean())
    assert float(row["psnr"]) == pytest.approx(psnr, rel=1e-4)


# Choices beside the tasks. Each is trained once; what is special is looked at by its `check`.


def _config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "outputs" / "r" / "config.yaml").read_text())


def _row(folder: Path) -> dict[str, str]:
    return read_csv(folder / "outputs" / "r" / "metrics.csv")[-1]


def _recipe(folder: Path) -> dict[str, Any]:
    path = folder / "outputs" / "r" / "checkpoints" / "best.ckpt"
    return torch.load(path, weights_only=True)["vfn"]


def _check_unet(folder: Path) -> None:
    assert "train/loss_d" not in _row(folder)
    assert "train/weight_l1" not in _row(folder)
    row = _row(folder)
    assert float(row["train/loss_g"]) == pytest.approx(float(row["train/mae"]))


def _check_pix2pix(folder: Path) -> None:
    config = _config(folder)
    assert config["loss"]["mae"] == 100
    assert config["model"]["discriminator"]["name"] == "patchgan"
    assert float(_row(folder)["train/loss_g"]) > 10


def _check_tolerance(folder: Path) -> None:
    row, loss = _row(folder), _config(folder)["loss"]
    assert loss["mae"] == 0
    expected = (
        loss["tolerance"] * float(row["train/tolerance"])
        + loss["adversarial"] * float(row["train/adversarial"])
        + loss["weight_l1"] * float(row["train/weight_l1"])
    )
    assert float(row["train/loss_g"]) == pytest.approx(expected, rel=1e-3)


def _check_wandb(folder: Path) -> None:
    kept = list((folder / "outputs" / "r" / "wandb").rglob("*.wandb"))
    assert kept
    assert (folder / "outputs" / "r" / "metrics.csv").exists()


def _check_tensorboard(folder: Path) -> None:
    assert list((folder / "outputs" / "r" / "tensorboard").rglob("events.out.tfevents.*"))


def _check_groups(folder: Path) -> None:
    _check_wandb(folder)
    _check_tensorboard(folder)
    config = _config(folder)
    assert config["callbacks"] == {"early_stopping": {"patience": 1}}
    assert config["monitor"] == "val/mse"
    last = folder / "outputs" / "r" / "checkpoints" / "last.ckpt"
    callbacks = torch.load(last, weights_only=True)["callbacks"]
    row = _row(folder)
    assert callbacks["Checkpoints"]["best"] == pytest.approx(float(row["val/mse"]), rel=1e-4)
    assert any(key.startswith("EarlyStopping") for key in callbacks)
    assert "best validation MSE" in (folder / "outputs" / "r" / "log.txt").read_text()


def _check_experiment(folder: Path) -> None:
    config = _config(folder)
    assert (config["data"]["split"], config["task"]["targets"]) == ("spatial", ["dna"])
    assert config["model"]["adam"]["lr_generator"] == 1e-3


def _check_spatial(folder: Path) -> None:
    split = _recipe(folder)["split"]
    assert split["by"] == "spatial"
    ((_, train),), ((_, val),), ((_, test),) = split["train"], split["val"], split["test"]
    assert train[1][1] + 4 == val[1][0]
    assert val[1][1] + 4 == test[1][0]
    assert test[1][1] == WIDTH


def _check_fields(*names: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        split = _recipe(folder)["split"]
        assert sorted(name for part in ("train", "val", "test") for name, _ in split[part]) == [
            *names
        ]

    return check


def _check_full(folder: Path) -> None:
    recipe = _recipe(folder)
    assert [(m["low"], m["high"]) for m in recipe["inputs"] + recipe["targets"]] == [(0, 65535)] * 2


def _check_equalise(folder: Path) -> None:
    assert all(len(m["knots"]) == 257 for m in _recipe(folder)["inputs"])


def _check_best(folder: Path) -> None:
    assert _row(folder)["epoch"] == "0"


FOUR = _check_fields("f01", "f02", "f03", "f04")
ONE_FIELD = ["data.fields=1", "data.split=spatial", "data.gap=4", "data.patch_size=32"]
PHASE_TO_DAPI = ["task.inputs=[phase]", "task.targets=[dapi]"]
VARIANTS: dict[str, tuple[list[str], Callable[[Path], None] | None]] = {
    "model=unet": ([*SIMULATED, "model=unet"], _check_unet),
    "model=pix2pix": ([*SIMULATED, "model=pix2pix", "model.generator.depth=6"], _check_pix2pix),
    "pix2pix, 8 deep": ([*SIMULATED, "model=pix2pix", "data.patch_size=256"], _check_pix2pix),
    "model=best, bf16": ([*SIMULATED, "model=best", "trainer.precision=bf16-mixed"], None),
    "model=convnext, bf16": (
        [*SIMULATED, "model=convnext", "trainer.precision=bf16-mixed"], None,
    ),
    "loss=mae": ([*SIMULATED, "loss=mae"], _check_unet),
    "loss=ms_ssim": ([*SIMULATED, "loss=ms_ssim"], None),
    "loss=pix2pix": ([*SIMULATED, "loss=pix2pix"], None),
    "loss=tolerance": ([*SIMULATED, "loss=tolerance"], _check_tolerance),
    "weight_l1 as a sum": ([*SIMULATED, "loss.weight_l1_reduction=sum"], None),
    "logger=wandb": ([*SIMULATED, "logger=wandb"], _check_wandb),
    "logger=tensorboard": ([*SIMULATED, "logger=tensorboard"], _check_tensorboard),
    "callbacks, monitor, two loggers": (
        [*SIMULATED, "callbacks=early_stopping", "callbacks.early_stopping.patience=1",
         "monitor=val/mse", "logger=many"],
        _check_groups,
    ),
    "experiment": (
        ["+experiment=results_jump", *SIMULATED, *ONE_FIELD[2:], "data.fields=1", "task=dna",
         "callbacks=none", "model.generator.depth=5"],
        _check_experiment,
    ),
    "trainer=auto": ([*SIMULATED, "trainer=auto"], None),
    "bf16": ([*SIMULATED, "trainer.precision=bf16-mixed"], None),
    "max_time": (
        [*SIMULATED, "trainer.max_time=00:00:00:03", "trainer.max_epochs=1000000",
         "data.patches_per_epoch=1000000"],
        _check_best,
    ),
    "spatial": ([*SIMULATED, *ONE_FIELD, "model.generator.depth=5"], _check_spatial),
    "processes cut patches": ([*SIMULATED, "data.num_workers=1"], None),
    "folder": (["data=folder", "data.root=FOLDER", *PHASE_TO_DAPI], FOUR),
    "channels": (
        ["data=folder", "data.root=FOLDER", "task.inputs=[brightfield]", "task.targets=[nuclei]",
         "data.channels={brightfield: cy5, nuclei: dapi}"],
        FOUR,
    ),
    "pattern": (
        ["data=folder", "data.root=PATTERN", *PHASE_TO_DAPI,
         r"data.pattern='(?P<well>[A-H]\d\d)-(?P<channel>\d)'", "data.channels={phase: '1', dapi: '2'}"],
        _check_fields("A01", "A02", "A03"),
    ),
    "manifest": (
        ["data=folder", "data.manifest=MANIFEST/list.csv", *PHASE_TO_DAPI],
        _check_fields("one", "three", "two"),
    ),
    "OME-TIFF of several channels": (
        ["data=folder", "data.root=STACKS", *PHASE_TO_DAPI], _check_fields("s0", "s1", "s2"),
    ),
    "channels by position": (
        ["data=folder", "data.root=BARE", *PHASE_TO_DAPI, "data.channels={phase: 1, dapi: 0}"],
        _check_fields("s0", "s1", "s2"),
    ),
    "range=full": ([*SIMULATED, "data.range=full"], _check_full),
    "range=minmax": ([*SIMULATED, "data.range=minmax"], None),
    "equalise": ([*SIMULATED, "data.equalise=true"], _check_equalise),
    "8 bit, no augmentation": ([*SIMULATED, "data.dtype=uint8", "data.augment=false"], None),
    "refocus, simulated": ([*SIMULATED, "task=refocus", "data.fields=3"], None),
}  # fmt: skip


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory, roots: dict[str, Path]) -> dict[str, Path]:
    """Folders of odd layouts: a regular expression, a manifest, stacks with and without names."""
    base = tmp_path_factory.mktemp("layouts")
    images = {
        (i, c): tifffile.imread(roots["folder"] / f"f{i + 1:02d}_{c}.tif")
        for i in range(3)
        for c in ("phase", "dapi")
    }
    lines = ["field,channel,path,well"]
    for i, field in enumerate(("one", "two", "three")):
        pair = [images[i, "phase"], images[i, "dapi"]]
        for number, (channel, image) in enumerate(zip(("phase", "dapi"), pair, strict=True), 1):
            write(base / "PATTERN" / f"A{i + 1:02d}-{number}.tif", image)
            write(base / "MANIFEST" / "deep" / f"{i}{number}.tif", image)
            lines.append(f"{field},{channel},deep/{i}{number}.tif,W{i}")
        stack = np.stack(pair[::-1])
        write(base / "BARE" / f"s{i}.tif", stack)
        (base / "STACKS").mkdir(exist_ok=True)
        tifffile.imwrite(
            base / "STACKS" / f"s{i}.ome.tif", stack, photometric="minisblack",
            metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "Phase"]}},
        )  # fmt: skip
    (base / "MANIFEST" / "list.csv").write_text("\n".join(lines) + "\n")
    return {path.name: path for path in base.iterdir()} | {"FOLDER": roots["folder"]}


@pytest.fixture(scope="module")
def trained(
    request: pytest.FixtureRequest,
    layouts: dict[str, Path],
    workers: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Future[tuple[Path, Result]]]:
    def one(name: str) -> tuple[Path, Result]:
        folder = tmp_path_factory.mktemp("variant")
        overrides = [*VARIANTS[name][0]]
        for key, path in layouts.items():
            overrides = [override.replace(f"={key}", f"={path}") for override in overrides]
        groups = {override.split("=")[0] for override in overrides}
        tiny = [override for override in TINY if override.split("=")[0] not in groups]
        tiny += [] if "logger" in groups else ["logger=csv"]
        tiny += [] if {"model", "+experiment"} & groups else ["model=virfluonet"]
        env = {"HOME": str(folder), "WANDB_API_KEY": ""}
        return folder, run("train.py", *overrides, *tiny, "run=r", cwd=folder, env=env)

    chosen = dict.fromkeys(
        item.callspec.params["variant"]
        for item in request.session.items
        if hasattr(item, "callspec") and "variant" in item.callspec.params
    )
    return {name: workers.submit(one, name) for name in chosen}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(variant: str, trained: dict[str, Future[tuple[Path, Result]]]) -> None:
    folder, result = trained[variant].result()
    result.ok()
    run_folder = folder / "outputs" / "r"
    assert {p.name for p in (run_folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (run_folder / "metrics.csv").exists()
    check = VARIANTS[variant][1]
    if check is not None:
        check(folder)


SMALL_RUN = [*SIMULATED, "model=virfluonet", *TINY, "logger=csv"]


@pytest.fixture(scope="module")
def simulated_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run `r`."""
    folder = tmp_path_factory.mktemp("simulated")
    run("train.py", *SMALL_RUN, "run=r", cwd=folder).ok()
    return folder


def test_sweep(tmp_path: Path) -> None:
    said = (
        run("train.py", "-m", *SMALL_RUN, "run=sweep", "loss.adversarial=0,0.01", cwd=tmp_path)
        .ok()
        .out
    )
    folders = sorted((tmp_path / "outputs" / "sweep").iterdir())
    folders = [folder for folder in folders if folder.is_dir()]
    names = ["0_loss.adversarial=0", "1_loss.adversarial=0.01"]
    assert [folder.name for folder in folders] == names
    weights = []
    for folder in folders:
        assert (folder / "checkpoints" / "best.ckpt").is_file()
        weights.append(yaml.safe_load((folder / "config.yaml").read_text())["loss"]["adversarial"])
        (row,) = read_csv(folder / "metrics.csv")
        assert ("train/loss_d" in row) == (weights[-1] > 0)
    assert sorted(weights) == [0, 0.01]
    table = read_csv(tmp_path / "outputs" / "sweep" / "sweep.csv")
    assert sorted(row["run"] for row in table) == names
    scores = [float(row["val_mae"]) for row in table]
    assert scores == sorted(scores)
    last = said.partition("2 runs, the best first; table: outputs/sweep/sweep.csv\n")[
        2
    ].splitlines()
    assert [line.split()[1:] for line in last[:2]] == [
        [row["run"], f"loss.adversarial={row['loss.adversarial']}"] for row in table
    ]
    assert last[2] == "a run learnt from 4 patches: too few to judge by; let them train longer"
    assert said.count("too few to judge by") == 1
    assert "for more epochs" not in said


MINE = """
from lightning import Callback


class MyCallback(Callback):
    def __init__(self, key: int) -> None:
        self.key = key

    def on_train_epoch_end(self, trainer, module) -> None:
        print("mine", self.key, trainer.current_epoch, trainer.default_root_dir)
"""


def test_ones_own_configs_and_callback(tmp_path: Path) -> None:
    (tmp_path / "my_package.py").write_text(MINE)
    files = {
        "task/tubulin.yaml": "{name: tubulin, inputs: [phase], targets: [actin], input_z: []}",
        "experiment/mine.yaml": "# @package _global_\n"
        "defaults: [override /task: tubulin, override /loss: mae]\nseed: 7\n",
    }
    for name, text in files.items():
        (tmp_path / "my conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my conf" / name).write_text(text)
    own = [f"hydra.searchpath=['file://{tmp_path / 'my conf'}']", "experiment=mine"]
    mine = ["+callbacks.mine._target_=my_package.MyCallback", "+callbacks.mine.key=3"]
    again = ["run=r", "resume=auto"]
    said = run("train.py", *own, *mine, *SMALL_RUN, *again, cwd=tmp_path).ok().out
    assert "mine 3 0 outputs/r" in said
    assert (_config(tmp_path)["task"]["targets"], _config(tmp_path)["seed"]) == (["actin"], 7)
    # A run folder may be a stranger's: its code is named again, and its experiment is not another.
    resume = ("train.py", *SMALL_RUN, *again, "trainer.max_epochs=2")
    run(*resume, cwd=tmp_path).refused("my_package.MyCallback", "trust=my_package.MyCallback")
    run(*resume, *mine, "experiment=results_jump", cwd=tmp_path).refused("the run in outputs/r has")
    said = run(*resume, *own, mine[0], cwd=tmp_path).ok().out
    assert "mine 3 1 outputs/r" in said


def test_init_starts_from_the_weights(simulated_run: Path, tmp_path: Path) -> None:
    ckpt = simulated_run / "outputs" / "r" / "checkpoints" / "best.ckpt"
    still = ["model.adam.lr_generator=0", "model.adam.lr_discriminator=0", "run=tuned"]
    run("train.py", *SMALL_RUN, *still, f"init={ckpt}", "seed=5", cwd=tmp_path).ok()
    tuned = tmp_path / "outputs" / "tuned" / "checkpoints" / "last.ckpt"
    ours, theirs = (torch.load(p, weights_only=True)["state_dict"] for p in (tuned, ckpt))
    for key in theirs:
        if "running_" not in key and "num_batches" not in key:
            assert torch.equal(ours[key], theirs[key]), key


def test_predict_one_file_with_float32(simulated_run: Path, tmp_path: Path) -> None:
    image = np.arange(33 * 17, dtype=np.uint16).reshape(33, 17) * 20
    write(tmp_path / "in" / "mine_phase.tif", image)
    ckpt = simulated_run / "outputs" / "r" / "checkpoints" / "best.ckpt"
    run(
        "predict.py", f"ckpt={ckpt}", "input=in/mine_phase.tif", "output=out", "precision=float32",
        "device=cpu", "tile=64", "overlap=0.5", "batch_size=1", cwd=tmp_path,
    ).ok()  # fmt: skip
    assert [p.name for p in (tmp_path / "out").glob("*.tif")] == ["mine.ome.tif"]
    assert tifffile.imread(tmp_path / "out" / "mine.ome.tif").shape == (33, 17)


def test_predict_from_a_plate_to_a_plate(simulated_run: Path, tmp_path: Path) -> None:
    truth = write_zarr_plate(tmp_path / "P.zarr", {"A/1": 1, "B/2": 2}, ["er", "Phase"], "0.4")
    ckpt = simulated_run / "outputs" / "r" / "checkpoints" / "best.ckpt"
    predict = ("predict.py", f"ckpt={ckpt}", "input=P.zarr")
    run(*predict, "output=tiffs", cwd=tmp_path).ok()
    kept = []
    for _ in range(2):
        run(*predict, "output=out", "format=ome_zarr", cwd=tmp_path).ok()
        fields = (tmp_path / "out").glob("predicted.zarr/*/*/*/zarr.json")
        kept.append({path: path.stat().st_mtime_ns for path in fields})
    assert len(kept[0]) == 3
    assert kept[0] == kept[1]
    (target,) = _recipe(simulated_run)["task"]["targets"]
    for entry in discover(tmp_path / "out" / "predicted.zarr", Layout(), [target]):
        tiff = tifffile.imread(tmp_path / "tiffs" / f"P_{entry.well}_s{entry.site}.ome.tif")
        assert tiff.shape == truth["A/1", 0].shape[1:]
        np.testing.assert_array_equal(entry.planes[target, 0.0].read(), tiff)
    run(*predict, "output=other", "format=png", cwd=tmp_path).refused("format=png", "ome_zarr")


def test_train_on_a_plate(tmp_path: Path) -> None:
    write_zarr_plate(tmp_path / "P.zarr", {"A/1": 1, "A/2": 1, "B/1": 2}, ["BF", "Hoechst 33342"])
    run(
        "train.py", "data=folder", "data.root=P.zarr", *PHASE_TO_DAPI, *TINY, "logger=csv", "run=r",
        "data.channels={phase: bf, dapi: 'Hoechst 33342'}", "data.num_workers=1", cwd=tmp_path,
    ).ok()  # fmt: skip
    split = _recipe(tmp_path)["split"]
    assert split["by"] == "well"
    assert sorted(name for part in ("train", "val", "test") for name, _ in split[part]) == [
        "P_A1_s0", "P_A2_s0", "P_B1_s0", "P_B1_s1",
    ]  # fmt: skip


def test_evaluate_without_naming_the_data(simulated_run: Path, tmp_path: Path) -> None:
    ckpt = simulated_run / "outputs" / "r" / "checkpoints" / "best.ckpt"
    run("evaluate.py", f"ckpt={ckpt}", "output=scored", cwd=tmp_path).ok()
    assert len(read_csv(tmp_path / "scored" / "metrics.csv")) == 1


def test_new_images_are_scored(tmp_path: Path) -> None:
    """Against the raw files by the names that the predictions tell, and all fields of a new folder."""
    pattern = r"data.pattern='(?P<well>[A-H]\d\d)_w(?P<channel>\d)'"
    named = [pattern, "data.channels={phase: '1', dapi: '2'}"]
    for number, root in enumerate(("old", "new")):
        for field in range(4):
            for channel in (1, 2):
                image = make_image(100 * number + 10 * field + channel, "uint16")
                write(tmp_path / root / f"A0{field + 1}_w{channel}.tif", image)
    train = ["data=folder", "data.root=old", *named, *PHASE_TO_DAPI, *TINY, "logger=csv", "run=r"]
    run("train.py", *train, cwd=tmp_path).ok()
    ckpt = "ckpt=outputs/r/checkpoints/best.ckpt"
    run("predict.py", ckpt, "input=new", "output=predicted", cwd=tmp_path).ok()
    raw = ("evaluate.py", "pred=predicted", "truth=new", "inputs=[phase]", "output=raw")
    run(*raw, cwd=tmp_path).ok()
    all_fields = ("evaluate.py", ckpt, "data.root=new", "all=true")
    said = run(*all_fields, "output=all", cwd=tmp_path).ok().out
    assert "of 4 fields bear names of training fields" in said
    assert "the scores are not put into the model card" in said
    ours, theirs = (read_csv(tmp_path / folder / "metrics.csv") for folder in ("raw", "all"))
    assert [row["field"] for row in ours] == ["A01", "A02", "A03", "A04"]
    assert [row["well"] for row in ours] == ["A01", "A02", "A03", "A04"]
    assert ours == [{**row, "note": ours[i]["note"]} for i, row in enumerate(theirs)]
    run("evaluate.py", ckpt, "all=true", "output=x", cwd=tmp_path).refused(
        "of 4 fields (first A0", "were trained on", "data.root=DIR"
    )
    run(*all_fields, "card=true", "output=x", cwd=tmp_path).refused("all=true", "leave out")
    (tmp_path / "new" / "A02_w2.tif").unlink()
    run(*raw[:3], "output=y", cwd=tmp_path).refused("1 of 4 predictions", "first A02.ome.tif")


def test_another_model_writes_the_predictions_anew(simulated_run: Path, tmp_path: Path) -> None:
    run("train.py", *SMALL_RUN, "seed=3", "run=other", cwd=tmp_path).ok()
    write(tmp_path / "in" / "a_phase.tif", np.arange(900, dtype=np.uint16).reshape(30, 30) * 9)
    shots = []
    for folder in (simulated_run / "outputs" / "r", tmp_path / "outputs" / "other"):
        ckpt = folder / "checkpoints" / "best.ckpt"
        run("predict.py", f"ckpt={ckpt}", "input=in", "output=out", cwd=tmp_path).ok()
        shots.append(tifffile.imread(tmp_path / "out" / "a.ome.tif"))
    assert (shots[0] != shots[1]).any()


def test_the_test_fields_stay_those_of_the_training_when_fields_are_added(tmp_path: Path) -> None:
    write_tokens(tmp_path / "images", ["phase", "dapi"], 5, "uint16")
    run(
        "train.py", "data=folder", "data.root=images", "task.inputs=[phase]", "task.targets=[dapi]",
        *TINY, "logger=csv", "run=r", cwd=tmp_path,
    ).ok()  # fmt: skip
    folder = tmp_path / "outputs" / "r"
    ckpt = folder / "checkpoints" / "best.ckpt"
    tested = [name for name, _ in _recipe(tmp_path)["split"]["test"]]
    write_tokens(tmp_path / "images", ["phase", "dapi"], 9, "uint16")
    # The data set's name is known from the checkpoint; its folder may be said anew.
    run("evaluate.py", f"ckpt={ckpt}", "data.root=images", "output=scored", cwd=tmp_path).ok()
    assert [row["field"] for row in read_csv(tmp_path / "scored" / "metrics.csv")] == tested


def test_changed_channels_give_the_task_another_name(tmp_path: Path) -> None:
    run(
        "train.py", *SIMULATED, *TINY, "task=er", "task.inputs=[mito]", "logger=csv", "run=r",
        cwd=tmp_path,
    ).ok()  # fmt: skip
    assert _recipe(tmp_path)["task"]["name"] == "er_from_mito"


def test_a_machine_with_slurm_is_no_reason_to_warn(tmp_path: Path) -> None:
    """A cluster's login node has `srun`; a training that does not ask for SLURM needs none."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    path = f"{srun.parent}{os.pathsep}{os.environ['PATH']}"
    run("train.py", *SIMULATED, *TINY, "run=r", cwd=tmp_path, env={"PATH": path}).ok()
