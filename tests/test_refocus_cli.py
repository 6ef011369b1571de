"""Refocusing through the real command line: BBBC006's own file names, the chain, the scale of focus."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import vfn
from tests.cli import run
from vfn.data.images import read_image
from vfn.data.sets import U2OSCPS
from vfn.data.simulated import Specimen
from vfn.models.recipe import RECIPE

TINY = [
    "logger=csv", "loss=mae", "model.generator.width=4", "model.generator.depth=3",
    "model.generator.max_width=8", "data.patch_size=32", "data.patches_per_epoch=8",
    "data.val_patches=4", "trainer.max_epochs=1", "trainer.accelerator=cpu",
    "trainer.precision=32-true",
]  # fmt: skip
SHAPE = (144, 160)
PIXEL = 1.0  # um; a few cells in each field
DEPTHS = (-10, -8, -6, -4, 4, 6, 8, 10)


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def summary(folder: Path) -> dict[str, Any]:
    (part,) = json.loads((folder / "summary.json").read_text()).values()
    return part


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BBBC006's folders of simulated stacks with a model, and a Cell Painting plate with blurred fields."""
    root = tmp_path_factory.mktemp("refocus")
    for number, well in enumerate(("a01", "a02", "b01", "b02", "c01")):
        for site in (1, 2):
            specimen = Specimen(10 * number + site, SHAPE, PIXEL)
            for z in (*DEPTHS, -2, 0, 2):
                name = f"mcf-z-stacks-03212011_{well}_s{site}_w2{number:03d}.tif"
                where = root / "af" / f"BBBC006_v1_images_z_{16 + z // 2:02d}"
                write(where / name, specimen.render("actin", z))
    for number in range(12):
        specimen = Specimen(100 + number, SHAPE, PIXEL)
        for w, channel in enumerate(("dna", "er", "rna", "golgi_actin"), 1):
            z = 10.0 if channel == "golgi_actin" and number % 3 == 0 else 0.0
            name = f"IXMtest_{'ABC'[number % 3]}{number // 3 + 1:02d}_s1_w{w}{number:03d}.tif"
            write(root / "cps" / f"BBBC022_v1_images_20585w{w}" / name, specimen.render(channel, z))
    af = ["data=u2os_af", "data.root=af", "task=refocus", "data.test_fraction=0.2"]
    run("train.py", *af, *TINY, "run=af", cwd=root).ok()
    return root


CKPT = "outputs/af/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def evaluated(folder: Path) -> Path:
    """The refocusing model, scored."""
    run("evaluate.py", f"ckpt={CKPT}", "output=af_scores", cwd=folder).ok()
    return folder / "af_scores"


def test_a_group_is_a_field_at_eight_depths_and_stays_together(folder: Path) -> None:
    """|z| of 2 um and less is in focus already (sec. 3.1)."""
    recipe = torch.load(folder / CKPT, weights_only=True)[RECIPE]
    assert recipe["task"]["input_z"] == list(DEPTHS)
    groups = {}
    for part in ("train", "val", "test"):
        names = [name for name, _ in recipe["split"][part]]
        for name in names:
            field, _, z = name.rpartition("_z")
            groups.setdefault((part, field), []).append(float(z))
    assert all(sorted(depths) == list(DEPTHS) for depths in groups.values())
    fields = [field for _, field in groups]
    assert len(fields) == len(set(fields)) == 10


def test_every_depth_is_scored_beside_input_and_filter(evaluated: Path) -> None:
    table = lines(evaluated / "depths.csv")
    methods = {"prediction", "input", "wiener", "filter", "linear", "median", "mean"}
    assert {(float(line["z"]), line["method"]) for line in table} == {
        (z, method) for z in DEPTHS for method in methods
    }
    by = {(float(line["z"]), line["method"]): line for line in table}
    assert all(line["n"] == "2" for line in table)
    # The farther from focus, the worse the input is; the filter was told the depth.
    psnr = [float(by[z, "input"]["psnr_mean"]) for z in (4, 6, 8, 10)]
    assert psnr == sorted(psnr, reverse=True)
    for z in DEPTHS:
        wiener, nothing = (float(by[z, m]["psnr_mean"]) for m in ("wiener", "input"))
        assert wiener > nothing
        assert by[z, "input"]["piqe_mean"]
    rows = lines(evaluated / "metrics.csv")
    assert {float(row["z"]) for row in rows} == set(DEPTHS)
    assert {row["z"] for row in lines(evaluated / "baselines.csv")} == {f"{z:g}" for z in DEPTHS}


