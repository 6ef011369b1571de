"""Wrong input: exit code 2, one line that says what was found and what to do, nothing written."""

import io
import os
import pickle
import signal
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch

from tests.cli import Result, finish, run, start
from tests.conftest import HEIGHT, WIDTH, make_image, write, write_tokens

TINY = [
    "data.patch_size=64", "data.batch_size=2", "data.patches_per_epoch=4", "trainer.max_epochs=1",
    "model.generator.width=4", "model.generator.max_width=8", "model.discriminator.width=4",
    "trainer=cpu", "logger=csv",
]  # fmt: skip
SIMULATED = ["data=simulated", "data.fields=4", f"data.height={HEIGHT}", f"data.width={WIDTH}"]
FOLDER = ["data=folder", "data.root=images", "task.inputs=[phase]", "task.targets=[dapi]"]


class Malice:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def nothing(_: Path) -> None:
    """No preparation beyond the sound images."""


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "images" / name).unlink()


def put(name: str, image: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: write(folder / "images" / name, image, None)


def no_images(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()


def truncate(folder: Path) -> None:
    path = folder / "images" / "f02_phase.tif"
    write(path, make_image(1, "uint16"), None)  # its pixels fill it, so that half of them go
    os.truncate(path, path.stat().st_size * 2 // 3)


def truncate_first(folder: Path) -> None:
    path = folder / "images" / "f01_phase.tif"
    os.truncate(path, path.stat().st_size // 2)


def truncate_compressed(folder: Path) -> None:
    path = folder / "images" / "f02_phase.tif"
    os.truncate(path, path.stat().st_size // 2)


def text_for_tiff(folder: Path) -> None:
    (folder / "images" / "f02_phase.tif").write_text("not an image\n")


def floats(folder: Path) -> None:
    for path in sorted((folder / "images").glob("*.tif")):
        write(path, tifffile.imread(path).astype(np.float32))
    image = make_image(1, "uint16").astype(np.float32)
    image[3, 5] = np.nan
    write(folder / "images" / "f02_dapi.tif", image)


COLOURS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
COLOURS[..., 0] = 200  # alike they would be grey


def rgb_png(folder: Path) -> None:
    (folder / "images" / "f02_phase.tif").unlink()
    data = imagecodecs.png_encode(COLOURS)
    (folder / "images" / "f02_phase.png").write_bytes(data)


def flat(folder: Path) -> None:
    for path in (folder / "images").glob("*dapi*"):
        write(path, np.full((HEIGHT, WIDTH), 7, np.uint16))


def only_two_fields(folder: Path) -> None:
    for path in (folder / "images").glob("f0[34]*"):
        path.unlink()


def a_file_is_in_the_way(folder: Path) -> None:
    (folder / "outputs").write_text("a file")


def a_run_is_there(folder: Path) -> None:
    (folder / "outputs" / "bad" / "checkpoints").mkdir(parents=True)
    (folder / "outputs" / "bad" / "config.yaml").write_text("old")
    (folder / "outputs" / "bad" / "checkpoints" / "last.ckpt").write_text("old")
    (folder / "outputs" / "bad" / "checkpoints" / "best.ckpt").write_text("old")


def ckpt_text(folder: Path) -> None:
    (folder / "x.ckpt").write_text("a checkpoint, honestly\n" * 10)


def ckpt_pickle(folder: Path) -> None:
    (folder / "x.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))


def ckpt_foreign(folder: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, folder / "x.ckpt")


def ckpt_malice(folder: Path) -> None:
    torch.save({"vfn": Malice(folder / "owned"), "state_dict": {}}, folder / "x.ckpt")


def ckpt_raw_malice(folder: Path) -> None:
    (folder / "x.ckpt").write_bytes(pickle.dumps(Malice(folder / "owned")))


def ckpt_truncated(folder: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"vfn": {"format": 1}, "state_dict": {"w": torch.zeros(1000)}}, buffer)
    (folder / "x.ckpt").write_bytes(buffer.getvalue()[:2000])


@dataclass(frozen=True)
class Case:
    """A command, what is wrong in its folder, and what its line must name.

    `images/` holds four sound fields of phase and dapi; GOOD stands for a trained checkpoint.
    `others` are files that are written all the same: those of the sound fields.
    """

    overrides: list[str]
    says: tuple[str, ...]
    prepare: Callable[[Path], None] = nothing
    script: str = "train.py"
    absent: tuple[str, ...] = ("outputs", "owned")
    others: frozenset[str] = frozenset()


def train(
    *overrides: str, says: tuple[str, ...], prepare: Callable[[Path], None] = nothing
) -> Case:
    return Case([*FOLDER, *TINY, "run=bad", *overrides], says, prepare)


def simulated(*overrides: str, says: tuple[str, ...]) -> Case:
    return Case([*SIMULATED, *TINY, "run=bad", *overrides], says)


def predict(
    *overrides: str,
    says: tuple[str, ...],
    prepare: Callable[[Path], None] = nothing,
    others: frozenset[str] = frozenset(),
) -> Case:
    return Case([*overrides], says, prepare, "predict.py", others=others)


SOUND = frozenset(f"out/{name}.ome.tif" for name in ("f02", "f03", "f04"))


def evaluate(
    *overrides: str, says: tuple[str, ...], prepare: Callable[[Path], None] = nothing
) -> Case:
    return Case([*overrides], says, prepare, "evaluate.py")


GREY = make_image(5, "uint16")
PREDICT = ("input=images", "output=out")
CASES = {
    # images
    "channel file missing": train(
        says=("f02", "phase", "data.unpaired=skip"), prepare=remove("f02_phase.tif")
    ),
    "target file missing": train(says=("f03", "dapi"), prepare=remove("f03_dapi.tif")),
    "sizes differ in a field": train(
        says=("f02", "70x91", "69x90", "one size"), prepare=put("f02_dapi.tif", GREY[1:, 1:])
    ),
    "RGB TIFF": train(
        says=("f02_phase.tif", "RGB", "grey"),
        prepare=put("f02_phase.tif", COLOURS),
    ),
    "RGB PNG": train(says=("f02_phase.png", "RGB", "grey"), prepare=rgb_png),
    "empty folder": train(says=("images", "no image in it"), prepare=no_images),
    "missing folder": train("data.root=nowhere", says=("nowhere", "no such folder", "give")),
    "no folder given": train("data.root=null", says=("data=folder", "data.root=DIR")),
    "truncated TIFF": train(says=("f02_phase.tif", "truncated", "copy it anew"), prepare=truncate),
    "truncated LZW TIFF": train(says=("f02_phase.tif", "copy it anew"), prepare=truncate_compressed),
    "text named .tif": train(says=("f02_phase.tif", "cannot be read"), prepare=text_for_tiff),
    "NaN pixels": train(says=("f02_dapi.tif", "1 pixels are NaN"), prepare=floats),
    "dtypes differ between fields": train(
        says=("f02_dapi.tif", "uint8", "uint16"),
        prepare=put("f02_dapi.tif", make_image(1, "uint8")),
    ),
    "empty channel": train(says=("dapi", "all training pixels are 7"), prepare=flat),
    "two files for one channel": train(
        says=("f02", "both", "data.pattern"), prepare=put("f02-phase.tiff", GREY)
    ),
    "too few fields": train(says=("2 field(s)", "data.split=spatial"), prepare=only_two_fields),
    "int64 pixels": train(
        says=("f02_phase.tif", "int64", "uint16"), prepare=put("f02_phase.tif", GREY.astype(np.int64))
    ),
    # names
    "unknown channel": train("task.inputs=[gfp]", says=("gfp", "data.channels=")),
    "unknown task": simulated("task=dapi_from_fase", says=("dapi_from_fase", "dapi_from_phase")),
    "unknown data": simulated("data=u2os_cp", says=("u2os_cp", "u2os_cps")),
    "unknown model": simulated("model=unett", says=("unett", "unet")),
    "unknown loss": simulated("loss=l1", says=("l1", "mae")),
    "misspelt key": simulated("trainer.max_epoch=3", says=("trainer.max_epoch", "max_epochs")),
    "misspelt nested key": simulated(
        "model.generator.widht=3", says=("model.generator.widht", "width")
    ),
    "misspelt top key": simulated("sed=3", says=("sed", "seed")),
    "unknown generator": simulated("model.generator.name=resnet", says=("resnet", "unet")),
    "new key": simulated("+model.generator.wings=2", says=("wings", "conf/model")),
    "not key=value": simulated("trainer", says=("trainer",)),
    "data without the channels": Case(
        ["data=u2os_cps", "data.root=images", "task=dapi_from_phase", *TINY],
        ("dapi_from_phase", "u2os_cps", "dna_from_mito", "mito_from_rna"),
    ),
    "data without the planes": Case(
        ["data=mda_mb_231", "data.root=images", "task=refocus", *TINY],
        ("refocus", "mda_mb_231", "vinculin_from_actin"),
    ),
    "no channels": Case(
        ["data=folder", "data.root=images", "task=custom", *TINY], ("task.inputs", "task.targets")
    ),
    "a channel twice": train("task.inputs=[phase,phase]", says=("task.inputs", "twice")),
    # numbers
    "patch no multiple": simulated("data.patch_size=96", says=("96", "multiple of 64")),
    "word for a number": simulated("trainer.max_epochs=many", says=("trainer.max_epochs", "many")),
    "negative weight": simulated("loss.mae=-1", says=("loss.mae", "-1")),
    "no temperature": simulated(
        "loss=tolerance", "loss.tolerance_temperature=0", says=("tolerance_temperature=0", "above 0")
    ),
    "batch of none": simulated("data.batch_size=0", says=("data.batch_size=0",)),
    "no epochs": simulated("trainer.max_epochs=0", says=("trainer.max_epochs=0", "1 or more")),
    "no time": simulated("trainer.max_time=00:00:00:00", says=("00:00:00:00", "a second")),
    "time in words": simulated("trainer.max_time=5x", says=("5x", "3m", "00:00:05:00")),
    "fraction of 1": simulated("data.test_fraction=1", says=("data.test_fraction=1", "between")),
    "unknown split": simulated("data.split=random", says=("random", "spatial")),
    "unknown range": simulated("data.range=fulll", says=("fulll", "percentile")),
    "bad pattern": train("data.pattern='(?P<channel>['", says=("data.pattern", "regular expression")),
    "pattern without groups": train("data.pattern='(?P<channel>x)'", says=("field", "found")),
    "unknown reduction": simulated("loss.weight_l1_reduction=max", says=("max", "mean or sum")),
    "no GPU": simulated("trainer.accelerator=tpu", says=("tpu",)),
    "unknown precision": simulated("trainer.precision=16", says=("16", "bf16-mixed")),
    # folders and runs
    "output below a file": Case(
        [*SIMULATED, *TINY, "run=bad"], ("outputs",), a_file_is_in_the_way, absent=()
    ),
    "run exists": Case(
        [*SIMULATED, *TINY, "run=bad"], ("run=bad", "resume=outputs/bad"), a_run_is_there, absent=()
    ),
    "nothing to resume": Case(["resume=outputs/gone"], ("outputs/gone", "outputs/NAME")),
    "init is none": simulated("init=images/f01_phase.tif", says=("images/f01_phase.tif",)),
    "init has other channels": train(
        "init=GOOD", "task.inputs=[dapi,phase]", "task.targets=[dapi]", says=("init", "1 input")
    ),
    # checkpoints
    "no ckpt": predict(*PREDICT, says=("ckpt", "not given", "best.ckpt")),
    "ckpt missing": predict("ckpt=gone.ckpt", *PREDICT, says=("gone.ckpt", "no such file")),
    "ckpt is a folder": predict("ckpt=images", *PREDICT, says=("images",)),
    **{
        f"ckpt: {prepare.__name__[5:]}": predict(
            "ckpt=x.ckpt", *PREDICT, says=("ckpt=x.ckpt",), prepare=prepare
        )
        for prepare in (
            ckpt_text, ckpt_pickle, ckpt_foreign, ckpt_malice, ckpt_raw_malice, ckpt_truncated,
        )
    },
    "evaluate: malice": evaluate(
        "ckpt=x.ckpt", "output=out", says=("ckpt=x.ckpt",), prepare=ckpt_malice
    ),
    # prediction
    "input missing": predict("ckpt=GOOD", "input=gone", "output=out", says=("gone", "give")),
    "input not given": predict("ckpt=GOOD", "output=out", says=("input", "DIR_OR_FILE")),
    "output not given": predict("ckpt=GOOD", "input=images", says=("output=DIR",)),
    "wrong dtype": predict(
        "ckpt=GOOD", *PREDICT, says=("phase", "uint8", "uint16"),
        prepare=put("f01_phase.tif", make_image(1, "uint8")), others=SOUND,
    ),
    "input truncated": predict(
        "ckpt=GOOD", *PREDICT, says=("1 of 4", "f01_phase.tif", "copy it anew"),
        prepare=truncate_first, others=SOUND,
    ),
    "output below a file, predict": predict(
        "ckpt=GOOD", "input=images", "output=images/f01_phase.tif/out", says=("f01_phase.tif", "output")
    ),
    "output is the input": predict(
        "ckpt=GOOD", "input=images", "output=images", says=("output=images", "choose a folder")
    ),
    "unknown device": predict("ckpt=GOOD", *PREDICT, "device=abacus", says=("abacus", "cpu")),
    "unknown precision, predict": predict("ckpt=GOOD", *PREDICT, "precision=8", says=("8", "bf16")),
    "overlap of all": predict("ckpt=GOOD", *PREDICT, "overlap=0.9", says=("0.9", "0.5")),
    "tile in words": predict("ckpt=GOOD", *PREDICT, "tile=big", says=("tile", "big")),
    "no such key, predict": predict("ckpt=GOOD", *PREDICT, "tyle=3", says=("tyle", "tile")),
    # evaluation
    "nothing to score": evaluate("output=out", says=("ckpt=CKPT", "truth=DIR")),
    "half a pair": evaluate("pred=images", "output=out", says=("pred", "truth=DIR")),
    "pred missing": evaluate("pred=gone", "truth=images", "output=out", says=("gone",)),
    "trained on the test fields": evaluate(
        "ckpt=GOOD", "data=simulated", "data.split_seed=4", "output=out",
        says=("trained on", "flatter"),
    ),
    "data of another task": evaluate(
        "ckpt=GOOD", "data=u2os_cps", "data.root=images", "output=out",
        says=("dapi_from_phase", "u2os_cps"),
    ),
    "output below a file, evaluate": evaluate(
        "ckpt=GOOD", "output=images/f01_phase.tif/out", says=("f01_phase.tif", "output")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint."""
    folder = tmp_path_factory.mktemp("good")
    run("train.py", *SIMULATED, *TINY, "run=good", cwd=folder).ok()
    return folder / "outputs" / "good" / "checkpoints" / "best.ckpt"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below `folder` with its time and checksum."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, zlib.crc32(path.read_bytes()))
        for path in folder.rglob("*")
        if path.is_file()
    }


Outcome = tuple[Path, dict[str, tuple[int, int]], Result]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    good: Path,
    workers: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Future[Outcome]]:
    def one(name: str) -> Outcome:
        case, folder = CASES[name], tmp_path_factory.mktemp("bad")
        write_tokens(folder / "images", ("phase", "dapi"), 4, "uint16")
        case.prepare(folder)
        before = contents(folder)
        overrides = [override.replace("=GOOD", f"={good}") for override in case.overrides]
        return folder, before, run(case.script, *overrides, cwd=folder)

    chosen = dict.fromkeys(
        item.callspec.params["case"]
        for item in request.session.items
        if hasattr(item, "callspec") and "case" in item.callspec.params
    )
    return {name: workers.submit(one, name) for name in chosen}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, outcomes: dict[str, Future[Outcome]]) -> None:
    folder, before, result = outcomes[case].result()
    line = result.refused(*CASES[case].says)
    assert line.startswith("error: ")
    assert len(line) < 500, "nobody reads that"
    after = contents(folder)
    assert set(after) - set(before) - {"out/input_shift.csv"} == CASES[case].others
    assert {name: after[name] for name in before} == before, "files were changed"
    for name in CASES[case].absent:
        assert not (folder / name).exists(), f"{name} was made"


def test_mended_input_trains_under_the_same_name(tmp_path: Path) -> None:
    """What was refused leaves nothing that is in the way of the next try."""
    write_tokens(tmp_path / "images", ("phase", "dapi"), 4, "uint16")
    truncate(tmp_path)
    command = [*FOLDER, *TINY, "run=again"]
    run("train.py", *command, cwd=tmp_path).refused("truncated")
    write(tmp_path / "images" / "f02_phase.tif", GREY)
    run("train.py", *command, cwd=tmp_path).ok()


def test_unpaired_fields_can_be_left_out(tmp_path: Path) -> None:
    write_tokens(tmp_path / "images", ("phase", "dapi"), 4, "uint16")
    remove("f02_phase.tif")(tmp_path)
    run("train.py", *FOLDER, *TINY, "run=r", "data.unpaired=skip", cwd=tmp_path).ok()


# Genuine processes: the exit code and the streams are the operating system's, not a fork's.


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """`--help` of each script, and one refusal, all started at once."""
    folder = tmp_path_factory.mktemp("genuine")
    processes = {
        script: start(script, "--help", cwd=folder)
        for script in ("train.py", "predict.py", "evaluate.py")
    }
    processes["refused"] = start("train.py", "task=nonsense", cwd=folder)
    return {name: finish(process) for name, process in processes.items()}


@pytest.mark.parametrize("script", ["train.py", "predict.py", "evaluate.py"])
def test_help(script: str, genuine: dict[str, Result]) -> None:
    result = genuine[script].ok()
    assert f"python {script}" in result.out
    assert "output=DIR" in result.out or "trainer.max_time" in result.out


def test_exit_code_of_a_refusal(genuine: dict[str, Result]) -> None:
    genuine["refused"].refused("task=nonsense", "dapi_from_phase")


def test_ctrl_c_keeps_what_was_learnt(tmp_path: Path) -> None:
    process = start(
        "train.py", *SIMULATED, *TINY, "run=r", "trainer.max_epochs=100000", cwd=tmp_path
    )
    last = tmp_path / "outputs" / "r" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.code == 130, result.err
    assert "Traceback" not in result.err
    assert torch.load(last, weights_only=True)["global_step"] > 0
    assert (last.parent / "best.ckpt").exists()
    assert not list(last.parent.glob(".tmp*"))
