"""Random augmentation of training patches: the group `augment`, `data.augment` and `data.input_jitter`."""

import random
import warnings
from collections.abc import Mapping
from typing import Any

import albumentations as A
import cv2
import numpy as np

from vfn.data.patches import Augmentation
from vfn.errors import UserError
from vfn.system.dotted import TARGET, build


class InputJitter(A.ImageOnlyTransform):
    """Gain and offset drawn for each input channel, for images in [0, 1].

    For transmitted light, whose level varies between fields and says nothing of the stain. Where a stain
    predicts a stain its intensity is information, and jitter would take it away.

    Args:
        gain: the gain about mid-grey is drawn within 1 +- gain.
        offset: the offset is drawn within +- offset, as a share of the channel's range.
    """

    def __init__(self, gain: float = 0.2, offset: float = 0.1, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.gain, self.offset = gain, offset

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw gain and offset of each channel."""
        draws = self.random_generator.uniform(-1, 1, (2, params["shape"][-1]))
        return {"gain": 1 + self.gain * draws[0], "offset": self.offset * draws[1]}

    def apply(
        self, img: np.ndarray, gain: np.ndarray, offset: np.ndarray, **params: Any
    ) -> np.ndarray:
        """Change an image (h, w, C) float32 in [0, 1]."""
        return np.clip((img - 0.5) * gain + 0.5 + offset, 0, 1).astype(np.float32)


class PatchTransform:
    """A transform of albumentations on patches: geometry moves inputs, targets and valid mask alike.

    Photometric transforms change the inputs alone: targets are passed as albumentations' `mask`. They are
    images nevertheless, so that they are resampled as the inputs are.
    """

    def __init__(self, transform: A.BasicTransform | A.BaseCompose) -> None:
        self.compose = A.Compose([transform])
        _resample_masks_alike(self.compose)

    def __call__(
        self, inputs: np.ndarray, targets: np.ndarray, valid: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Transform one patch.

        Args:
            inputs: (Ci, h, w) float32 in [0, 1].
            targets: (Ct, h, w) float32 in [0, 1].
            valid: (Ct, h, w) bool.
            rng: every draw comes from it, so that a patch depends on nothing that was drawn before.

        Returns:
            The same three; pixels that a transform took from beyond the patch, or mixed with invalid
            ones, are invalid.
        """
        self.compose.set_random_state(rng, random.Random(int(rng.integers(2**32))))
        mask = np.concatenate([targets, valid.astype(np.float32)])
        done = self.compose(image=_channels_last(inputs), mask=_channels_last(mask))
        image = _channels_first(done["image"], inputs.shape)
        mask = _channels_first(done["mask"], mask.shape)
        return image, mask[: len(targets)], mask[len(targets) :] > 0.999


def make_augmentation(
    group: Mapping[str, Any] | None, switch: bool = True, jitter: float = 0.0
) -> Augmentation:
    """Make one augmentation from all settings that speak of it.

    Args:
        group: the group `augment`: a transform of albumentations as Hydra's `_target_`, or none; None stands for
            d4, which run folders without that group mean.
        switch: `data.augment`, which switches the group off.
        jitter: `data.input_jitter`.

    Raises:
        UserError: settings that contradict each other; no transform of albumentations.
    """
    spec = {k: v for k, v in (group or {}).items() if k != "name" and v is not None}
    name = "d4" if group is None else str(group.get("name", spec.get(TARGET, "none")))
    if not switch and name not in ("d4", "none"):
        raise UserError(
            f"data.augment=false: switches off augment={name}, which is given beside it; leave out one of the two"
        )
    if group is None or not switch:
        return Augmentation(switch, jitter)
    if TARGET not in spec:
        if unread := sorted(spec):
            raise UserError(
                f"augment.{unread[0]}: has no effect without augment.{TARGET}; give that, as albumentations.Compose"
            )
        return Augmentation(False, jitter)
    transform = _built(spec)
    if type(transform) is A.D4 and transform.p == 1:  # done while patches are cut, which is faster
        return Augmentation(True, jitter)
    if jitter:
        raise UserError(
            f"data.input_jitter={jitter:g}: is for augment=d4 and none; put {InputJitter.__module__}."
            f"{InputJitter.__name__} among the transforms of augment={name}, and leave it out"
        )
    return Augmentation(False, 0.0, PatchTransform(transform))


def _built(spec: Mapping[str, Any]) -> A.BasicTransform | A.BaseCompose:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of an argument that would be ignored
        made = build(spec, "augment")
    if not isinstance(made, A.BasicTransform | A.BaseCompose):
        raise UserError(
            f"augment.{TARGET}={spec[TARGET]}: is no transform of albumentations, as albumentations.Compose is"
        )
    return made


def _resample_masks_alike(compose: A.BaseCompose) -> None:
    for transform in compose.transforms:
        if isinstance(transform, A.BaseCompose):
            _resample_masks_alike(transform)
        elif hasattr(transform, "mask_interpolation"):
            transform.mask_interpolation = getattr(transform, "interpolation", cv2.INTER_LINEAR)


def _channels_last(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _channels_first(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    planes = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    if planes.shape != shape or planes.dtype != np.float32:
        raise UserError(
            f"augment: a patch of {shape} float32 came back as {planes.shape} {planes.dtype}; a transform must "
            "keep shape and dtype"
        )
    return planes
