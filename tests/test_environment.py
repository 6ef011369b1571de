"""The environment that requirements.txt makes."""

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PINS = re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


def test_torchvision_stays_out() -> None:
    # Next to a torch that it was not built for, it breaks the import of torchmetrics and lightning.
    assert importlib.util.find_spec("torchvision") is None


@pytest.mark.parametrize(("package", "pinned"), PINS)
def test_pins_are_what_runs(package: str, pinned: str) -> None:
    assert version(package).split("+")[0] == pinned


def test_importing_vfn_keeps_albumentations_from_calling_home() -> None:
    import os

    import vfn  # noqa: F401

    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
