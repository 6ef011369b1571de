"""The test fields of a checkpoint as pairs of truth and prediction."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vfn.commands.held_out import true_targets
from vfn.data.base import StainData
from vfn.data.grid import over_true_pixels
from vfn.data.intensity import standardised
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample
from vfn.evaluation.pairs import FieldPair
from vfn.inference.alarms import input_alarms
from vfn.inference.files import predict_to_file
from vfn.inference.predictor import Predictor
from vfn.refocus.deconvolution import Deconvolution
from vfn.refocus.refocuser import is_refocused, restored
from vfn.system.files import NAME_BYTES


@dataclass(frozen=True)
class CheckpointPairs:
    """The test samples of a data set, each with the model's and the baselines' predictions."""

    predictor: Predictor
    data: StainData
    samples: list[Sample]
    folder: Path | None  # of the predictions; None keeps none

    def __len__(self) -> int:
        return len(self.samples)

    def truth(self, index: int) -> tuple[tuple[str, ...], np.ndarray]:
        """Channels that the field has, and their truth (C, H, W) in the dtype on disk."""
        sample = self.samples[index]
        arrays = read_sample(replace(sample, inputs=()), self.data.store)
        return true_targets(self.predictor.checkpoint, sample, arrays, self.data.store)

    def pair(self, index: int) -> FieldPair:
        """Predict one field (or take the prediction that is there) and put the baselines beside it."""
        sample, checkpoint = self.samples[index], self.predictor.checkpoint
        arrays = read_sample(sample, self.data.store)
        count = len(sample.inputs)
        inputs = present(arrays[:count])
        channels, truth = true_targets(checkpoint, sample, arrays[count:], self.data.store)
        there = [checkpoint.task.targets.index(channel) for channel in channels]
        alarms = input_alarms(checkpoint, inputs, sample.inputs[0].pixel_size)
        path = None if self.folder is None else self.folder / f"{sample.name}.ome.tif"
        if path is None or len(os.fsencode(path.name)) > NAME_BYTES:  # it is scored all the same
            predicted = self.predictor.predict(inputs, sample.region)
        else:
            predicted = predict_to_file(self.predictor, sample, inputs, path, alarms)
        prediction, halfwidth = np.split(predicted, [len(checkpoint.task.targets)])
        prediction = self._over_true_pixels(prediction, sample)
        seen = [standardised(*pair) for pair in zip(inputs, checkpoint.levels(inputs), strict=True)]
        baselines = checkpoint.baselines.predict(seen, [m.dtype for m in checkpoint.targets])
        wiener = checkpoint.part("deconvolution", Deconvolution.from_dict)
        if wiener is not None:  # refocusing: one channel, in and out
            baselines["input"] = inputs[0][None]
            baselines["wiener"] = wiener.apply(inputs[0], sample.z)[None]
        return FieldPair(
            sample.name,
            channels,
            truth,
            prediction[there],
            np.stack([array.astype(np.float32) for array in inputs]),
            checkpoint.task.inputs,
            {name: self._over_true_pixels(b, sample)[there] for name, b in baselines.items()},
            sample.inputs[0].pixel_size,
            halfwidth[there].astype(np.float32) if len(halfwidth) else None,
            self.predictor.coverage,
            f"{sample.plate} {sample.well}".strip() if sample.well else None,
            sample.z if checkpoint.task.input_z else None,
            self._unrefocused(sample)[there] if is_refocused(sample) else None,
            alarms,
            self._promised(there),
        )

    def _promised(self, there: Sequence[int]) -> tuple[bool, ...] | None:
        """Return for the targets `there` whether the coverage of their intervals is guaranteed."""
        known, coverage = self.predictor.checkpoint.uncertainty, self.predictor.coverage
        if known is None or coverage is None:
            return None
        promised = known.promised(coverage)
        return tuple(promised[target] for target in there)

    def _over_true_pixels(self, prediction: np.ndarray, sample: Sample) -> np.ndarray:
        """Average the prediction over the pixels of a target that has larger ones."""
        binning = self.data.registration.binning
        sizes = binning.targets if binning is not None else ()
        if max(sizes, default=1.0) <= 1:
            return prediction
        region = sample.region or (slice(0, None), slice(0, None))
        starts = [
            (region[0].start + round(dy), region[1].start + round(dx))
            for dy, dx in sample.offsets or [(0.0, 0.0)] * len(sizes)
        ]
        means = zip(prediction, sizes, starts, strict=True)
        return np.stack([over_true_pixels(image, size, start) for image, size, start in means])

    def _unrefocused(self, sample: Sample) -> np.ndarray:
        """Predict from the sample's inputs as they are on disk."""
        inputs = present(read_sample(inputs_only(restored(sample)), self.data.store))
        stain = self.predictor.predict(inputs, sample.region)
        return stain[: len(self.predictor.checkpoint.task.targets)]


def inputs_only(sample: Sample) -> Sample:
    """Return the sample without its targets and their offsets."""
    return replace(sample, targets=(), offsets=())
