"""`evaluate.py`: score a checkpoint on the test split, or any program's images; compare evaluations."""

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from vfn import __version__
from vfn.cli.entry import known_tasks, plain, refuse_unread, set_up_logging
from vfn.commands.compare import compare
from vfn.commands.conditions import compare_conditions
from vfn.commands.predict import coverage, make_predictor, required
from vfn.commands.score import Settings, score
from vfn.data.base import DataConfig, StainData, overlap
from vfn.data.grid import over_true_pixels
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample
from vfn.data.sets import make_data
from vfn.errors import UserError
from vfn.evaluation.held_out import HeldOutData, held_out_data, recorded, true_targets
from vfn.evaluation.pairs import FieldPair, FolderPairs
from vfn.evaluation.stain import Nuclei
from vfn.inference.alarms import input_alarms
from vfn.inference.files import predict_to_file
from vfn.inference.predictor import Predictor
from vfn.models.card import scores_of
from vfn.models.checkpoint import load_checkpoint, store_test_scores
from vfn.refocus.refocuser import is_refocused, restored
from vfn.refocus.step import refocused
from vfn.report.verdict import read_limits
from vfn.system.dotted import trusted
from vfn.system.files import NAME_BYTES, clear_leftovers, make_folder
from vfn.system.locks import claimed
from vfn.system.progress import progress
from vfn.system.shards import Shard

# Folders in the output of an evaluation, and of a comparison of conditions.
PARTS = (
    "predictions", "figures", "maps",
    *(f"predictions/{group}" for group in ("reference", "control", "treated")),
)  # fmt: skip

# Settings that one form of the command reads; others say so themselves.
READ = {
    "with ckpt=...": (
        "data",
        "device",
        "precision",
        "tile",
        "overlap",
        "batch_size",
        "uncertainty",
    ),
    "with pred=...": ("channels", "inputs", "wells"),
    "with compare=...": ("unit",),
}

log = logging.getLogger(__name__)


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
        baselines = checkpoint.baselines.predict(inputs, [m.dtype for m in checkpoint.targets])
        if checkpoint.deconvolution is not None:  # refocusing: one channel, in and out
            baselines["input"] = inputs[0][None]
            baselines["wiener"] = checkpoint.deconvolution.apply(inputs[0], sample.z)[None]
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
        )

    def _over_true_pixels(self, prediction: np.ndarray, sample: Sample) -> np.ndarray:
        """Of a target with larger pixels than the prediction's, means over these."""
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
        """What the model makes of the sample's inputs as they lie on the disk."""
        inputs = present(read_sample(_inputs(restored(sample)), self.data.store))
        stain = self.predictor.predict(inputs, sample.region)
        return stain[: len(self.predictor.checkpoint.task.targets)]


def _inputs(sample: Sample) -> Sample:
    """The sample without its targets, and without how far these were moved."""
    return replace(sample, targets=(), offsets=())


def _test_data(config: DictConfig, predictor: Predictor) -> tuple[HeldOutData, list[Sample]]:
    """The data set of the checkpoint with what the user said on top, and its test samples.

    Raises:
        UserError: test samples that the model was trained on.
    """
    checkpoint = predictor.checkpoint
    trained = held_out_data(config, checkpoint)
    data, split = trained.data, checkpoint.recipe["split"]
    samples = (
        recorded(data, checkpoint, "test")
        if trained.same_split and split["by"] != "spatial"
        else []
    )
    samples = samples or refocused(checkpoint, data.divide().test, data.store)
    # Fields of another data set may bear the same names by chance.
    seen = overlap(samples, [*split["train"], *split["val"]]) if trained.same_images else []
    if seen:
        raise UserError(
            f"{len(seen)} of {len(samples)} test fields (first {seen[0]}) were trained on: their scores "
            "would flatter; leave the data.split... keys as they were in training, or, if these are "
            "other images under the same names, score the output of predict.py by pred=DIR truth=DIR"
        )
    return trained, samples


def _settings(config: DictConfig) -> Settings:
    """What is asked of the stains beyond their pixels."""
    nuclei = tuple(str(name) for name in config.nuclei)
    features = None
    if config.features:
        cells = None if config.cells is None else str(config.cells)
        features = (nuclei[0] if nuclei else None, cells)
    if not 0 <= config.survives <= 1:
        raise UserError(f"survives={config.survives}: give a correlation, 0 to 1")
    limits = read_limits(plain(config.verdict))
    return Settings(limits, Nuclei(nuclei), features, float(config.survives))


