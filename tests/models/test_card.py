"""The model card: measured, kept in the checkpoint, printed; hostile checkpoints too."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import vfn
from tests.cli import run
from tests.conftest import write_tokens
from tests.models.test_verdicts import SCORES
from vfn.data.config import DataConfig
from vfn.data.sets import make_data
from vfn.errors import UserError
from vfn.models.card import About, card_of, limits, markdown
from vfn.models.checkpoint import load_checkpoint
from vfn.models.gan import VirtualStain
from vfn.models.recipe import RECIPE
from vfn.models.words import counted, duration, text

RUN = [
    "data=simulated", "model=virfluonet", "data.fields=6", "data.height=70", "data.width=91", "data.patch_size=64",
    "data.batch_size=2", "data.patches_per_epoch=8", "model.generator.width=4", "loss=mae",
    "model.generator.max_width=8", "logger=csv", "trainer=cpu", "trainer.precision=32-true",
]  # fmt: skip
SAYS = ["card.licence=CC0-1.0", "card.note='For teaching [only]'"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for an epoch, resumed for another."""
    root = tmp_path_factory.mktemp("card")
    run("train.py", *RUN, *SAYS, "run=a", "trainer.max_epochs=1", cwd=root).ok()
    first = root / "outputs/a/checkpoints/last.ckpt"
    (root / "first.ckpt").write_bytes(first.read_bytes())
    run("train.py", "resume=outputs/a", "trainer.max_epochs=2", cwd=root).ok()
    return root


def ckpt(folder: Path) -> Path:
    return folder / "outputs" / "a" / "checkpoints" / "best.ckpt"


