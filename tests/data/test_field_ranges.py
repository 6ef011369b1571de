from pathlib import Path

import numpy as np
import pytest
import tifffile

from vfn.data import describe
from vfn.data.config import DataConfig
from vfn.data.intensity import FieldLevel, IntensityNormaliser
from vfn.data.samples import Task
from vfn.data.sets import FolderData
from vfn.errors import UserError


def light(seed: int, gain: float = 1.0) -> np.ndarray:
    """Return a field of transmitted light: a bright ground, cells darker and brighter."""
    rng = np.random.default_rng(seed)
    return (gain * (8000 + 600 * rng.normal(size=(50, 60)))).clip(0, 65535).astype(np.uint16)


def stain(seed: int) -> np.ndarray:
    """Return a field of a stain: cells on a dark ground."""
    rng = np.random.default_rng(seed)
    return (120 + 900 * rng.gamma(0.3, 1, (50, 60))).astype(np.uint16)


def data(folder: Path, **options: object) -> FolderData:
    task = Task("t", ("ch1", "ch2"), ("ch3",))
    config = DataConfig("folder", str(folder), cache="off", patch_size=16, **options)  # type: ignore[arg-type]
    made = FolderData(task, config)
    made.setup()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(6):
        for channel, image in (
            ("ch1", light(i, 1 + i / 3)),
            ("ch2", stain(i)),
            ("ch3", stain(i + 9)),
        ):
            tifffile.imwrite(tmp_path / f"{i}_{channel}.tif", image)
    return tmp_path


def test_transmitted_light_is_standardised_and_stains_are_not(folder: Path) -> None:
    made = data(folder, input_range="auto")
    assert [one.per_field for one in [*made.inputs, *made.targets]] == [True, False, False]
    assert {one.dtype for one in made.inputs} == {"uint16"}
    # Gains of 1 to 2.7 are gone: each field fills the range of the network in the same way.
    means = [made.normaliser(patch).input[:, 0].mean() for patch in made.val_patches()]
    assert np.ptp(means) < 0.2
    assert "spreads from the median of each field" in describe.summary(made)
    stored = IntensityNormaliser.from_dict(describe.recipe(made)["inputs"][0])
    assert stored == made.inputs[0]


def test_patches_are_normalised_as_predictions_are(folder: Path) -> None:
    made = data(folder, input_range="field")
    patch = made.normaliser(made.val_patches()[0]).input[0].numpy()
    sample = made.split.val[0]
    for channel, fitted in enumerate(made.inputs):
        whole = sample.inputs[channel].read()
        level = FieldLevel.measure(whole)
        expected = fitted.normalise(level.standardised(whole))[:16, :16]
        np.testing.assert_allclose(patch[channel], expected, rtol=0, atol=1e-6)
        assert fitted.range_in(whole)[0] < np.median(whole) < fitted.range_in(whole)[1]


@pytest.mark.parametrize(
    "options",
    [
        {"input_range": "dataset"},
        {"input_range": "auto", "range": "full"},  # the user says what becomes -1 and 1
        {"input_range": "auto", "fixed": {"ch1": [0, 40000]}},
    ],
)
def test_one_range_for_all_fields(folder: Path, options: dict[str, object]) -> None:
    assert not any(one.per_field for one in data(folder, **options).inputs)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"input_range": "image"}, "choose one of auto, dataset, field"),
        ({"input_range": "field", "range": "full"}, "give data.range=percentile"),
        ({"input_range": "field", "fixed": {"ch1": [0, 9]}}, "data.fixed: ch1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    folder: Path, options: dict[str, object], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        data(folder, **options)