def _expression(key: str, pattern: str) -> re.Pattern[str]:
    """The regular expression that `key` gives.

    Raises:
        UserError: it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as exc:
        raise UserError(f"{key}={pattern}: is no regular expression ({exc})") from exc


def _wells(pattern: str | None) -> re.Pattern[str] | None:
    """The expression that finds wells in the names of fields."""
    if pattern is None:
        return None
    compiled = _expression("wells", pattern)
    if "well" not in compiled.groupindex:
        raise UserError(f"wells={pattern}: name the part that is the well (?P<well>...)")
    return compiled


def _second(config: DictConfig) -> dict[str, Any]:
    """What the keys `data2` say; empty where none is given.

    Raises:
        UserError: neither a folder nor keys.
    """
    if isinstance(config.data2, str):
        return {"root": config.data2}
    if not isinstance(config.data2, DictConfig):
        raise UserError(
            f"data2={config.data2}: give a folder, or data2.root=DIR, data2.match=REGEX"
        )
    return {key: value for key, value in plain(config.data2).items() if value is not None}


def _matching(samples: list[Sample], pattern: str | None, key: str) -> list[Sample]:
    """Samples of fields whose names hold `pattern`.

    Raises:
        UserError: no regular expression, or it picks nothing.
    """
    if pattern is None:
        return samples
    wanted = _expression(key, pattern)
    found = [sample for sample in samples if wanted.search(sample.name)]
    if not found:
        raise UserError(
            f"{key}={pattern}: matches none of {len(samples)} fields (as {samples[0].name})"
        )
    return found


def _treated(control: DataConfig, second: Mapping[str, Any]) -> DataConfig:
    """The config of the control fields with the keys `data2` on top.

    Raises:
        UserError: a key that the data set does not have.
    """
    unknown = set(second) - set(control.to_dict()) - set(control.extra)
    if unknown:
        raise UserError(
            f"data2.{min(unknown)}: data={control.name} has no such setting; see conf/data"
        )
    # A manifest lists the files of one folder: whoever names the one does not mean the other's.
    moved = {"root": None, "manifest": None} if {"root", "manifest"} & set(second) else {}
    node = {**control.to_dict(), **control.extra, **moved, **second}
    return DataConfig.from_dict({**node, "extra": {key: node[key] for key in control.extra}})


def _conditions(
    config: DictConfig,
    second: dict[str, Any],
    settings: Settings,
    provenance: dict[str, Any],
    output: Path,
) -> dict[str, Any]:
    """Control against treated fields."""
    checkpoint = load_checkpoint(Path(str(config.ckpt)), trusted(config.trust))
    predictor = make_predictor(config, checkpoint)
    trained, samples = _test_data(config, predictor)
    data, samples = trained.data, _matching(samples, config.match, "match")
    known = recorded(data, checkpoint, "val") if trained.same_images else []
    if not known:
        # The fields that say what to expect may not be those whose false alarms are counted.
        known, samples = samples[::2], samples[1::2]
        log.warning(
            "the model's validation fields are not here: every other control field says what to expect"
        )
    if not samples:
        raise UserError(
            "control: one field alone is there; two are needed, or the validation fields"
        )
    match = second.pop("match", None)
    treated = make_data(checkpoint.task, _treated(data.config, second), known_tasks())
    others = _matching(treated.aligned(treated.samples()), match, "data2.match")
    if not {"root", "manifest", "first_seed"} & set(second):
        split = checkpoint.recipe["split"]
        seen = overlap(others, [*split["train"], *split["val"]])
        if seen:
            raise UserError(
                f"data2: {len(seen)} of {len(others)} fields (first {seen[0]}) were trained on; give another "
                "folder by data2.root, or pick the treated fields by data2.match"
            )
    others = refocused(checkpoint, others, treated.store)
    make_folder(output)
    # Each group is read more than once, and predicted once: the predictions are kept.
    groups = {"reference": (data, known), "control": (data, samples), "treated": (treated, others)}
    pairs = {
        name: CheckpointPairs(predictor, one, some, make_folder(output / "predictions" / name))
        for name, (one, some) in groups.items()
    }
    provenance |= {
        "model": f"{checkpoint.recipe['model']} {checkpoint.identity}",
        "control": f"{len(samples)} test fields of {data.config.name}",
        "expectation": f"{len(known)} control fields that the weights were not fitted on",
        "treated": f"{len(others)} fields of {treated.root or treated.config.name}",
    }
    return compare_conditions(**pairs, nuclei=settings.nuclei, output=output, provenance=provenance)


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Score a checkpoint (`ckpt`) or a folder (`pred`, `truth`), or `compare` runs, into `output`.

    Returns:
        The summary, as in summary.json; of a comparison what compare.json holds.
    """
    set_up_logging()
    output = required(config, "output", "DIR")
    given = [key for key in ("ckpt", "pred", "truth") if config[key] is not None]
    if config.compare:
        given.append("compare")
    if given not in (["ckpt"], ["pred", "truth"], ["compare"]):
        raise UserError(
            f"{' and '.join(given) or 'nothing'} given: say ckpt=CKPT for a model, "
            "pred=DIR truth=DIR for images, or compare=[A,B] for evaluations that are there"
        )
    refuse_unread(READ, {f"with {form}=..." for form in given})
    settings = _settings(config)
    provenance = {
        "command": "python evaluate.py " + " ".join(HydraConfig.get().overrides.task),
        "vfn": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }
    if config.card and given != ["ckpt"]:
        raise UserError("card=true: puts the scores of a model into its card; give ckpt=CKPT")
    treated = _second(config)
    if treated and given != ["ckpt"]:
        raise UserError("data2: compares two conditions by a model of the first; give ckpt=CKPT")
    if config.match is not None and not treated:
        raise UserError(
            f"match={config.match}: picks control fields beside data2; give data2.match too"
        )
    if config.card and treated:
        raise UserError("card=true: treated cells are no test of the model; leave out data2")
    shard = Shard.parse(config.shard)
    if shard.count > 1 and (given != ["ckpt"] or treated):
        raise UserError(
            f"shard={config.shard}: shares out the predictions of one evaluation by a model; "
            "give ckpt=CKPT, and no data2"
        )
    with claimed(output, shard, PARTS):
        if treated:
            return _conditions(config, treated, settings, provenance, output)
        if given == ["compare"]:
            runs = config.compare if isinstance(config.compare, ListConfig) else [config.compare]
            return compare([Path(str(run)) for run in runs], output, str(config.unit), provenance)
        return _score(config, shard, settings, provenance, output)


