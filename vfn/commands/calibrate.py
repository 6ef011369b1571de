"""`python -m vfn.calibrate`: gives a trained model its uncertainty; see `vfn.models.intervals`."""

import logging
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import chain, islice, repeat

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from omegaconf import DictConfig

from vfn.cli.entry import set_up_logging
from vfn.commands.held_out import held_out_data, recorded, true_targets
from vfn.commands.model_card import claimed_run
from vfn.commands.predict import make_predictor, required
from vfn.data.base import StainData
from vfn.data.batch import Normaliser
from vfn.data.cache import ImageCache
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample
from vfn.data.splits import Split
from vfn.errors import UserError
from vfn.inference.predictor import Predictor
from vfn.models.checkpoint import Checkpoint, load_checkpoint, store_uncertainty
from vfn.models.intervals import (
    MULTIPLIERS,
    Miscoverage,
    ScaleHead,
    Uncertainty,
    laplace_loss,
    missed,
)
from vfn.models.precision import autocast, pick_device, pick_precision
from vfn.system.dotted import trusted
from vfn.system.progress import progress

log = logging.getLogger(__name__)
LEARNING_RATE = 3e-3  # at the start; it falls to a tenth along a half cosine
REPORTED = (0.8, 0.9, 0.95)  # coverages that the command tells of


def calibrate(config: DictConfig) -> Uncertainty:
    """Fit and calibrate the uncertainty of `ckpt`, and store it in the checkpoint.

    Returns:
        What was stored.

    Raises:
        UserError: no such checkpoint or images; a target that no validation field has.
    """
    set_up_logging()
    path = required(config, "ckpt", "outputs/NAME/checkpoints/best.ckpt")
    if config.steps < 1:
        raise UserError(f"steps={config.steps}: give 1 or more")
    checkpoint = load_checkpoint(path, trusted(config.trust))
    device = pick_device(str(config.device))
    precision = pick_precision(str(config.precision), device)
    with claimed_run(path):
        data = training_data(config, checkpoint)
        start = time.monotonic()
        head = fit_head(checkpoint, data, int(config.steps), int(config.seed), device, precision)
        fitted = time.monotonic()
        predictor = make_predictor(config, replace(checkpoint, uncertainty=Uncertainty(head, ())))
        curves = miscoverage(predictor, data.split.val, data.store)
        uncertainty = Uncertainty(head.cpu(), curves)
        store_uncertainty(path, uncertainty)
    log.info(
        "calibrated %s: error model in %.0f s, %d validation sample(s) in %.0f s",
        path, fitted - start, len(data.split.val), time.monotonic() - fitted,
    )  # fmt: skip
    for coverage in REPORTED:
        for line in uncertainty.promise(coverage, checkpoint.task.targets):
            log.info(line)
    log.info("next: python predict.py ckpt=%s input=DIR output=DIR uncertainty=0.9", path)
    return uncertainty


def training_data(config: DictConfig, checkpoint: Checkpoint) -> StainData:
    """The data set of the checkpoint, divided and normalised as it was in training.

    Raises:
        UserError: another data set; none of its training or validation fields is here.
    """
    trained = held_out_data(config, checkpoint)
    data = trained.data
    parts: dict[str, list[Sample]] = {}
    for part in ("train", "val"):
        parts[part] = recorded(data, checkpoint, part)
        if not parts[part]:
            raise UserError(
                f"data.root={data.root}: none of the {part} fields of the training "
                f"(as {checkpoint.recipe['split'][part][0][0]}) is here; give the folder of the images "
                "that the model was trained on"
            )
    data.use_cache()
    data.store.prepare(
        plane for samples in parts.values() for sample in samples for plane in sample.planes
    )
    data.split = Split(parts["train"], parts["val"], by=str(checkpoint.recipe["split"]["by"]))
    data.inputs, data.targets = list(checkpoint.inputs), list(checkpoint.targets)
    data.flat_fields.flats = list(checkpoint.flats)
    data.normaliser = Normaliser(data.inputs, data.targets)
    # Errors on inputs as they are, not on jittered ones, are what half-widths are about.
    data.config = replace(data.config, input_jitter=0.0, seed=int(config.seed))
    return data


