"""`sweep=optuna`: a search for settings by trainings that learn from each other.

A study is a folder: `study.db` (Optuna's, SQLite), `search.yaml` (what is searched), `trials.csv`, and
a run folder a trial. Hydra's own Optuna sweeper needs Optuna 2.10, whose SQLite storage fails with
today's SQLAlchemy; nor could it prune.
"""

import logging
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import torch
from filelock import FileLock, Timeout
from hydra import compose
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf
from optuna import distributions
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from vfn.cli.entry import (
    plain,
    set_up_logging,
    trainable_task,
    typed_keys,
    typed_overrides,
)
from vfn.cli.settings import leaves
from vfn.cli.stored import read_stored
from vfn.errors import DiskFull, UserError, nearest
from vfn.models.checkpoint_io import BEST, LAST
from vfn.system.csv_files import write_csv
from vfn.system.files import make_folder, write_text
from vfn.training.build import stain_data
from vfn.training.fit import fit
from vfn.training.instantiators import MONITOR
from vfn.training.loggers import SEARCH
from vfn.training.sweep_table import log_run, validation_errors
from vfn.training.trainer_args import is_alone

STUDY, TABLE = "study.db", "trials.csv"
LOCK_WAIT = 60.0  # s that SQLite waits for another process
SHOWN = 5  # best trials in the summary
SEARCHED = ("loss.", "model.")  # MAE on other data, or another time, would not compare
MAY_CHANGE = ("run", "logger", "verbose", "sweep.trials")  # between two calls of one search

log = logging.getLogger(__name__)


