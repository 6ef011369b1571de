"""`predict.py`: predict the fields of a folder into OME-TIFFs or OME-Zarrs."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vfn.cli.entry import plain, set_up_logging
from vfn.data.cache import ImageCache
from vfn.data.discovery.layout import Layout, check_channels, check_z
from vfn.data.samples import Sample
from vfn.errors import UserError
from vfn.inference.folder import Prepare, run
from vfn.inference.predictor import Predictor
from vfn.models.checkpoint import Checkpoint, load_checkpoint
from vfn.refocus.step import refocusing_of
from vfn.system.dotted import trusted
from vfn.system.shards import Shard

log = logging.getLogger(__name__)


def required(config: DictConfig, key: str, example: str) -> Path:
    """Return the path that `key` gives.

    Raises:
        UserError: it is not given.
    """
    value = config[key]
    if value is None:
        raise UserError(f"{key}: not given; say {key}={example}")
    return Path(str(value))


def make_predictor(
    config: DictConfig,
    checkpoint: Checkpoint,
    uncertainty: float | None = None,
    backend: str = "torch",
) -> Predictor:
    """Return a predictor of `checkpoint`, set up by the keys of `predict.yaml`."""
    return Predictor(
        checkpoint,
        str(config.device),
        str(config.precision),
        config.tile,
        float(config.overlap),
        config.batch_size,
        uncertainty,
        backend,
        str(config.get("tta", "none")),
    )


def given_layout(config: DictConfig) -> Layout:
    """Return the naming of the new files: keys `channels`, `pattern`, `manifest`, `z_zero`, `z_step`.

    Raises:
        UserError: no mapping of channels; a pattern beside a manifest; z that is no number.
    """
    channels = {} if config.channels is None else config.channels
    channels = plain(channels) if isinstance(channels, DictConfig) else channels
    check_channels(channels, "channels")
    check_z(config.z_zero, config.z_step, "")
    pattern, manifest = (None if v is None else str(v) for v in (config.pattern, config.manifest))
    if pattern and manifest:
        raise UserError(
            f"pattern={pattern}, manifest={manifest}: give one, a manifest names every file"
        )
    return Layout(channels, pattern, manifest, config.z_zero, config.z_step, prefix="")


def predict(config: DictConfig) -> list[Path]:
    """Predict every field of `input` with `ckpt` into `output`.

    Returns:
        The files, in order.
    """
    set_up_logging()
    ckpt = required(config, "ckpt", "outputs/NAME/checkpoints/best.ckpt")
    layout = given_layout(config)
    listed = config.input is None and layout.manifest is not None
    source = None if listed else required(config, "input", "DIR_OR_FILE")
    output = required(config, "output", "DIR")
    shard = Shard.parse(config.shard)
    checkpoint = load_checkpoint(ckpt, trusted(config.trust))
    predictor = make_predictor(config, checkpoint, config.uncertainty, str(config.backend))
    if predictor.coverage is not None and checkpoint.uncertainty is not None:
        for line in checkpoint.uncertainty.promise(predictor.coverage, checkpoint.task.targets):
            log.info(line)
    prepare = refocusing_step(checkpoint, shard.own(output / "refocus.csv"))
    paths = run(predictor, source, output, str(config.format), prepare, shard, layout)
    log.info("%d field(s) in %s", len(paths), output)
    for verdict in checkpoint.verdicts:
        log.log(logging.WARNING if verdict.is_warning else logging.INFO, "%s", verdict.text)
    return paths


def refocusing_step(checkpoint: Checkpoint, table: Path) -> Prepare | None:
    """Return the step that refocuses blurred fields before prediction; None where the checkpoint has none.

    Args:
        table: is written anew, a row a field that was looked at.
    """
    step = refocusing_of(checkpoint)
    if step is None:
        return None

    def refocus(samples: list[Sample], store: ImageCache) -> list[Sample]:
        log.info("%s", step.summary(samples, store))
        step.record(table, {"": samples}, store)
        return step.apply(samples, store)

    return refocus
