"""Loggers beside metrics.csv, which is always written."""

import logging
import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, WandbLogger

from vfn.cli.entry import MULTIRUN
from vfn.system.files import make_folder, write_text
from vfn.training.callbacks.checkpoints import MODES

SEARCH = "search.yaml"  # our record of a search, in its folder
WANDB_TAG, WANDB_GROUP = 64, 128  # characters that W&B takes

log = logging.getLogger(__name__)


def wandb_logger(
    save_dir: Path,
    project: str = "vfn",
    group: str | None = None,
    tags: Sequence[str] = (),
    **arguments: Any,
) -> WandbLogger:
    """Return the W&B logger of a run folder; a resumed run goes on with its W&B run.

    Args:
        save_dir: the run folder.
        group: None: the sweep's name, for the runs of a sweep.
        arguments: further ones of `wandb.init`.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    sweep = save_dir.parent
    swept = any((sweep / name).is_file() for name in (MULTIRUN, SEARCH))
    tags = [*tags, *(["sweep"] if swept else [])]
    identity = _identity(save_dir)
    logger = WandbLogger(
        save_dir=save_dir,
        project=project,
        group=group or (sweep.name[:WANDB_GROUP] if swept else None),
        name=save_dir.name,
        id=identity.read_text("utf-8").strip() if identity.exists() else uuid.uuid4().hex[:8],
        mode="online" if _has_wandb_account() else "offline",
        tags=[tag[:WANDB_TAG] for tag in dict.fromkeys(tags)],
        **arguments,
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning sets it, and W&B warns of it
    return logger


def start_loggers(loggers: Sequence[Logger], folder: Path, parameters: Mapping[str, Any]) -> None:
    """Log the hyperparameters to all loggers; of W&B, make the best epoch the row of a dashboard."""
    for logger in loggers:
        logger.log_hyperparams(dict(parameters))
        if not isinstance(logger, WandbLogger):
            continue
        identity = _identity(folder)
        if not identity.exists():
            make_folder(identity.parent)
            write_text(identity, str(logger.version))
        if not _has_wandb_account():
            log.info(
                "W&B: no account is set up, so the run is kept in %s (wandb sync)", identity.parent
            )
        for name, mode in {**MODES, "psnr_full": "max", "ssim_full": "max"}.items():
            logger.experiment.define_metric(f"val/{name}", summary=mode)


def _identity(folder: Path) -> Path:
    return folder / "wandb" / "run_id.txt"


def _has_wandb_account() -> bool:
    """Return whether W&B would find a key (environment or netrc) and may go online."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
