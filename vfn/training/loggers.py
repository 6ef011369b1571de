"""The loggers beside metrics.csv, which is always written: TensorBoard, Weights & Biases."""

import logging
import netrc
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig

from vfn.cli.entry import MULTIRUN, plain
from vfn.errors import UserError
from vfn.system.files import make_folder, write_text
from vfn.training.trainer_args import is_first

SEARCH = "search.yaml"  # our record of a search, in its folder
WANDB_TAG, WANDB_GROUP = 64, 128  # characters that W&B takes

log = logging.getLogger(__name__)


def make_logger(
    folder: Path, config: DictConfig, networks: Sequence[torch.nn.Module | None]
) -> Logger | None:
    """Return the logger of the config; none for `csv`, and in processes that do not write."""
    name = config.logger.name
    if name == "csv":
        return None
    if name == "tensorboard":
        try:
            return TensorBoardLogger(folder, name="tensorboard", version="")
        except ModuleNotFoundError as exc:
            raise UserError("logger=tensorboard: not installed; pip install tensorboard") from exc
    return WandbLogger(experiment=_wandb_run(folder, config, networks)) if is_first() else None


def _wandb_run(folder: Path, config: DictConfig, networks: Sequence[torch.nn.Module | None]) -> Any:
    """Return the W&B run of a run folder, the same one after a resume."""
    import wandb  # here: it is slow to import, and not every training asks for it

    os.environ.setdefault("WANDB_SILENT", "true")
    identity = folder / "wandb" / "run_id.txt"
    if not identity.exists():
        make_folder(identity.parent)
        write_text(identity, uuid.uuid4().hex[:8])
    online = _has_wandb_account()
    if not online:
        log.info(
            "W&B: no account is set up, so the run is kept in %s (wandb sync)", identity.parent
        )
    sweep = folder.parent
    swept = any((sweep / name).is_file() for name in (MULTIRUN, SEARCH))
    tags = [config.data.name, config.task.name, config.model.name, *(["sweep"] if swept else [])]
    parameters = {
        name: sum(p.numel() for p in network.parameters()) if network is not None else 0
        for name, network in zip(("generator", "discriminator"), networks, strict=True)
    }
    run = wandb.init(
        project=config.logger.project,
        group=config.logger.group or (sweep.name[:WANDB_GROUP] if swept else None),
        name=folder.name,
        id=identity.read_text(encoding="utf-8").strip(),
        resume="allow",
        dir=folder,
        mode="online" if online else "offline",
        config={**plain(config), "parameters": parameters},
        tags=[tag[:WANDB_TAG] for tag in dict.fromkeys(tags)],
    )
    # A dashboard's row shows the best epoch, as best.ckpt is, not the last.
    run.define_metric("val/mae", summary="min")
    run.define_metric("val/psnr", summary="max")
    return run


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
