"""Every message that docs/troubleshooting.md explains, provoked through the command line."""

import re
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.cli import ROOT, run
from tests.conftest import HEIGHT, WIDTH, write_tokens
from tests.test_cli import SIMULATED, TINY

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = dict(re.findall(r"^## (.+?)\n+```text\n(.+?)\n```", PAGE, re.MULTILINE))
FOLDER = ["data=folder", "data.root=images", "task.inputs=phase", "task.targets=dapi"]
TRAIN = ["train.py", *FOLDER, *TINY, "logger=csv", "run=r"]


def images(fields: int, folder: Path) -> None:
    write_tokens(folder / "images", ("phase", "dapi"), fields, "uint16")


def apart(folder: Path) -> None:
    images(3, folder)
    for path in (folder / "images").glob("*_dapi.tif"):
        path.rename(path.with_name(f"2_{path.name}"))


def one_less(folder: Path) -> None:
    images(3, folder)
    (folder / "images" / "f02_dapi.tif").unlink()


def colour(folder: Path) -> None:
    images(3, folder)
    (folder / "images" / "f02_phase.tif").unlink()
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[..., 0] = 200  # alike they would be grey
    data = imagecodecs.png_encode(colours)
    (folder / "images" / "f02_phase.png").write_bytes(data)


def trained(folder: Path) -> None:
    images(4, folder)
    run(*TRAIN, cwd=folder).ok()


def inverted(folder: Path) -> None:
    trained(folder)
    (folder / "new").mkdir()
    image = 65535 - tifffile.imread(folder / "images" / "f01_phase.tif")
    tifffile.imwrite(folder / "new" / "f01_phase.tif", image)


def text(folder: Path) -> None:
    (folder / "x.ckpt").write_text("text")


def nothing(_: Path) -> None:
    """All that it takes is on the command line."""


PREDICT = ["predict.py", "ckpt=outputs/r/checkpoints/best.ckpt", "input=new", "output=p"]
PROVOKED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "No file for a channel": (lambda f: images(3, f), [*TRAIN, "task.targets=hoechst"]),
    "Channels that do not pair": (apart, TRAIN),
    "One field lacks a file": (one_less, TRAIN),
    "A misspelt setting": (nothing, ["train.py", "data.chanels=x"]),
    "A list that the shell took apart": (nothing, ["train.py", "task.inputs=[phase,", "dapi]"]),
    "Too few fields": (lambda f: images(2, f), TRAIN),
    "Colour images": (colour, TRAIN),
    "A run of that name is there": (trained, TRAIN),
    "A task that the data set does not have": (
        nothing, ["train.py", "data=u2os_cps", "data.root=.", "task=dapi_from_phase"],
    ),
    "No GPU": (nothing, ["train.py", *SIMULATED, "trainer=gpu", "run=r"]),
    "Patches and depth": (nothing, ["train.py", *SIMULATED, *TINY, "data.patch_size=100"]),
    "Images unlike those of the training": (inverted, PREDICT),
    "A checkpoint that is none": (text, ["predict.py", "ckpt=x.ckpt", "input=.", "output=p"]),
    "A training that diverged": (
        nothing,
        ["train.py", *SIMULATED, *TINY, "model.adam.lr_generator=1e30", "trainer.max_epochs=3", "run=r"],
    ),
    "Trained too little": (lambda f: images(4, f), TRAIN),
}  # fmt: skip
TOLD = ("Images unlike those of the training", "Trained too little")  # they end no command


def test_each_message_is_provoked() -> None:
    assert MESSAGES.keys() == PROVOKED.keys()
    assert len(MESSAGES) >= 12


@pytest.mark.parametrize("heading", MESSAGES)
def test_message(heading: str, tmp_path: Path) -> None:
    prepare, (script, *words) = PROVOKED[heading]
    prepare(tmp_path)
    env = {"CUDA_VISIBLE_DEVICES": ""}
    result = run(script, *words, cwd=tmp_path, env=env)
    said = result.ok().out if heading in TOLD else result.refused()
    parts = [re.escape(part) for part in MESSAGES[heading].split("...")]
    assert re.search(".*".join(parts), " ".join(said.split())), said
