from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vfn.cli.help import CONF
from vfn.commands.predict import given_layout
from vfn.data.discovery.layout import Layout
from vfn.errors import UserError


def layout(**keys: object) -> Layout:
    config = OmegaConf.merge(OmegaConf.load(CONF / "predict.yaml"), OmegaConf.create(keys))
    return given_layout(config)  # type: ignore[arg-type]


def test_the_layout_of_new_files() -> None:
    assert layout() == Layout()
    assert layout(channels={"phase": "BF", "er": 1}) == Layout({"phase": "BF", "er": 1})
    several = layout(channels={"nuclear": ["DAPI", "Far-red"]}, pattern="(?P<field>x)")
    assert several == Layout({"nuclear": ["DAPI", "Far-red"]}, "(?P<field>x)")
    assert layout(manifest=Path("m.csv")).manifest == "m.csv"
    assert layout(manifest="m.csv").prefix == ""
    assert layout(z_zero=3, z_step=0.5) == Layout(z_zero=3, z_step=0.5)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"channels": "BF"}, "channels=BF: give a mapping"),
        ({"channels": {"phase": None}}, "channels: phase is None"),
        ({"z_zero": "top"}, "z_zero=top: give a number"),
        ({"z_step": 0}, "z_step=0: give the micrometres"),
        ({"pattern": "x", "manifest": "m.csv"}, "pattern=x, manifest=m.csv: give one"),
    ],
)
def test_layouts_that_say_nothing_are_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        layout(**keys)
    assert words in str(caught.value)
    assert "data." not in str(caught.value)
