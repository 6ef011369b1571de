"""`predict.py`: a checkpoint and a folder in, OME-TIFFs or OME-Zarrs out."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vfn.checkpoint import load_checkpoint
from vfn.cli import set_up_logging
from vfn.errors import UserError
from vfn.inference.predictor import Predictor, run

log = logging.getLogger(__name__)


def required(config: DictConfig, key: str, example: str) -> Path:
    """The path that `key` gives.

    Raises:
        UserError: it is not given.
    """
    value = config[key]
    if value is None:
        raise UserError(f"{key}: not given; say {key}={example}")
    return Path(str(value))


def make_predictor(config: DictConfig, path: Path) -> Predictor:
    """The checkpoint at `path`, set up as the keys of `predict.yaml` say."""
    return Predictor(
        load_checkpoint(path),
        str(config.device),
        str(config.precision),
        config.tile,
        float(config.overlap),
        int(config.batch_size),
    )


def predict(config: DictConfig) -> list[Path]:
    """Predict every field of `input` with `ckpt` into `output`.

    Returns:
        The files, in order.
    """
    set_up_logging()
    ckpt = required(config, "ckpt", "outputs/NAME/checkpoints/best.ckpt")
    source = required(config, "input", "DIR_OR_FILE")
    output = required(config, "output", "DIR")
    paths = run(make_predictor(config, ckpt), source, output, str(config.format))
    log.info("%d field(s) in %s", len(paths), output)
    return paths