def test_the_means_by_depth_are_those_of_the_rows(evaluated: Path) -> None:
    rows = lines(evaluated / "metrics.csv")
    for line in lines(evaluated / "depths.csv"):
        if line["method"] == "prediction":
            values = [float(row["psnr"]) for row in rows if row["z"] == line["z"]]
            assert float(line["psnr_mean"]) == pytest.approx(np.mean(values))
    found = {entry["z"]: entry for entry in summary(evaluated)["depths"]}
    assert set(found) == set(DEPTHS)
    against = found[-10]["against"]["psnr_signal"]
    methods = found[-10]["methods"]
    best = max(methods[m]["psnr_signal"]["mean"] for m in ("input", "wiener"))
    assert against["difference"] == pytest.approx(
        methods["prediction"]["psnr_signal"]["mean"] - best, abs=1e-6
    )


def test_the_depths_are_drawn(evaluated: Path) -> None:
    assert (evaluated / "figures" / "actin_depths.png").stat().st_size > 10_000
    assert (evaluated / "figures" / "actin_quality.png").stat().st_size > 10_000
    page = (evaluated / "report.html").read_text()
    assert "Refocusing, by depth" in page
    assert "Wiener filter" in page


CHAIN = [
    "data=u2os_cps",
    "data.root=cps",
    "task=er",
    f"data.refocus={CKPT}",
    "data.split=field",
    "data.refocus_beyond=5",
]


@pytest.fixture(scope="module")
def chained(folder: Path) -> Path:
    """A stain learnt from refocused inputs."""
    result = run("train.py", *CHAIN, *TINY, "run=chain", cwd=folder).ok()
    assert "4 of 12 fields are blurred in golgi_actin (beyond 5 um), refocused" in result.out, (
        result.out
    )
    return folder


def blurred(table: list[dict[str, str]]) -> set[str]:
    return {line["field"] for line in table if line["blurred"] == "true"}


def test_the_blurred_fields_are_found_and_recorded(chained: Path) -> None:
    table = lines(chained / "outputs" / "chain" / "refocus.csv")
    assert len(table) == 12
    assert {line["channel"] for line in table} == {"golgi_actin"}
    assert {line["part"] for line in table} == {"train", "val", "test"}
    found = [line for line in table if line["blurred"] == "true"]
    assert len(found) == 4
    assert all("_A0" in line["field"] or "A0" in line["field"] for line in found)
    assert all(line["refocused"] == line["blurred"] for line in table)
    assert min(float(line["focus_um"]) for line in found) > 5


def test_one_checkpoint_predicts_through_the_chain(chained: Path, tmp_path: Path) -> None:
    ckpt = tmp_path / "alone.ckpt"  # the refocusing model need not be there
    ckpt.write_bytes((chained / "outputs/chain/checkpoints/best.ckpt").read_bytes())
    result = run(
        "predict.py", f"ckpt={ckpt}", f"input={chained / 'cps'}", "output=stains", cwd=tmp_path
    ).ok()
    assert "4 of 12 fields are blurred in golgi_actin" in result.out
    table = lines(tmp_path / "stains" / "refocus.csv")
    assert blurred(table) == blurred(lines(chained / "outputs" / "chain" / "refocus.csv"))
    field = min(blurred(table))
    with tifffile.TiffFile(tmp_path / "stains" / f"{field}.ome.tif") as file:
        assert "(refocused)" in (file.ome_metadata or "")


def test_what_refocusing_gains_downstream_is_said(chained: Path) -> None:
    ckpt = "ckpt=outputs/chain/checkpoints/best.ckpt"
    fields = sorted(
        line["field"] for line in lines(chained / "outputs" / "chain" / "refocus.csv")
        if line["part"] == "test"
    )  # fmt: skip
    result = run("evaluate.py", ckpt, "output=chain_scores", cwd=chained).ok()
    table = lines(chained / "outputs" / "chain" / "refocus.csv")
    done = sorted(f for f in fields if f in blurred(table))
    part = summary(chained / "chain_scores")
    if not done:
        assert "refocus" not in part
        return
    assert "Refocusing the inputs of" in result.out
    gain = lines(chained / "chain_scores" / "refocus_gain.csv")
    assert sorted(line["field"] for line in gain if line["inputs"] == "refocused") == done
    assert sorted(line["field"] for line in gain if line["inputs"] == "as they are") == done
    assert part["refocus"]["fields_refocused"] == len(done)
    assert part["refocus"]["fields_in_focus"] == len(fields) - len(done)


def test_blurred_fields_can_be_left_out_or_kept(folder: Path) -> None:
    tail = [f"data.refocus={CKPT}", "data.refocus_beyond=5"]
    for action, trained in (("leave_out", "5 train"), ("keep", "8 train")):
        keys = [*CHAIN[:3], *tail, "data.split=field", f"data.refocus_action={action}"]
        result = run("train.py", *keys, *TINY, f"run={action}", cwd=folder).ok()
        assert trained in result.out, result.out
        table = lines(folder / "outputs" / action / "refocus.csv")
        assert len(table) == 12
        assert len(blurred(table)) == 4
        assert {line["refocused"] for line in table} == {"false"}


