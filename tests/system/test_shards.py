"""Jobs that share a plate: no field is left out, none is done twice."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli import run
from vfn.errors import UserError
from vfn.system.shards import Shard


@settings(derandomize=True, deadline=None)
@given(items=st.lists(st.integers(), max_size=60), count=st.integers(1, 12))
def test_shares_are_disjoint_and_all(items: list[int], count: int) -> None:
    shares = [Shard(k, count).of(list(enumerate(items))) for k in range(1, count + 1)]
    assert sorted(x for share in shares for x in share) == list(enumerate(items))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert all(share == sorted(share) for share in shares)


@pytest.mark.parametrize("text", ["0/3", "4/3", "2", "2/", "a/b", "-1/3", "1/0", "1.5/3", 2])
def test_what_is_no_share_is_refused(text: object) -> None:
    with pytest.raises(UserError, match=f"shard={text}: give K/N"):
        Shard.parse(text)


def test_a_job_writes_its_own_tables() -> None:
    path = Path("out/input_shift.csv")
    assert Shard.parse(None).own(path) == path
    assert Shard.parse("2/8").own(path) == Path("out/input_shift.2-of-8.csv")


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    run(
        "train.py", "data=simulated", "data.fields=7", "data.height=64", "data.width=64",
        "data.patch_size=32", "data.batch_size=2", "data.patches_per_epoch=4",
        "data.test_fraction=0.6", "model.generator.width=4", "model.generator.depth=2",
        "loss=mae", "logger=csv", "trainer=cpu", "trainer.max_epochs=1", "run=r", cwd=folder,
    ).ok()  # fmt: skip
    return folder / "outputs" / "r" / "checkpoints" / "best.ckpt"


def test_three_jobs_predict_what_one_does(ckpt: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(7):
        path = tmp_path / "in" / f"f{i}_phase.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, rng.integers(0, 9000, (40, 50)).astype(np.uint16))
    predict = ("predict.py", f"ckpt={ckpt}", "input=in", "precision=float32")
    run(*predict, "output=whole", cwd=tmp_path).ok()
    names = sorted(p.name for p in (tmp_path / "whole").glob("*.tif"))
    assert len(names) == 7
    for k in (3, 1, 2):
        before = len(list((tmp_path / "parts").glob("*.tif")))
        out = run(*predict, "output=parts", f"shard={k}/3", cwd=tmp_path).ok().out
        mine = 3 if k == 1 else 2
        assert f"{mine} field(s) in" in out
        assert len(list((tmp_path / "parts").glob("*.tif"))) == before + mine
    for name in names:
        one, other = (tifffile.imread(tmp_path / d / name) for d in ("whole", "parts"))
        np.testing.assert_array_equal(one, other)
    tables = sorted(p.name for p in (tmp_path / "parts").glob("*.csv"))
    assert tables == [f"input_shift.{k}-of-3.csv" for k in (1, 2, 3)]  # noise is no specimen
    more = run(*predict, "output=few", "shard=9/9", cwd=tmp_path).ok().out
    assert "0 field(s) in" in more
    run(*predict, "output=few", "shard=9/8", cwd=tmp_path).refused("shard=9/8", "K/N")
    plate = ("format=ome_zarr", "shard=1/2")
    run(*predict, "output=few", *plate, cwd=tmp_path).refused("shard=1/2", "format=ome_tiff")


def test_an_evaluation_scores_what_the_jobs_predicted(ckpt: Path, tmp_path: Path) -> None:
    evaluate = ("evaluate.py", f"ckpt={ckpt}", "precision=float32", "output=e")
    for k in (1, 2):
        run(*evaluate, f"shard={k}/2", cwd=tmp_path).ok()
    predictions = sorted((tmp_path / "e" / "predictions").glob("*.tif"))
    assert len(predictions) >= 2
    assert not (tmp_path / "e" / "summary.json").exists()
    before = [path.stat().st_mtime_ns for path in predictions]
    run(*evaluate, cwd=tmp_path).ok()
    assert [path.stat().st_mtime_ns for path in predictions] == before
    assert sorted((tmp_path / "e" / "predictions").glob("*.tif")) == predictions
    run("evaluate.py", "pred=a", "truth=b", "shard=1/2", "output=x", cwd=tmp_path).refused(
        "shard=1/2", "ckpt=CKPT"
    )
