from itertools import pairwise
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tests.planes import make_sample
from vfn.cli.help import CONF, choices
from vfn.data.augment import InputJitter, PatchTransform, make_augmentation
from vfn.data.batch import RawBatch
from vfn.data.cache import ImageCache
from vfn.data.loading import PatchLoader, as_it_is
from vfn.data.patches import Augmentation, PatchReader, RandomPatches
from vfn.errors import UserError

SIZE = 32
ROTATE = {"_target_": "albumentations.Affine", "rotate": [20, 40], "scale": [0.8, 1.2], "p": 1.0}
NOISE = {"_target_": "albumentations.GaussNoise", "std_range": [0.1, 0.1], "p": 1.0}


def compose(*transforms: dict[str, Any]) -> Augmentation:
    return make_augmentation({"_target_": "albumentations.Compose", "transforms": transforms})


def shipped(name: str) -> dict[str, Any]:
    node = OmegaConf.to_container(OmegaConf.load(CONF / "augment" / f"{name}.yaml"))
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def patches(
    augmentation: Augmentation, inputs: int = 1, targets: int = 1, seed: int = 3
) -> RandomPatches:
    """Of a field whose channels are all the same image."""
    rng = np.random.default_rng(0)
    image = rng.integers(100, 60_000, (90, 80)).astype(np.uint16)
    sample = make_sample("f", [image] * inputs, [image] * targets)
    count = inputs + targets
    reader = PatchReader(ImageCache(), [None] * count, inputs, SIZE, np.dtype(np.float32))
    ranges = [(100.0, 60_000.0)] * count
    return RandomPatches([sample], [(90, 80)], reader, augmentation, seed, ranges)


def equal(a: RawBatch, b: RawBatch) -> bool:
    if not torch.equal(a.planes, b.planes):
        return False
    return a.valid is b.valid or (
        a.valid is not None and b.valid is not None and torch.equal(a.valid, b.valid)
    )


def test_the_shipped_choices() -> None:
    made = {name: make_augmentation(shipped(name)) for name in choices("augment")}
    assert made["d4"] == Augmentation(d4=True)
    assert made["none"] == Augmentation(d4=False)
    assert made["strong"].transform is not None


@pytest.mark.parametrize(("inputs", "targets"), [(1, 1), (2, 3), (7, 2)])
def test_geometry_moves_all_channels_alike(inputs: int, targets: int) -> None:
    changed = patches(compose(ROTATE), inputs, targets)[0].planes[0]
    plain = patches(Augmentation(d4=False), inputs, targets)[0].planes[0]
    assert not torch.equal(changed, plain)
    for channel in changed:
        # OpenCV places pixels to 1/32 px, rounded in another way for more channels at once.
        assert (channel - changed[0]).abs().max() < 60_000 / 32


def test_pixels_from_beyond_a_patch_are_invalid_where_the_border_is_filled() -> None:
    raw = patches(compose(ROTATE))[0]
    assert raw.valid is not None
    outside = ~raw.valid[0, 0]
    assert 0.02 < outside.float().mean() < 0.5
    assert not raw.valid[0, 0, 0, 0]
    assert raw.valid[0, 0, SIZE // 2, SIZE // 2]
    mirrored = compose({**ROTATE, "border_mode": 4})
    assert patches(mirrored)[0].valid is None


def test_photometric_transforms_leave_targets_alone() -> None:
    jitter = {"_target_": "vfn.data.augment.InputJitter", "gain": 0.3, "offset": 0.2, "p": 1.0}
    raw, plain = (
        patches(a, 2, 2)[5].planes[0] for a in (compose(NOISE, jitter), Augmentation(d4=False))
    )
    torch.testing.assert_close(raw[2:], plain[2:])
    assert (raw[:2] - plain[:2]).abs().mean() > 1000
    assert not torch.equal(raw[0], raw[1])  # gain, offset and noise of each input are its own


def test_jitter_of_nothing_is_nothing() -> None:
    image = np.random.default_rng(0).random((8, 8, 3), np.float32)
    same = A.Compose([InputJitter(0, 0, p=1.0)], seed=0)(image=image)["image"]
    np.testing.assert_allclose(same, image, atol=1e-6)
    assert not np.allclose(
        A.Compose([InputJitter(0.2, 0, p=1.0)], seed=0)(image=image)["image"], image
    )


def test_an_index_is_always_the_same_patch_and_no_other_like_it() -> None:
    one, other = (patches(make_augmentation(shipped("strong"))) for _ in range(2))
    first = [one[i] for i in range(8)]
    backwards = [other[i] for i in reversed(range(8))][::-1]
    assert all(equal(a, b) for a, b in zip(first, backwards, strict=True))
    assert not any(equal(a, b) for a, b in pairwise(first))
    reseeded = patches(make_augmentation(shipped("strong")), seed=4)
    assert not any(equal(first[i], reseeded[i]) for i in range(8))


def loaded(workers: int, drawn: int = 0) -> list[RawBatch]:
    data = patches(make_augmentation(shipped("strong")))
    loader = PatchLoader(data, 3, batch_size=2, collate_fn=as_it_is, num_workers=workers)
    loader.drawn = drawn
    return [*loader, *loader]


def test_neither_workers_nor_a_resume_change_the_draws() -> None:
    epochs = loaded(0)
    assert len(epochs) == 6
    assert not any(equal(a, b) for a, b in zip(epochs[:3], epochs[3:], strict=True))
    assert all(equal(a, b) for a, b in zip(epochs, loaded(2), strict=True))
    assert all(equal(a, b) for a, b in zip(epochs[2:], loaded(0, drawn=2)[:4], strict=True))


def test_settings_of_before_the_group() -> None:
    assert make_augmentation(None) == make_augmentation(shipped("d4")) == Augmentation()
    assert make_augmentation(None, switch=False, jitter=0.2) == Augmentation(False, 0.2)
    assert make_augmentation(shipped("d4"), switch=False) == Augmentation(False)
    assert make_augmentation(shipped("none"), jitter=0.1) == Augmentation(False, 0.1)


@pytest.mark.parametrize(
    ("group", "keys", "words"),
    [
        ("strong", {"switch": False}, "data.augment=false: switches off augment=strong"),
        ("strong", {"jitter": 0.2}, "data.input_jitter=0.2: is for augment=d4 and none"),
        ({"transforms": []}, {}, "augment.transforms: has no effect without augment._target_"),
        ({"_target_": "albumentations.Afine"}, {}, "Afine"),
        ({"_target_": "albumentations.Affine", "rotat": 3}, {}, "rotat"),
        ({"_target_": "pathlib.Path"}, {}, "pathlib.Path: is no transform of albumentations"),
    ],
)
def test_what_cannot_be_is_refused(group: Any, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_augmentation(shipped(group) if isinstance(group, str) else group, **keys)
    assert words in str(caught.value)


def test_a_transform_that_changes_the_shape_is_refused() -> None:
    smaller = PatchTransform(A.CenterCrop(8, 8))
    with pytest.raises(UserError, match=r"\(1, 32, 32\).*came back as \(1, 8, 8\)"):
        patches(Augmentation(False, 0.0, smaller))[0]


def test_choices_have_the_name_of_their_file() -> None:
    for path in Path(CONF / "augment").glob("*.yaml"):
        assert shipped(path.stem)["name"] == path.stem
