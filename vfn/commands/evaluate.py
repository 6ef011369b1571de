"""`evaluate.py`: score a model on its test fields, or pass on to `score`, `compare`, `conditions`."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vfn import __version__
from vfn.cli.entry import refuse_unread, set_up_logging
from vfn.commands import compare, conditions, score
from vfn.commands.checkpoint_pairs import CheckpointPairs, inputs_only
from vfn.commands.held_out import test_samples
from vfn.commands.model_card import CardUpdate
from vfn.commands.predict import make_predictor, required
from vfn.data.config import DataConfig
from vfn.data.pixels import present, read_sample
from vfn.errors import UserError
from vfn.models.checkpoint import Checkpoint, load_checkpoint
from vfn.system.dotted import trusted
from vfn.system.files import clear_leftovers, make_folder
from vfn.system.locks import claimed
from vfn.system.progress import progress
from vfn.system.shards import Shard

READS = (
    "data", "all", "device", "precision", "tile", "overlap", "batch_size", "tta", "uncertainty",
)  # fmt: skip
# Folders in the output of an evaluation, and of a comparison of conditions.
PARTS = (
    "predictions", "figures", "maps",
    *(f"predictions/{group}" for group in ("reference", "control", "treated")),
)  # fmt: skip
# The keys that tell the commands apart, and the settings that one of them alone reads.
FORMS = {
    ("ckpt",): ("with ckpt=...", READS),
    ("pred", "truth"): ("with pred=...", score.READS),
    ("compare",): ("with compare=...", compare.READS),
}

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Run the command that the keys tell: `ckpt` (with `data2` conditions), `pred` and `truth`, or `compare`.

    Returns:
        The content of summary.json, conditions.json or compare.json.

    Raises:
        UserError: no or several commands, a key that the command does not read.
    """
    set_up_logging()
    output = required(config, "output", "DIR")
    given = [key for key in ("ckpt", "pred", "truth") if config[key] is not None]
    if config.compare:
        given.append("compare")
    if tuple(given) not in FORMS:
        raise UserError(
            f"{' and '.join(given) or 'nothing'} given: say ckpt=CKPT for a model, "
            "pred=DIR truth=DIR for images, or compare=[A,B] for evaluations that are there"
        )
    refuse_unread(dict(FORMS.values()), {FORMS[tuple(given)][0]})
    score.Settings.from_config(config)  # a wrong limit is told before any work
    treated = bool(conditions.treated_keys(config))
    shard = _check_combination(config, given == ["ckpt"], treated)
    provenance = {
        "command": "python evaluate.py " + " ".join(HydraConfig.get().overrides.task),
        "vfn": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }
    work: Callable[[DictConfig, Path, dict[str, Any]], dict[str, Any]] = {
        "ckpt": conditions.conditions if treated else evaluate_checkpoint,
        "pred": score.score_folders,
        "compare": compare.compare_evaluations,
    }[given[0]]
    with claimed(output, shard, PARTS):
        return work(config, output, provenance)


def _check_combination(config: DictConfig, by_model: bool, treated: bool) -> Shard:
    """Return the key `shard`; refuse keys that need a model, or exclude each other."""
    shard = Shard.parse(config.shard)
    if not isinstance(config.card, bool) and config.card != "auto":
        raise UserError(f"card={config.card}: give auto, true or false")
    if config.match is not None and not treated:
        raise UserError(
            f"match={config.match}: picks control fields beside data2; give data2.match too"
        )
    if config.all and (treated or config.card is True):
        raise UserError("all=true: scores new images alone; leave out data2 and card=true")
    uses = {
        "card=true: puts the scores of a model's own test fields into its card": config.card
        is True,
        "data2: compares two conditions by a model of the first": treated,
        f"shard={config.shard}: shares out the predictions of one evaluation by a model": shard.count
        > 1,
    }
    given = [use for use, is_given in uses.items() if is_given]
    if given and not by_model:
        raise UserError(f"{given[0]}; give ckpt=CKPT")
    if len(given) > 1:
        others = ", ".join(use.partition(":")[0] for use in given[1:])
        raise UserError(f"{given[0]}; leave it out, or {others}")
    return shard


def evaluate_checkpoint(
    config: DictConfig, output: Path, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Predict the test fields of `ckpt` and score them; a share of them is predicted alone."""
    shard = Shard.parse(config.shard)
    checkpoint = load_checkpoint(Path(str(config.ckpt)), trusted(config.trust))
    wanted = None if checkpoint.uncertainty is None else config.uncertainty
    predictor = make_predictor(config, checkpoint, wanted)
    trained, samples = test_samples(config, checkpoint)
    data = trained.data
    card = CardUpdate.of(config, checkpoint, trained, samples, output)
    folder = make_folder(make_folder(output) / "predictions")
    pairs = CheckpointPairs(predictor, data, samples, folder)
    if shard.count > 1:
        mine = shard.of(range(len(pairs)))
        clear_leftovers(folder, {f"{samples[index].name}.ome.tif" for index in mine})
        for index in progress(mine, len(mine), "predicting"):
            pairs.pair(index)
        log.info("%d of %d fields in %s, job %s", len(mine), len(pairs), folder, config.shard)
        return {}
    predictor.settle(present(read_sample(inputs_only(samples[0]), data.store)))
    recipe = checkpoint.recipe
    provenance |= {
        "model": f"{recipe['model']} {checkpoint.identity}",
        "precision": predictor.precision,
        "data": f"{data.config.name}, "
        + (f"all fields of {data.config.root}" if config.all else f"split by {data.config.split}")
        + f", {len(recipe['split']['train'])} training samples",
        "fitted on test pixels": fitted_on_test(checkpoint, data.config),
    }
    summary = score.score(pairs, output, provenance, score.Settings.from_config(config))
    card.store(summary)
    return summary


def fitted_on_test(checkpoint: Checkpoint, data: DataConfig) -> str:
    """Return what was estimated on pixels of the test fields, for the report; "nothing" in most cases."""
    found = []
    if checkpoint.recipe["split"]["by"] == "spatial" and any(checkpoint.flats):
        found.append(
            "the flat field: falloff of light over whole fields, in which training and test parts lie"
        )
    if data.register:
        found.append(
            "the shifts between channels (data.register): measured on each test field, its truth included"
        )
    return "; ".join(found) or "nothing"
