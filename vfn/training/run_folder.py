"""The folder of a run: where it lies, whether it is begun, what a resumed run goes on from."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vfn.cli.entry import typed_keys, varied
from vfn.cli.settings import check_settings
from vfn.cli.stored import read_stored, shipped_targets
from vfn.errors import UserError
from vfn.models.checkpoint_io import BEST, LAST, PREVIOUS, newest_whole
from vfn.models.losses import term_weights
from vfn.models.nets import OURS
from vfn.models.reading import read_raw
from vfn.system.csv_files import read_epochs
from vfn.system.dotted import TARGET, refuse_code, targets_in, trusted
from vfn.system.files import make_folder
from vfn.system.locks import refuse_if_claimed
from vfn.training.resume import check_whole, merged

PARTS = ("checkpoints", "samples")  # of a run folder


def run_folder(config: DictConfig) -> tuple[Path, DictConfig]:
    """Return the folder of this run and its config: the stored one with overrides when it resumes.

    Raises:
        UserError: the folder holds another run, or none that can be resumed.
    """
    if config.resume == "auto":  # a queue starts a job that it stopped by the same command
        own = folder_of(config)
        config.resume = str(own) if _is_begun(own) else None
        if _is_cut_short(own):
            return own, config
    if config.resume:
        folder = Path(config.resume)
        if "run" in typed_keys() and folder.resolve() != folder_of(config).resolve():
            raise UserError(
                f"run={config.run}: resume={folder} goes on in that folder; leave run out, or start a "
                "new run by init=CKPT"
            )
        stored = folder / "config.yaml"
        if not stored.is_file() or not _is_begun(folder):
            raise UserError(
                f"resume={folder}: holds no run (config.yaml and checkpoints/{LAST}); "
                "give the folder of a run, outputs/NAME"
            )
        before = OmegaConf.create(read_stored(stored))
        _refuse_strange_code(before, config, str(stored))
        check_settings(before, "train", str(stored))
        check_whole(before, stored)
        read_raw(
            newest_checkpoint(folder / "checkpoints"), trust=None
        )  # refused before anything is written
        return folder, merged(before, config, folder)
    folder = folder_of(config)
    # What failed before it learnt anything may be started anew.
    if _is_begun(folder) or (folder / "checkpoints" / BEST).exists():
        refuse_if_claimed(folder)
        again = (
            "start it anew by resume=auto"
            if _is_cut_short(folder)
            else f"go on with it by resume={folder}"
        )
        raise UserError(
            f"run={config.run}: {folder} holds a run already; {again}, or give another run=NAME"
        )
    return folder, config


def _refuse_strange_code(before: DictConfig, config: DictConfig, where: str) -> None:
    """Refuse dotted paths in the config of a run folder that neither are ours nor stand in `config`."""
    stored, now = (OmegaConf.to_container(c) for c in (before, config))
    terms, own_terms = (
        term_weights(OmegaConf.to_container(c.loss).get("terms"))  # type: ignore[union-attr]
        for c in (before, config)
    )
    known = (*OURS, *shipped_targets(), *trusted(config.get("trust")), *targets_in(now), *own_terms)
    refuse_code([stored, [{TARGET: path} for path in terms]], where, known)


def folder_of(config: DictConfig) -> Path:
    """Return the folder of a new run or search: outputs/NAME or `hydra.run.dir`; of a job of a sweep
    one within, named by what the sweep varies or by `hydra.sweep.subdir`."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        own = str(hydra.run.dir)  # "." in conf/train.yaml
        return Path("outputs") / str(config.run) if own == "." else Path(own)
    folder, what = Path(hydra.sweep.dir), varied()
    if hydra.sweep.subdir != ".":
        return folder / str(hydra.sweep.subdir)
    if config.get("sweep") and not what:  # a search alone needs no `-m`, and may have it
        return folder
    # File systems allow 255 bytes; the number keeps names apart that are cut.
    return folder / re.sub(r"[^\w.,=+-]", "_", "_".join([str(hydra.job.num), *what]))[:100]


def _is_begun(folder: Path) -> bool:
    """Return whether the run in `folder` has a checkpoint to resume from."""
    return any((folder / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS))


def _is_cut_short(folder: Path) -> bool:
    """Return whether the run was killed between the two checkpoints of its first epoch."""
    table = folder / "metrics.csv"
    rows = len(read_epochs(table)) if table.is_file() else 0
    return (folder / "checkpoints" / BEST).is_file() and not _is_begun(folder) and rows <= 1


def newest_checkpoint(checkpoints: Path) -> Path:
    """Return the newest whole checkpoint with optimiser states.

    Raises:
        UserError: all are damaged.
    """
    whole = newest_whole(checkpoints)
    if whole is None:
        raise UserError(
            f"resume={checkpoints.parent}: {LAST} is damaged, and no whole {PREVIOUS} is beside it; "
            f"start another run from the best weights by init={checkpoints / BEST}"
        )
    return whole


@contextmanager
def new_parts(folder: Path) -> Iterator[None]:
    """Make the parts of a run folder; remove them again if the block refuses the user's input."""
    parts = [make_folder(folder / name) for name in PARTS]
    try:
        yield
    except UserError:
        for path in parts:
            if not any(path.iterdir()):
                path.rmdir()
        raise