def _score(
    config: DictConfig,
    shard: Shard,
    settings: Settings,
    provenance: dict[str, Any],
    output: Path,
) -> dict[str, Any]:
    """A checkpoint, or anybody's images."""
    if config.ckpt is not None:
        checkpoint = load_checkpoint(Path(str(config.ckpt)), trusted(config.trust))
        wanted = coverage(config) if checkpoint.uncertainty is not None else None
        predictor = make_predictor(config, checkpoint, wanted)
        trained, samples = _test_data(config, predictor)
        data = trained.data
        own = {str(name) for name, _ in checkpoint.recipe["split"]["test"]}
        if config.card and (shard.count > 1 or {sample.name for sample in samples} != own):
            raise UserError(
                f"card=true: the {len(own)} test fields of the training, all of them, belong into the card, "
                f"here are {len(samples)}, job {config.shard or '1/1'}; leave out data... and shard, or card"
            )
        folder = make_folder(make_folder(output) / "predictions")
        pairs = CheckpointPairs(predictor, data, samples, folder)
        if shard.count > 1:
            mine = shard.of(range(len(pairs)))
            clear_leftovers(folder, {f"{samples[index].name}.ome.tif" for index in mine})
            for index in progress(mine, len(mine), "predicting"):
                pairs.pair(index)
            log.info("%d of %d fields in %s, job %s", len(mine), len(pairs), folder, config.shard)
            return {}
        predictor.settle(present(read_sample(_inputs(samples[0]), data.store)))
        recipe = predictor.checkpoint.recipe
        provenance |= {
            "model": f"{recipe['model']} {predictor.checkpoint.identity}",
            "precision": predictor.precision,
            "data": f"{data.config.name}, split by {data.config.split}, "
            f"{len(recipe['split']['train'])} training samples",
        }
        summary = score(pairs, output, provenance, settings)
        if config.card:
            store_test_scores(checkpoint.path, checkpoint.identity, scores_of(summary))
            log.info("the scores are in the model card: python -m vfn.info %s", checkpoint.path)
        return summary
    channels = tuple(str(c) for c in config.channels) or None
    pred = config.pred if isinstance(config.pred, ListConfig) else [config.pred]
    images = FolderPairs(
        [Path(str(folder)) for folder in pred],
        Path(str(config.truth)),
        channels,
        [str(name) for name in config.inputs],
        _wells(config.wells),
    )
    return score(images, make_folder(output), provenance, settings)