def load(path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = torch.load(path, weights_only=True)
    return raw


def test_the_budget_is_that_of_the_whole_run(folder: Path) -> None:
    first = load(folder / "first.ckpt")[RECIPE]["card"]["training"]
    last = load(ckpt(folder).with_name("last.ckpt"))[RECIPE]["card"]["training"]
    assert (first["steps"], last["steps"]) == (4, 8)
    assert (first["patches"], last["patches"]) == (8, 16)
    assert (first["epoch"], last["epoch"]) == (1, 2)
    assert last["seconds"] >= first["seconds"] > 0
    assert last["precision"] == "32-true"
    checkpoint = load_checkpoint(ckpt(folder))
    assert last["parameters"] == sum(p.numel() for p in checkpoint.generator.parameters())


def test_scores_are_those_of_the_weights_beside_the_baselines(folder: Path) -> None:
    checkpoint = load_checkpoint(ckpt(folder))
    found = card_of(checkpoint.recipe)["validation"]
    with (folder / "outputs/a/metrics.csv").open(newline="") as file:
        best = min(float(row["val/mae"]) for row in csv.DictReader(file))
    assert found["mae"] == pytest.approx(best, rel=1e-5)
    data = make_data(checkpoint.task, DataConfig.from_dict(checkpoint.recipe["data"]))
    data.setup()
    patches = data.val_patches()
    assert found["patches"] == len(patches)
    raw = patches.__getitems__(range(len(patches)))
    assert raw.valid is None or raw.valid.all()
    phase, dapi = raw.planes[:, 0].numpy(), raw.planes[:, 1].numpy()
    fitted = checkpoint.targets[0]
    by_patch = [checkpoint.baselines.predict([patch], [fitted.dtype]) for patch in phase]
    predicted = {name: np.concatenate([p[name][0] for p in by_patch]) for name in by_patch[0]}
    for name, image in predicted.items():
        errors = fitted.normalise(image) - fitted.normalise(dapi.reshape(-1, 64))
        # Rounded to grey values here, and not there.
        assert found["baselines"][name] == pytest.approx(np.abs(errors).mean(), abs=2e-4)
    assert set(predicted) == set(found["baselines"]) == {"mean", "linear", "median", "filter"}


def test_info_prints_the_card(folder: Path) -> None:
    page = run("vfn.info", ckpt(folder), cwd=folder).ok().out
    for part in (
        "# phase to dapi", "Licence of the weights: CC0-1.0.", r"For teaching \[only\]",
        "| training | 4 |", "| validation | 1 |", "| testing | 1 |", "| phase | uint16 |", "pixel size 0.65 um",
        "4 steps" if "4 steps" in page else "8 steps", "patches of 64 x 64 px", "baselines: mean", "Not calibrated",
        "## Verdict\n\n- dapi: never scored on test fields; run python evaluate.py ckpt=CKPT output=DIR\n",
        "Trained on 4 fields of data=simulated.", "knows nothing of real images", "Not for diagnosis",
        f"vfn {vfn.__version__}", f"torch {torch.__version__}",
    ):  # fmt: skip
        assert part in page, part
    card = json.loads(run("vfn.info", ckpt(folder), "--json", cwd=folder).ok().out)
    assert card["task"]["inputs"] == ["phase"]
    assert card["data"]["parts"]["train"] == {"views": 4, "fields": 4, "wells": 0, "plates": 0}
    assert card["inputs"][0]["seen"]["background"][0] > 0
    assert vfn.load(ckpt(folder)).card == card


def test_evaluate_puts_the_scores_of_its_own_test_fields_into_the_card(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(ckpt(folder).read_bytes())
    before = path.read_bytes()
    keys = [f"ckpt={path}", "output=scores"]
    run("evaluate.py", *keys, "card=false", cwd=tmp_path).ok()
    for other, reason in (
        ("+data.first_seed=500", "only the 1 test fields of the training"),
        ("+data.treatment=mito_collapse", "data.treatment is not that of the training"),
        ("verdict.psnr_gain.care=-50", "the limits of the verdict are not those of vfn"),
    ):
        told = run("evaluate.py", *keys[:1], "output=other", other, cwd=tmp_path).ok().out
        assert f"the scores are not put into the model card: {reason}" in told
    run("evaluate.py", *keys, "+data.first_seed=500", "card=true", cwd=tmp_path).refused(
        "card=true"
    )
    for refused in (["pred=x", "truth=y", "card=true"], [*keys[:1], "card=yes"]):
        run("evaluate.py", *refused, "output=z", cwd=tmp_path).refused(refused[-1])
    assert path.read_bytes() == before
    assert "python -m vfn.info" in run("evaluate.py", *keys, cwd=tmp_path).ok().out
    old, new = torch.load(io.BytesIO(before), weights_only=True), load(path)
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())["dapi"]
    tested = card_of(new[RECIPE])["test"]["dapi"]
    assert tested["psnr_signal"] == pytest.approx(summary["psnr_signal"]["mean"])
    assert (tested["fields"], tested["wells"]) == (1, 0)
    assert (tested["verdict"], tested["own_limits"]) == (summary["verdict"]["level"], False)
    assert tested["reason"] == summary["verdict"]["reasons"][0]
    # All else is as it was.
    new[RECIPE]["card"] = old[RECIPE]["card"]
    for raw in (old, new):
        raw["state_dict"] = {k: v.numpy().tobytes() for k, v in raw["state_dict"].items()}
        raw["rng"] = raw["rng"]["cpu"].tolist()
    assert new == old
    (verdict,) = load_checkpoint(path).verdicts
    assert verdict.text.startswith("dapi: do not use")
    assert f"\n- {text(verdict.text)}\n" in run("vfn.info", path, cwd=tmp_path).ok().out
    run("vfn.calibrate", f"ckpt={path}", "steps=2", cwd=tmp_path).ok()
    page = run("vfn.info", path, cwd=tmp_path).ok().out
    assert "calibrated on 1 validation field." in page
    assert f"| dapi | 1 | {tested['verdict']} |" in page


def test_the_verdict_is_what_predict_says_last(folder: Path, tmp_path: Path) -> None:
    write_tokens(tmp_path / "new", ("phase",), 1, "uint16")
    raw = load(ckpt(folder))
    for scored, last in ((None, "dapi: never scored"), (SCORES, "dapi: use with care (")):
        raw[RECIPE]["card"]["test"] = scored and {"dapi": scored}
        torch.save(raw, tmp_path / "a.ckpt")
        keys = ["ckpt=a.ckpt", "input=new", f"output={'b' if scored else 'a'}"]
        told = run("predict.py", *keys, cwd=tmp_path).ok().out
        assert told.splitlines()[-1].startswith(last)
    (image,) = (tmp_path / "b").glob("*.ome.tif")
    with tifffile.TiffFile(image) as tif:
        note = tifffile.xml2dict(tif.ome_metadata or "")["OME"]["Image"]["Description"]
    (verdict,) = load_checkpoint(tmp_path / "a.ckpt").verdicts
    assert f"\nVerdict when predicted: {verdict.text}" in note


def test_weights_that_train_on_lose_their_scores(folder: Path, tmp_path: Path) -> None:
    raw = load(ckpt(folder))
    raw[RECIPE]["card"]["test"] = {"dapi": SCORES}
    torch.save(raw, tmp_path / "a.ckpt")
    module = VirtualStain.load_from_checkpoint(tmp_path / "a.ckpt")
    assert module.recipe["card"]["test"] == {"dapi": SCORES}
    module.trainer = SimpleNamespace(precision_plugin=None)  # type: ignore[assignment]
    module.on_train_start()
    assert module.recipe["card"] == {**raw[RECIPE]["card"], "test": None}


def test_a_strangers_card_is_printed_not_obeyed(folder: Path, tmp_path: Path) -> None:
    raw = load(ckpt(folder))
    raw[RECIPE]["card"]["note"] = "\x1b]0;owned\x07 <script>alert(1)</script>\n# Licence: free"
    torch.save(raw, tmp_path / "odd.ckpt")
    page = run("vfn.info", "odd.ckpt", cwd=tmp_path).ok().out
    assert "\x1b" not in page
    assert r"\<script\>" in page
    assert "\n# Licence" not in page
    for damage, says in (
        ([], "recipe is damaged (card is '[]')"),
        ({"task": 5}, "model card is damaged"),
        ({**raw[RECIPE]["card"], "limits": 5}, "model card is damaged"),
        ({**raw[RECIPE]["card"], "test": {"dapi": 5}}, "model card is damaged"),
        (
            {**raw[RECIPE]["card"], "test": {"dapi": {**SCORES, "verdict": "x" * 10**7}}},
            "model card is damaged (ValueError: verdict 'xxx",
        ),
    ):
        raw[RECIPE]["card"] = damage
        torch.save(raw, tmp_path / "odd.ckpt")
        assert len(run("vfn.info", "odd.ckpt", cwd=tmp_path).refused(says)) < 500


def test_info_refuses_in_one_line(folder: Path) -> None:
    run("vfn.info", cwd=folder).refused("CKPT", "--help")
    run("vfn.info", "gone.ckpt", cwd=folder).refused("gone.ckpt", "no such file")
    run("vfn.info", ckpt(folder), "--yaml", cwd=folder).refused("--yaml")


def test_what_a_user_says_of_a_model_is_text() -> None:
    assert About.from_dict({}) == About.from_dict({"licence": None, "note": None}) == About()
    for given in ({"licence": 3}, {"note": " "}, {"licence": ["MIT"]}):
        with pytest.raises(UserError, match=r"card\.\w+=.*give a text"):
            About.from_dict(given)


def test_words_stay_readable() -> None:
    assert text("golgi_actin x86_64") == "golgi_actin x86_64"
    assert text("_a_ *b* |c") == r"\_a\_ \*b\* \|c"
    assert [counted(n, w) for n, w in ((1, "step"), (2, "patch"), (1200, "process"))] == [
        "1 step", "2 patches", "1,200 processes",
    ]  # fmt: skip
    assert [duration(s) for s in (0.4, 59, 61, 7260, 90000)] == [
        "0 s", "59 s", "1 min 1 s", "2 h 1 min", "25 h 0 min",
    ]  # fmt: skip


def test_limits_follow_from_the_data(folder: Path) -> None:
    card = card_of(load_checkpoint(ckpt(folder)).recipe)
    beaten = {**card["validation"], "mae": 1.0}
    changed = {
        **card,
        "data": {
            **card["data"], "name": "folder", "pixel_size": None, "split_by": "spatial",
            "parts": {**card["data"]["parts"], "train": {"views": 9, "fields": 9, "wells": 3, "plates": 1}},
        },
        "validation": beaten,
    }  # fmt: skip
    said = " ".join(limits(changed))
    for part in ("9 fields, 3 wells, 1 plate of data=folder", "of one plate", "did not state their pixel size",
                 "not of new experiments", "does not beat the baseline"):  # fmt: skip
        assert part in said
    assert "real images" not in said
    assert "does not beat" not in " ".join(
        limits({**changed, "validation": {**beaten, "mae": 0.0}})
    )
    assert "- 9 fields" not in markdown({**changed, "limits": []})