def fit_head(
    checkpoint: Checkpoint,
    data: StainData,
    steps: int,
    seed: int,
    device: torch.device,
    precision: str,
) -> ScaleHead:
    """Fit the error model on random training patches; the generator stays as it is.

    The same arguments on the same machine give the same head, bit for bit on the CPU.

    Args:
        data: see `training_data`.
        steps: batches of `data.batch_size` patches.

    Returns:
        The head in evaluation mode, on `device`.

    Raises:
        UserError: no patch had one of the targets.
    """
    generator = checkpoint.generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = checkpoint.task
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ScaleHead(len(task.inputs), len(task.targets))
    head = head.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(head.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, LEARNING_RATE / 10)
    patches = islice(chain.from_iterable(repeat(data.train_dataloader())), steps)
    for raw in progress(patches, steps, "fitting the error model"):
        batch = data.normaliser(move_data_to_device(raw, device))
        image = batch.input.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), autocast(device, precision):
            prediction = generator(image).float()
        error = (batch.target - prediction).abs()
        head.meet(error, batch.valid)
        loss = laplace_loss(error, head(image, prediction), batch.valid)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    for target, unit in zip(task.targets, head.unit, strict=True):
        if not unit:
            raise UserError(
                f"target {target}: none of {steps} batches of training patches had it; give more steps"
            )
    return head.eval()


def miscoverage(
    predictor: Predictor, samples: Sequence[Sample], store: ImageCache
) -> tuple[Miscoverage, ...]:
    """Predict whole validation samples as predict.py does, and count how often each interval misses.

    A well counts once, and a field of it as much as the others, whatever number of its planes are samples. Where
    wells are not known, a field of view counts once.

    Args:
        predictor: of a checkpoint whose `uncertainty` has the head.

    Returns:
        Of each target.

    Raises:
        UserError: no sample has one of the targets.
    """
    checkpoint = predictor.checkpoint
    targets = checkpoint.task.targets
    weights = []
    for i, target in enumerate(targets):
        there = [sample for sample in samples if sample.targets[i] is not None]
        if not there:
            raise UserError(
                f"target {target}: none of the {len(samples)} validation samples has it, so nothing tells "
                "how far its prediction is off; train with labelled fields in the validation part"
            )
        weights.append(_weights(there))
    misses = np.zeros((len(targets), len(MULTIPLIERS)))
    for sample in progress(samples, len(samples), "calibrating"):
        arrays = read_sample(sample, store)
        inputs = present(arrays[: len(sample.inputs)])
        stain, score = predictor.predict_scored(inputs, sample.region)
        truths = true_targets(checkpoint, sample, arrays[len(sample.inputs) :], store)
        for target, truth in zip(*truths, strict=True):
            i = targets.index(target)
            misses[i] += weights[i][2][sample.name] * missed(stain[i], truth, score[i])
    return tuple(
        Miscoverage(MULTIPLIERS, missing, count, unit)
        for missing, (count, unit, _) in zip(misses, weights, strict=True)
    )


def _weights(samples: Sequence[Sample]) -> tuple[int, str, dict[str, float]]:
    """Return the number of units, what a unit is, and the weight of each sample by its name.

    All units weigh alike, so do all fields of a unit and all planes of a field.
    """
    unit = "well" if all(sample.well for sample in samples) else "field"
    units: dict[str, Hashable] = {
        s.field: (s.plate, s.well) if unit == "well" else s.position for s in samples
    }
    fields, planes = Counter(units.values()), Counter(sample.field for sample in samples)
    weights = {
        s.name: 1 / (len(fields) * fields[units[s.field]] * planes[s.field]) for s in samples
    }
    return len(fields), unit, weights
