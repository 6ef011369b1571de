"""Checkpoints: what goes in comes out, and nothing but data is ever read."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from vfn.data.discovery.layout import Layout
from vfn.data.illumination import FlatField, MeanImage
from vfn.data.input_shift import TrainingDistribution, field_statistics
from vfn.data.intensity import IntensityNormaliser
from vfn.data.linear_filter import LinearFilter
from vfn.data.samples import Task
from vfn.data.statistics import Baselines
from vfn.errors import UserError
from vfn.models.checkpoint import digest, load_checkpoint, submodule
from vfn.models.checkpoint_io import LAST, PREVIOUS, AtomicCheckpointIO, newest_whole
from vfn.models.gan import AdamSettings, VirtualStain
from vfn.models.losses import LossWeights
from vfn.models.nets import make_discriminator, make_generator
from vfn.models.reading import FORMAT, read_raw
from vfn.models.recipe import RECIPE

SPEC = {"name": "unet", "width": 4, "max_width": 8, "depth": 3}
TASK = Task("er", ("golgi_actin", "rna"), ("er",), (-4.0, 4.0))
INPUTS = (
    IntensityNormaliser(10, 900, "uint16"),
    IntensityNormaliser(0, 255, "uint8", (0.0, 3.5, 255.0)),
)
TARGETS = (IntensityNormaliser(-1.5, 2.5, "float32"),)
FILTER = LinearFilter(np.full((1, 2, 7, 7), 0.25), np.array([2.0]))
BASELINES = Baselines(
    np.array([[0.5, -2.0]]), np.array([3.0]), np.array([99.5]), np.array([98.0]), FILTER
)
LAYOUT = Layout({"er": "2", "rna": 1}, r"(?P<well>\w)_(?P<channel>\d)", None, 16.0, 2.0)
MEAN = MeanImage()
for seed in range(3):
    field = np.random.default_rng(seed).uniform(50, 60, (30, 40))
    MEAN.add((field * np.linspace(1, 2, 40)).astype(np.uint8))
FLAT = FlatField.fit(MEAN)
ENVELOPES = tuple(
    TrainingDistribution.fit(
        [field_statistics(np.full((20, 20), grey, np.uint8)) for grey in greys]
    )
    for greys in ((10, 20), (100, 200))
)


def recipe() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": "0",
        "model": "unet",
        "generator": SPEC,
        "task": TASK.to_dict(),
        "layout": LAYOUT.to_dict(),
        "inputs": [m.to_dict() for m in INPUTS],
        "targets": [m.to_dict() for m in TARGETS],
        "flats": [None, FLAT.to_dict(), None],
        "envelopes": [envelope.to_dict() for envelope in ENVELOPES],
        "baselines": BASELINES.to_dict(),
        "data": {"name": "folder", "root": None, "patch_size": 64},
        "shifts": {"by_view": {}, "usual": []},
        "split": {"by": "field", "train": [], "val": [], "test": []},
    }


@pytest.fixture
def module() -> VirtualStain:
    torch.manual_seed(0)
    generator = make_generator(SPEC, 2, 1)
    discriminator = make_discriminator({"name": "conditional", "width": 4}, 3, 64)
    return VirtualStain(generator, discriminator, LossWeights(), AdamSettings(), recipe())


def save(module: VirtualStain, path: Path) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    return path


def test_round_trip(module: VirtualStain, tmp_path: Path) -> None:
    path = save(module, tmp_path / "deep" / "a.ckpt")
    read = load_checkpoint(path)
    assert (read.task, read.layout, read.inputs, read.targets) == (TASK, LAYOUT, INPUTS, TARGETS)
    assert read.patch_size == 64
    assert read.flats[0] is read.flats[2] is None
    assert read.flats[1] is not None
    assert read.flats[1].to_dict() == FLAT.to_dict()
    assert [e.to_dict() for e in read.envelopes] == [e.to_dict() for e in ENVELOPES]
    for key, value in BASELINES.to_dict().items():
        assert read.baselines.to_dict()[key] == value
    assert not read.generator.training
    theirs = read.generator.state_dict()
    for key, value in module.generator.state_dict().items():
        assert torch.equal(theirs[key], value)
    image = torch.rand(1, 2, 16, 24)
    torch.testing.assert_close(read.generator(image), module.generator.eval()(image))


def test_file_holds_data_alone(module: VirtualStain, tmp_path: Path) -> None:
    raw = torch.load(save(module, tmp_path / "a.ckpt"), weights_only=True)
    assert raw[RECIPE] == recipe()
    assert torch.equal(raw["rng"]["cpu"], torch.get_rng_state())


def test_random_state_is_taken_up_when_training_starts(
    module: VirtualStain, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    path = save(module, tmp_path / "a.ckpt")
    expected = torch.rand(3)
    module.on_load_checkpoint(torch.load(path, weights_only=True))
    torch.rand(100)  # what is drawn in between does not count
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    module.on_train_start()
    assert torch.equal(torch.rand(3), expected)
    module.on_train_start()  # and it is taken up once
    assert not torch.equal(torch.rand(3), expected)


def test_identity_is_that_of_the_weights(module: VirtualStain, tmp_path: Path) -> None:
    first = load_checkpoint(save(module, tmp_path / "a.ckpt")).identity
    assert load_checkpoint(save(module, tmp_path / "b.ckpt")).identity == first
    with torch.no_grad():
        module.generator.last.bias.add_(1e-3)
    assert load_checkpoint(save(module, tmp_path / "c.ckpt")).identity != first
    assert len(first) == 12


def test_digest_tells_names_apart() -> None:
    one, other = torch.zeros(2), torch.ones(2)
    assert digest({"a": one, "b": other}) == digest({"b": other, "a": one})
    assert digest({"a": one, "b": other}) != digest({"a": other, "b": one})


def test_submodule() -> None:
    state = {"generator.a": torch.zeros(1), "generator2.a": torch.ones(1), "d.a": torch.ones(1)}
    assert submodule(state, "generator") == {"a": torch.zeros(1)}


def test_a_failed_write_leaves_the_old_file(module: VirtualStain, tmp_path: Path) -> None:
    path = save(module, tmp_path / "a.ckpt")
    before = path.read_bytes()
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        AtomicCheckpointIO().save_checkpoint({"x": lambda: None}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_another_format_is_refused(module: VirtualStain, tmp_path: Path) -> None:
    module.recipe["format"] = FORMAT + 1
    with pytest.raises(UserError, match=rf"format {FORMAT + 1}, this version reads {FORMAT}"):
        read_raw(save(module, tmp_path / "a.ckpt"))


def test_weights_of_another_network_are_refused(module: VirtualStain, tmp_path: Path) -> None:
    module.recipe["generator"] = {**SPEC, "width": 2}
    with pytest.raises(UserError, match=r"a\.ckpt: weights do not fit"):
        load_checkpoint(save(module, tmp_path / "a.ckpt"))


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("inputs", [{**INPUTS[0].to_dict(), "high": np.inf}, INPUTS[1].to_dict()], "inputs"),
        ("targets", [{**TARGETS[0].to_dict(), "low": 2.5}], "a range from 2.5 to 2.5"),
        ("baselines", {**BASELINES.to_dict(), "mean": [float("nan")]}, "baselines"),
        ("flats", [None, {**FLAT.to_dict(), "dark": float("nan")}, None], "flats"),
        ("envelopes", [{"seen": {}, "allowed": {"a": (2.0, 1.0)}, "units": {}}] * 2, "low end"),
    ],
)
def test_numbers_that_are_none_are_refused(
    module: VirtualStain, tmp_path: Path, part: str, value: Any, says: str
) -> None:
    module.recipe[part] = value
    with pytest.raises(UserError, match=rf"its recipe is damaged .*{says}"):
        load_checkpoint(save(module, tmp_path / "a.ckpt"))


def test_weights_of_a_diverged_training_are_refused(module: VirtualStain, tmp_path: Path) -> None:
    next(module.generator.parameters()).data.flatten()[3] = torch.nan
    with pytest.raises(UserError, match="weights: a value is NaN or infinite"):
        load_checkpoint(save(module, tmp_path / "a.ckpt"))


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.ckpt: no such file"):
        read_raw(tmp_path / "gone.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint of vfn"):
        read_raw(tmp_path / "list.ckpt")


def flip(path: Path) -> None:
    """Change one byte, in the middle of a tensor."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_flipped_byte_is_noticed(module: VirtualStain, tmp_path: Path) -> None:
    path = save(module, tmp_path / "a.ckpt")
    flip(path)
    torch.load(path, weights_only=True)  # notices nothing
    with pytest.raises(UserError, match=r"is damaged .*checksums"):
        read_raw(path)