def search(config: DictConfig, folder: Path) -> Path:
    """Train `config.sweep.trials` trials in all, one after another; go on with those of `folder`.

    Several processes may work on one folder. A trial whose process died is taken up where it stopped.

    Returns:
        The path of `best.ckpt` of the best trial.

    Raises:
        UserError: anything wrong in the config or the data, another search in `folder`, or no trial
            succeeded.
    """
    settings = plain(config.sweep)
    _check(config, settings)
    given = _space(settings)
    space = {key: _dimension(key, spec, config) for key, spec in given.items()}
    data = stain_data(config, trainable_task(config.task))
    data.setup()  # once for all trials; what is wrong with the images is one line
    make_folder(folder)
    _same_search(config, folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _Study(folder, int(config.seed), settings, space)
    while (trial := study.next()) is not None:
        try:
            _run(trial, config, folder / trial.name, data)
        finally:
            trial.lock.release()
        study.write_table(folder / TABLE)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next network has other sizes
    return _summary(study, folder)


def _space(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what is searched: `sweep.space`, else the usual settings without those that were given.

    Raises:
        UserError: nothing to search, or a setting of `sweep.space` that was given.
    """
    own, typed = settings["space"], typed_keys()
    if own is None:
        usual = settings["usual"]
        for key in usual.keys() & set(typed):
            log.info("%s: is given, so it is not searched", key)
        return {key: spec for key, spec in usual.items() if key not in typed}
    if not isinstance(own, dict) or not own:
        raise UserError(f"sweep.space={own}: give settings, as {{loss.adversarial: [0, 0.1]}}")
    if fixed := [key for key in own if key in typed]:
        raise UserError(f"{fixed[0]}: is given, and searched by sweep.space; leave out one of them")
    return own


def _check(config: DictConfig, settings: dict[str, Any]) -> None:
    if config.resume:
        raise UserError(
            f"resume={config.resume}: a search goes on by the same command with the same run=NAME"
        )
    if config.get("monitor", MONITOR) != MONITOR:
        raise UserError(
            f"monitor={config.monitor}: a search compares its trials by {MONITOR}; leave it out"
        )
    for key, least in (("trials", 1), ("startup_trials", 0), ("warmup_epochs", 0)):
        if settings[key] < least:
            raise UserError(f"sweep.{key}={settings[key]}: give {least} or more")
    if config.seed is None:
        raise UserError(
            "seed=null: a search that goes on draws what it would have drawn; give a number"
        )
    trainer = plain(config.trainer)
    if not is_alone(trainer):
        raise UserError(
            f"sweep=optuna trainer.devices={trainer['devices']}: a trial trains in one process; give "
            "trainer=gpu, and start the same command once for each GPU (CUDA_VISIBLE_DEVICES)"
        )


def _dimension(key: str, spec: Any, config: DictConfig) -> BaseDistribution:
    """Return the values of one entry of `sweep.space`, a list or a range.

    Raises:
        UserError: no such setting, or values that it cannot take.
    """
    default = OmegaConf.select(config, key, default=None)
    if not key.startswith(SEARCHED) or not isinstance(default, bool | int | float | str):
        raise _no_setting(key, config)
    if isinstance(spec, list):
        _check_values(key, spec, default)
        return distributions.CategoricalDistribution(spec)
    if not isinstance(spec, dict) or not {"low", "high"} <= spec.keys() <= {"low", "high", "log"}:
        raise UserError(f"sweep.space: {key}: {spec}: give a list, or {{low: , high: , log: true}}")
    low, high, log_scale = spec["low"], spec["high"], spec.get("log", False)
    _check_values(key, [low, high], default)
    if not isinstance(log_scale, bool):
        raise UserError(f"sweep.space: {key}: log: {log_scale}: give true or false")
    if isinstance(default, bool | str) or not low < high or (log_scale and low <= 0):
        above = " and above 0" if log_scale else ""
        raise UserError(f"sweep.space: {key}: {spec}: give numbers, low below high{above}")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = distributions.IntDistribution if whole else distributions.FloatDistribution
    return kind(low, high, log=log_scale)


def _no_setting(key: str, config: DictConfig) -> UserError:
    names = [k for k, _ in leaves(plain(config)) if k.startswith(SEARCHED)]
    near = nearest(key, names)
    hint = f"; did you mean {near}?" if near else ""
    return UserError(f"sweep.space: {key} is no single setting of loss or model{hint}")


def _check_values(key: str, values: Sequence[Any], default: bool | int | float | str) -> None:
    if not values or any(not _fits(value, default) for value in values):
        raise UserError(f"sweep.space: {key}: {values}: give values such as {default}")


def _fits(value: Any, default: bool | int | float | str) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, type(default))


def _same_search(config: DictConfig, folder: Path) -> None:
    """Keep what is searched beside the study; trials of two searches would not compare.

    Raises:
        UserError: `folder` holds another search.
    """
    ours = {k: v for k, v in leaves(plain(config)) if not _may_change(k)}
    stored = folder / SEARCH
    if not stored.is_file():
        if (folder / "checkpoints").exists():
            raise UserError(f"{folder}: holds a run already; give another run=NAME")
        write_text(stored, OmegaConf.to_yaml(config, resolve=True))
        return
    theirs = {k: v for k, v in leaves(read_stored(stored)) if not _may_change(k)}
    # Settings that came after the search was begun are at their defaults in it.
    defaults = leaves(OmegaConf.to_container(compose("train")))
    theirs = {**{k: v for k, v in defaults if k in ours}, **theirs}
    for key in sorted(ours.keys() | theirs.keys(), key=lambda key: (key != "model.name", key)):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{folder}: holds a search with {key}={theirs.get(key)}, not {ours.get(key)}; go on "
                "with it by the same settings, or give another run=NAME"
            )


def _may_change(key: str) -> bool:
    return key in MAY_CHANGE or key.startswith(tuple(f"{name}." for name in MAY_CHANGE))


@dataclass(frozen=True)
class _Trial:
    """A trial that is ours to train: its run folder's name, and the lock that says so."""

    trial: optuna.Trial
    study: optuna.Study
    name: str
    lock: FileLock


class _Study:
    """Optuna's study in a folder, with trials that outlive their process.

    A lock a trial is held by the process that trains it, and let go by the system when that dies:
    a trial that Optuna calls running and whose lock is free is taken up anew, in the same run folder.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        settings: dict[str, Any],
        space: dict[str, BaseDistribution],
    ) -> None:
        self.folder, self.seed, self.settings, self.space = folder, seed, settings, space
        with self._lock("study"):  # of several processes one counts and asks at a time
            self.study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{(folder / STUDY).absolute()}",
                    engine_kwargs={"connect_args": {"timeout": LOCK_WAIT}},
                ),
                study_name="study",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    settings["startup_trials"], settings["warmup_epochs"]
                ),
            )

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / f".{name}.lock")

    def next(self) -> _Trial | None:
        """The next trial, its lock held; None when there are enough."""
        with self._lock("study"):  # of several processes one counts and asks at a time
            self._take_up()
            everything = self.study.get_trials(deepcopy=False)
            waiting = any(t.state == TrialState.WAITING for t in everything)
            if not waiting and len(self.trials()) >= self.settings["trials"]:
                return None
            # Seeded by the trial's number: a search in two pieces draws what an unbroken one draws,
            # and two processes do not draw the same.
            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(everything))
            trial = self.study.ask(self.space)
            name = _name(trial)
            trial.set_user_attr("folder", name)
            lock = self._lock(name)
            lock.acquire()
        return _Trial(trial, self.study, name, lock)

    def _take_up(self) -> None:
        """Queue the trials anew whose process died."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            name = _name(trial)
            try:
                with self._lock(name).acquire(timeout=0):
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    self.study.enqueue_trial(trial.params, user_attrs={"folder": name})
            except Timeout:
                continue  # it is alive

    def trials(self) -> list[FrozenTrial]:
        """The trials by their folders; of those that were taken up again the last."""
        found = {_name(trial): trial for trial in self.study.get_trials(deepcopy=False)}
        return list(found.values())

    def ranked(self) -> list[FrozenTrial]:
        """Trials that ran whole, the best first."""
        whole = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        return sorted(whole, key=lambda t: t.value if t.value is not None else math.inf)

    def write_table(self, path: Path) -> None:
        """Write `trials.csv`."""
        columns = ["trial", "state", "val_mae", "epochs", "seconds", *self.space, "error"]
        lines = []
        for trial in self.trials():
            scores = trial.intermediate_values
            lines.append(
                [
                    _name(trial),
                    trial.state.name.lower(),
                    f"{min(scores.values()):.6g}" if scores else "",
                    max(scores) + 1 if scores else 0,
                    f"{trial.duration.total_seconds():.1f}" if trial.duration else "",
                    *(trial.params.get(name, "") for name in self.space),
                    trial.user_attrs.get("error", ""),
                ]
            )
        write_csv(path, columns, lines)


def _name(trial: optuna.Trial | FrozenTrial) -> str:
    """Return the run folder's name; a trial that is taken up again keeps it."""
    return str(trial.user_attrs.get("folder", f"trial_{trial.number:03d}"))


class _Pruner(Callback):
    """Tells Optuna the validation MAE of each epoch, and ends the run if that is hopeless.

    Args:
        known: MAE by epoch of a run that is taken up; its last epoch may come again.
    """

    def __init__(self, trial: optuna.Trial, known: dict[int, float]) -> None:
        self.trial, self.known, self.pruned = trial, known, False
        for epoch, score in known.items():
            trial.report(score, epoch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at the end of this epoch, as a run does that is done: nothing of it is lost."""
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics["val/mae"])
        if math.isfinite(score) and trainer.current_epoch not in self.known:
            self.trial.report(score, trainer.current_epoch)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if last or trainer.should_stop or not self.trial.should_prune():
            return
        self.pruned = trainer.should_stop = True
        log.info(
            "pruned: the best validation MAE of epochs 0 to %d is above the median of the other trials",
            trainer.current_epoch,
        )
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary["pruned"] = True


def _run(ours: _Trial, config: DictConfig, folder: Path, data: Any) -> None:
    """Train one trial and tell the study how it ended."""
    trial, study = ours.trial, ours.study
    described = " ".join(f"{key}={_text(value)}" for key, value in trial.params.items())
    log.info("%s: %s", ours.name, described)
    # Without the search: a trial is a run as any other, that predicts and resumes by itself.
    own = OmegaConf.create({k: v for k, v in plain(config).items() if k != "sweep"})
    for key, value in trial.params.items():
        OmegaConf.update(own, key, value)
    own.run = f"{config.run}/{ours.name}"
    if (folder / "checkpoints" / LAST).is_file() and (folder / "config.yaml").is_file():
        own.resume, own.init = str(folder), None
    pruner = _Pruner(trial, validation_errors(folder) if own.resume else {})
    try:
        fit(own, folder, data, callbacks=[pruner])
    except (KeyboardInterrupt, SystemExit, DiskFull):  # untold how it ended, it is taken up again
        log.info("the search goes on by the same command with run=%s", config.run)
        raise
    except (UserError, torch.OutOfMemoryError) as exc:
        message = str(exc).splitlines()[0]
        log.warning("%s failed: %s", ours.name, message)
        trial.set_user_attr("error", message)
        study.tell(trial, state=TrialState.FAIL)
        return
    except Exception:
        study.tell(trial, state=TrialState.FAIL)  # a defect of ours: it would only come again
        raise
    finally:
        set_up_logging()  # the training wrote to its own log.txt too
    scores = validation_errors(folder)
    if pruner.pruned:
        study.tell(trial, state=TrialState.PRUNED)
    elif scores:
        study.tell(trial, min(scores.values()))
    else:
        trial.set_user_attr("error", "no finite validation MAE")
        study.tell(trial, state=TrialState.FAIL)


def _summary(study: _Study, folder: Path) -> Path:
    """Say which trials were best, and how to train the best again."""
    study.write_table(folder / TABLE)
    trials, ranked = study.trials(), study.ranked()
    if not ranked:
        errors = [t.user_attrs["error"] for t in trials if "error" in t.user_attrs]
        raise UserError(
            f"{folder}: none of {len(trials)} trials ran whole; see {TABLE}"
            + (f"; last: {errors[-1]}" if errors else "")
        )
    states = [trial.state.name for trial in trials]
    counts = [
        f"{states.count(name)} {word}"
        for name, word in (
            ("COMPLETE", "whole"), ("PRUNED", "pruned"), ("FAIL", "failed"), ("RUNNING", "still running"),
        )
        if name in states
    ]  # fmt: skip
    log.info("%d trials (%s); table: %s", len(trials), ", ".join(counts), folder / TABLE)
    for trial in ranked[:SHOWN]:
        values = {key: _text(value) for key, value in trial.params.items()}
        log_run(trial.value or math.nan, str(trial.user_attrs["folder"]), values)
    best = ranked[0]
    log.info("best again: %s", _command(best.params, folder.name))
    return folder / str(best.user_attrs["folder"]) / "checkpoints" / BEST


def _command(params: dict[str, Any], name: str) -> str:
    """The command line that trains a trial by itself."""
    kept = [
        override.input_line or ""
        for override in typed_overrides()
        if override.key_or_group not in ("sweep", "run", *params)
        and not override.key_or_group.startswith("sweep.")
    ]
    found = [f"{key}={_text(value)}" for key, value in params.items()]
    plain_name = re.sub(r"[^\w.-]", "_", name)  # one of a sweep has `=` in it
    return shlex.join(["python", "train.py", *kept, *found, f"run={plain_name}_best"])


def _text(value: Any) -> str:
    """A value as Hydra reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