def test_blurred_fields_can_be_named_by_hand(folder: Path) -> None:
    """The paper's way (sec. 3.1)."""
    (folder / "mine.csv").write_text("field\n20585_B01_s1\n20585_C02_s1\n")
    keys = [*CHAIN, "data.refocus_fields=mine.csv"]
    result = run("train.py", *keys, *TINY, "run=by_hand", cwd=folder).ok()
    assert "2 of 12 fields are blurred in golgi_actin (by name), refocused" in result.out
    table = lines(folder / "outputs" / "by_hand" / "refocus.csv")
    assert blurred(table) == {"20585_B01_s1", "20585_C02_s1"}


def test_intervals_and_resume_go_through_the_chain(chained: Path) -> None:
    ckpt = "outputs/chain/checkpoints/best.ckpt"
    run("vfn.calibrate", f"ckpt={ckpt}", "steps=2", cwd=chained).ok()
    keys = [f"ckpt={ckpt}", "input=cps", "output=with_width", "uncertainty=0.5"]
    result = run("predict.py", *keys, "format=ome_zarr", cwd=chained).ok()
    assert "4 of 12 fields are blurred" in result.out
    again = run("train.py", "resume=outputs/chain", "trainer.max_epochs=2", cwd=chained).ok()
    assert "4 of 12 fields are blurred" in again.out


def test_only_blurred_pixels_are_touched(chained: Path, tmp_path: Path) -> None:
    """The files stay, and a field in focus is predicted as without the chain."""
    before = {path: path.read_bytes() for path in (chained / "cps").rglob("*.tif")}
    ckpt = chained / "outputs/chain/checkpoints/best.ckpt"
    run("predict.py", f"ckpt={ckpt}", f"input={chained / 'cps'}", "output=a", cwd=tmp_path).ok()
    raw = torch.load(ckpt, weights_only=True)
    raw[RECIPE]["refocus"] = None
    torch.save(raw, tmp_path / "plain.ckpt")
    run("predict.py", "ckpt=plain.ckpt", f"input={chained / 'cps'}", "output=b", cwd=tmp_path).ok()
    done = blurred(lines(tmp_path / "a" / "refocus.csv"))
    for path in sorted((tmp_path / "a").glob("*.ome.tif")):
        same = np.array_equal(tifffile.imread(path), tifffile.imread(tmp_path / "b" / path.name))
        assert same == (path.name.removesuffix(".ome.tif") not in done)
    assert all(path.read_bytes() == content for path, content in before.items())
    model = vfn.load(ckpt)
    for path in sorted((tmp_path / "a").glob("*.ome.tif")):
        name = path.name.removesuffix(".ome.tif").removeprefix("20585_")
        planes = []
        for channel in model.inputs:
            plate = chained / "cps" / f"BBBC022_v1_images_20585w{U2OSCPS.CHANNELS[channel]}"
            (file,) = plate.glob(f"*_{name}_*.tif")
            planes.append(tifffile.imread(file))
        np.testing.assert_array_equal(model.predict(planes), read_image(path).array)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["data.refocus=nowhere.ckpt"], ["nowhere.ckpt", "no such file"]),
        (["data.refocus_action=burn"], ["refocus_action=burn", "leave_out"]),
        (["data.refocus_beyond=0"], ["refocus_beyond=0"]),
        (["data.refocus_channels=nope"], ["refocus_channels", "nope", "golgi_actin, rna"]),
        (["data.refocus_channels=[nope]"], ["refocus_channels", "nope", "golgi_actin, rna"]),
        (["data.refocus_fields=cps"], ["refocus_fields", "cannot be read"]),
        (["data.refocus_fields=odd.csv"], ["refocus_fields", "lacks the column field"]),
        (["data.cache=off"], ["data.refocus", "data.cache=disk"]),
        (["data.refocus=other.ckpt"], ["other.ckpt", "task=refocus"]),
    ],
)
def test_what_cannot_be_refocused_is_refused(
    chained: Path, keys: list[str], words: list[str]
) -> None:
    (chained / "odd.csv").write_text("name\nx\n")
    source = chained / "outputs/chain/checkpoints/best.ckpt"
    (chained / "other.ckpt").write_bytes(source.read_bytes())
    run("train.py", *CHAIN, *TINY, "run=bad", *keys, cwd=chained).refused(*words)
    assert not (chained / "outputs" / "bad").exists()
