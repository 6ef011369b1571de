"""`pip install .`: the wheel holds all that the package reads, and its commands work from anywhere."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli import ROOT

SOURCES = ("vfn", "conf", "pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE")


def files(folder: Path) -> set[str]:
    """Names below `folder` without what Python compiled."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with vfn in it, made from its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    clone, packages = folder / "clone", folder / "packages"
    clone.mkdir()
    for name in SOURCES:  # a copy: a build leaves folders in the source
        path = ROOT / name
        if path.is_dir():
            hidden = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, clone / name, ignore=hidden)
        else:
            shutil.copy(path, clone)
    offline = ["--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", str(folder), str(clone)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("vfn-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return packages


def test_the_wheel_holds_every_file_of_package_and_configs(installed: Path) -> None:
    expected = files(ROOT / "vfn") | {f"conf/{name}" for name in files(ROOT / "conf")}
    assert files(installed / "vfn") == expected
    assert {path.name for path in installed.iterdir() if path.is_dir()} == {
        "vfn",
        *(path.name for path in installed.glob("vfn-*.dist-info")),
    }


def test_commands_run_without_the_clone(installed: Path, tmp_path: Path) -> None:
    """They need their configs, the data sets and tasks that these name, and the console script."""
    env = {**os.environ, "PYTHONPATH": str(installed), "WANDB_MODE": "offline"}
    (points,) = installed.glob("vfn-*.dist-info/entry_points.txt")
    target = re.search(r"^vfn = ([\w.]+):(\w+)$", points.read_text(), re.MULTILINE)
    assert target is not None
    script = tmp_path / "vfn"  # as pip writes it
    script.write_text(f"import sys\nfrom {target[1]} import {target[2]}\nsys.exit({target[2]}())\n")

    def vfn(*words: str) -> str:
        result = subprocess.run(
            [sys.executable, script, *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert (result.returncode, result.stderr) == (0, ""), words
        return result.stdout

    images = [f"data.{key}" for key in ("fields=5", "height=96", "width=96", "first_seed=5")]
    vfn("doctor", "data=simulated", "task=dapi_from_phase", *images, "output=out")
    assert (tmp_path / "out" / "doctor.html").is_file()
    small = ["model=unet", "model.generator.width=4", "model.generator.depth=2", "data.patch_size=32",
             "data.patches_per_epoch=4", "data.val_patches=2", "trainer=cpu", "trainer.max_epochs=1"]  # fmt: skip
    said = vfn("train", "run=a", "logger=csv", *images, *small)
    best = "outputs/a/checkpoints/best.ckpt"
    assert f"next: vfn evaluate ckpt={best}" in said
    vfn("evaluate", f"ckpt={best}", "output=scores", "device=cpu")
    assert (tmp_path / "scores" / "report.html").is_file()
    found = [sys.executable, "-c", "import vfn; print(vfn.__file__)"]
    where = subprocess.run(found, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert Path(where.stdout.strip()).parent == installed / "vfn"
