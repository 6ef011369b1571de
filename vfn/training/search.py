"""`sweep=optuna`: a search for settings by trainings that learn from each other.

A study is a folder: `study.db` (Optuna's, SQLite), `search.yaml` (what is searched), `trials.csv`, and
a run folder a trial. Hydra's own Optuna sweeper needs Optuna 2.10, whose SQLite storage fails with
today's SQLAlchemy; nor could it prune.
"""

import logging
import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import torch
from filelock import FileLock, Timeout
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
from vfn.cli.settings import is_below, leaves
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
STATES = {"COMPLETE": "whole", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "still running"}

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
    while (ours := study.next()) is not None:
        trial, lock = ours
        try:
            _run(trial, config, folder / _name(trial), data)
        finally:
            lock.release()
        study.write_table()
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
    if config.monitor != MONITOR:
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


def _with(config: DictConfig, values: dict[str, Any]) -> DictConfig:
    """Return a copy of `config` with some settings changed."""
    own = OmegaConf.create(plain(config))
    for key, value in values.items():
        OmegaConf.update(own, key, value)
    return own


def _same_search(config: DictConfig, folder: Path) -> None:
    """Keep what is searched beside the study; trials of two searches would not compare.

    Raises:
        UserError: `folder` holds another search.
    """
    stored = folder / SEARCH
    if not stored.is_file():
        if (folder / "checkpoints").exists():
            raise UserError(f"{folder}: holds a run already; give another run=NAME")
        write_text(stored, OmegaConf.to_yaml(config, resolve=True))
        return
    ours, theirs = dict(leaves(plain(config))), dict(leaves(read_stored(stored)))
    for key in sorted(ours.keys() | theirs.keys(), key=lambda key: (key != "model.name", key)):
        if not is_below(key, MAY_CHANGE) and ours.get(key) != theirs.get(key):
            raise UserError(
                f"{folder}: holds a search with {key}={theirs.get(key)}, not {ours.get(key)}; go on "
                "with it by the same settings, or give another run=NAME"
            )


class _Study:
    """Optuna's study in a folder, with trials that outlive their process.

    A lock a trial is held by the process that trains it, and let go by the system when that dies:
    a trial that Optuna calls running and whose lock is free is taken up anew, in the same run folder.
    """

    def __init__(
        self, folder: Path, seed: int, settings: dict[str, Any], space: dict[str, BaseDistribution]
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

    def next(self) -> tuple[optuna.Trial, FileLock] | None:
        """Return the next trial and its lock, which is held; None when there are enough."""
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
            trial.set_user_attr("folder", _name(trial))
            lock = self._lock(_name(trial))
            lock.acquire()
        return trial, lock

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
        """Return the trials by their folders; of those that were taken up again the last."""
        found = {_name(trial): trial for trial in self.study.get_trials(deepcopy=False)}
        return list(found.values())

    def write_table(self) -> None:
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
        write_csv(self.folder / TABLE, columns, lines)


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
        score = float(trainer.callback_metrics[MONITOR])
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


def _run(trial: optuna.Trial, config: DictConfig, folder: Path, data: Any) -> None:
    """Train one trial and tell the study how it ended."""
    tell = partial(trial.study.tell, trial)
    log.info("%s: %s", folder.name, " ".join(_words(trial)))
    own = _with(config, trial.params)
    del own.sweep  # a trial is a run as any other, that predicts and resumes by itself
    own.run = f"{config.run}/{folder.name}"
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
        log.warning("%s failed: %s", folder.name, message)
        trial.set_user_attr("error", message)
        tell(state=TrialState.FAIL)
        return
    except Exception:
        tell(state=TrialState.FAIL)  # a defect of ours: it would only come again
        raise
    finally:
        set_up_logging()  # the training wrote to its own log.txt too
    scores = validation_errors(folder)
    if pruner.pruned:
        tell(state=TrialState.PRUNED)
    elif scores:
        tell(min(scores.values()))
    else:
        trial.set_user_attr("error", "no finite validation MAE")
        tell(state=TrialState.FAIL)


def _summary(study: _Study, folder: Path) -> Path:
    """Say which trials were best, and how to train the best again."""
    study.write_table()
    trials = study.trials()
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not whole:
        errors = [t.user_attrs["error"] for t in trials if "error" in t.user_attrs]
        raise UserError(
            f"{folder}: none of {len(trials)} trials ran whole; see {TABLE}"
            + (f"; last: {errors[-1]}" if errors else "")
        )
    numbers = Counter(trial.state.name for trial in trials)
    counts = [f"{numbers[state]} {word}" for state, word in STATES.items() if numbers[state]]
    log.info("%d trials (%s); table: %s", len(trials), ", ".join(counts), folder / TABLE)
    ranked = sorted(whole, key=lambda trial: trial.value or 0.0)
    for trial in ranked[:SHOWN]:
        log_run(trial.value or math.nan, _name(trial), _settings(trial))
    log.info("best again: %s", _command(ranked[0], folder.name))
    return folder / _name(ranked[0]) / "checkpoints" / BEST


def _command(trial: FrozenTrial, name: str) -> str:
    """Return the command line that trains a trial by itself."""
    kept = [
        override.input_line or ""
        for override in typed_overrides()
        if not is_below(override.key_or_group, ("sweep", "run", *trial.params))
    ]
    plain_name = re.sub(r"[^\w.-]", "_", name)  # one of a sweep has `=` in it
    return shlex.join(["python", "train.py", *kept, *_words(trial), f"run={plain_name}_best"])


def _settings(trial: optuna.Trial | FrozenTrial) -> dict[str, str]:
    """Return the settings of a trial as Hydra reads them."""
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in trial.params.items()
    }


def _words(trial: optuna.Trial | FrozenTrial) -> list[str]:
    return [f"{key}={value}" for key, value in _settings(trial).items()]
