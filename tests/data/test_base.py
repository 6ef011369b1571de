import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from vfn.data import describe, statistics
from vfn.data.config import DataConfig
from vfn.data.samples import Task
from vfn.data.sets import FolderData


def remarks(tmp_path: Path, **options: object) -> list[str]:
    config = DataConfig("folder", str(tmp_path), patch_size=16, cache="off", **options)  # type: ignore[arg-type]
    data = FolderData(Task("t", ("rna",), ("ph3",)), config)
    data.setup()
    return describe.remarks(data)


def test_training_says_that_the_top_of_a_rare_bright_target_is_cut_off(tmp_path: Path) -> None:
    y, x = np.mgrid[:300, :400]
    rng = np.random.default_rng(0)
    for i in range(6):
        ground = rng.normal(200, 6, y.shape)
        cell = 12_000 * np.exp(-((y - 50 - 20 * i) ** 2 + (x - 90) ** 2) / (2 * 2.5**2))
        tifffile.imwrite(tmp_path / f"{i}_ph3.tif", (ground + cell).astype(np.uint16))
        tifffile.imwrite(tmp_path / f"{i}_rna.tif", (2 * ground).astype(np.uint16))
    (said,) = remarks(tmp_path)
    assert "% of ph3 lie up to 12" in said
    assert "data.percentiles=[0.1,100] keeps them" in said
    assert remarks(tmp_path, percentiles=(0.1, 100)) == []
    assert remarks(tmp_path, range="minmax") == []


def test_training_says_which_whole_numbers_are_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(5):
        for channel, top in (("rna", 2**24), ("ph3", 2**25)):
            array = rng.integers(0, top, (40, 40)).astype(np.uint32)
            tifffile.imwrite(tmp_path / f"{i}_{channel}.tif", array)
    (said,) = remarks(tmp_path)
    assert said == "ph3 has whole numbers beyond 16,777,216, which networks see rounded to 24 bits"


def test_the_data_module_loads_nothing_of_higher_rooms() -> None:
    code = "import sys, vfn.data.base, vfn.data.sets; print(*(m for m in sys.modules if m.startswith('vfn.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {module.split(".")[1] for module in done.stdout.split()}
    assert rooms == {"data", "errors", "system"}


def test_the_summary_says_how_many_samples_linear_baselines_are_fitted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for i in range(10):
        for channel in ("rna", "ph3"):
            array = rng.integers(0, 255, (20, 20)).astype(np.uint8)
            tifffile.imwrite(tmp_path / f"{i}_{channel}.tif", array)

    def summary() -> str:
        config = DataConfig(
            "folder", str(tmp_path), patch_size=16, cache_dir=str(tmp_path / "store")
        )
        data = FolderData(Task("t", ("rna",), ("ph3",)), config)
        data.setup()
        return describe.summary(data)

    assert "fitted" not in summary()
    monkeypatch.setattr(statistics, "FITTED", 3)
    assert "; linear baselines fitted on 3 of " in summary()