def test_the_last_checkpoint_but_one_is_kept(module: VirtualStain, tmp_path: Path) -> None:
    last, previous = tmp_path / LAST, tmp_path / PREVIOUS

    stored: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(stored)

    def step(path: Path) -> int:
        return int(torch.load(path, weights_only=True)["step"])

    assert newest_whole(tmp_path) is None
    io = AtomicCheckpointIO()
    io.save_checkpoint({**stored, "step": 1}, last)
    assert not previous.exists()
    for number in (2, 3):
        io.save_checkpoint({**stored, "step": number}, last)
        assert (step(last), step(previous)) == (number, number - 1)
    io.save_checkpoint({**stored, "step": 3}, tmp_path / "best.ckpt")
    assert {p.name for p in tmp_path.iterdir()} == {LAST, PREVIOUS, "best.ckpt"}
    assert newest_whole(tmp_path) == last

    flip(last)
    assert newest_whole(tmp_path) == previous
    resumed = AtomicCheckpointIO()  # of the next process
    resumed.load_checkpoint(previous)
    resumed.save_checkpoint({**stored, "step": 4}, last)
    assert (step(last), step(previous)) == (4, 2), "the damaged one pushed out the sound one"
    again = AtomicCheckpointIO()
    again.load_checkpoint(last)
    again.save_checkpoint({**stored, "step": 5}, last)
    assert (step(last), step(previous)) == (5, 4)

    for path in (last, previous):
        path.write_bytes(b"")
    assert newest_whole(tmp_path) is None
