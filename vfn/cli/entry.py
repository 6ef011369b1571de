"""Running of commands: one clear line for bad input, and the exit codes.

0 done; 2 the user's input is wrong; 130 interrupted.
"""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vfn.cli.after_sweep import AfterSweep
from vfn.cli.groups import spelled, with_default_model
from vfn.cli.help import CONF, HELP, PACKAGE, PRESETS, as_called, check_words, help_text
from vfn.cli.messages import config_message, lost_job
from vfn.cli.paths import expand, readable
from vfn.cli.settings import check_settings, leaves, settings_lines
from vfn.cli.stored import read_stored
from vfn.data.samples import Task
from vfn.errors import UserError
from vfn.system.files import room_for
from vfn.system.memory import keep_freed_memory
from vfn.system.signals import INTERRUPTED, comes_of_stopping, end_by_signals, ignore_signals

WRONG_INPUT = 2
MULTIRUN = "multirun.yaml"  # Hydra's record of a sweep, in its folder
# Warnings of Lightning's and torch's that say nothing to a user, as regular expressions.
UNSAID = (
    "isinstance.treespec, LeafSpec",  # Lightning 2.6
    "distributed.nn.functional.all_reduce is deprecated",
    "does not have many workers",
    "`srun` command is available on your system but is not",  # not every command there is a job
    "module.s. in eval mode",  # a frozen encoder is meant to be
    "The number of training batches.*smaller than the logging",
)
log = logging.getLogger(__name__)


class JobFailed(Exception):  # noqa: N818
    """A job of a sweep failed, and its message is printed; raised across processes of a launcher."""


def _guarded(work: str, config: DictConfig, command: str, show: bool) -> None:
    """Run one Hydra job and exit with the promised code; see `run_settings`.

    Only what the user gave wrongly becomes a line; anything else is a defect of ours and keeps its
    traceback. Hydra must not see the exception: it would add lines of its own. In a sweep it must,
    though: it goes on with the other jobs, and raises the first exception after the last of them.
    """
    swept = bool(varied())
    try:
        check_settings(config, command)
        expand(config)
        if show:
            for line in settings_lines(config, typed_words()):
                print(line, flush=True)
        with room_for(Path("a file of this command")):
            resolve_name(work)(config)
    except (Exception, KeyboardInterrupt) as exc:
        if comes_of_stopping(exc):
            leave("interrupted", INTERRUPTED)
        if not isinstance(exc, UserError):
            if swept:  # of several defects Hydra would show one
                traceback.print_exc()
            raise
        if not swept:
            leave(str(exc), WRONG_INPUT)
        message = f"job {HydraConfig.get().job.num}: {exc}"
        print(f"error: {as_called(message)}", file=sys.stderr, flush=True)
        raise JobFailed(message) from None


def varied() -> list[str]:
    """Return the overrides of this job that the sweep varies, as `loss.adversarial=0.01`.

    Hydra keeps the command line in the sweep's folder; a job that a launcher runs in a process of
    its own sees no other trace of it.
    """
    config = HydraConfig.get()
    if config.mode != RunMode.MULTIRUN:
        return []
    keys = swept_keys(Path(config.sweep.dir))
    if keys is None:
        return list(config.overrides.task)
    return [text for text in config.overrides.task if text.split("=")[0].lstrip("+") in keys]


def swept_keys(folder: Path) -> list[str] | None:
    """Return the keys that the sweep in `folder` varies; None with a sweeper of somebody else's."""
    record = folder / MULTIRUN
    if not record.is_file():
        return None
    typed = read_stored(record, references=True)["hydra"]["overrides"]["task"]
    parsed = OverridesParser.create().parse_overrides(typed)
    return [override.key_or_group for override in parsed if override.is_sweep_override()]


def typed_overrides() -> list[Override]:
    """Return the command line of this job."""
    return OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))


def typed_words() -> list[str]:
    """Return the command line of this job word by word, as it was typed."""
    return [override.input_line or "" for override in typed_overrides()]


def typed_keys() -> list[str]:
    """Return the keys on the command line of this job."""
    return [override.key_or_group for override in typed_overrides()]


def refuse_unread(read: Mapping[str, Sequence[str]], given: Container[str]) -> None:
    """Refuse settings that this form of the command would ignore.

    Args:
        read: settings, or tables of them, by the form that reads them, as "with ckpt=...".
        given: the form that it is.

    Raises:
        UserError: one was typed that another form reads.
    """
    for key in typed_keys():
        for form, keys in read.items():
            if key.partition(".")[0] in keys and form not in given:
                raise UserError(f"{key}: is read {form} alone; leave it out")


def run_settings(
    work: str, command: str, words: Sequence[str], alone: Sequence[str] = (), show: bool = False
) -> None:
    """Run a command whose settings Hydra composes from `conf/COMMAND.yaml` and the command line.

    A command line that Hydra cannot compose becomes one line, too.

    Args:
        work: "module:function", called with the config; imported only then, so that `--help` and a
            misspelt key need not wait for it.
        words: the command line.
        alone: settings for a call without any.
        show: print the settings first.
    """
    keep_freed_memory()
    end_by_signals()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed by Hydra
    # Jobs that a launcher starts in processes of their own must find vfn from any folder.
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    if any(word in HELP for word in words):
        print(help_text(command))
        return
    typed = list(sys.argv)
    if alone and not words:
        print(f"no settings given, so this is the demo: {' '.join(alone)}", flush=True)
        words, typed = alone, [*typed, *alone]

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)
    def main(config: DictConfig) -> None:
        sys.argv = typed  # Lightning starts further processes by it
        _guarded(work, config, command, show)

    try:
        check_words(words, command)
        words = spelled(readable(words), command)
        if command == "train":
            words = with_default_model(words)
        sys.argv = [typed[0], *words]  # Hydra reads it
        try:
            main()
        except JobFailed:
            AfterSweep.finish()
            raise
        AfterSweep.finish()
    except (Exception, KeyboardInterrupt) as exc:
        if comes_of_stopping(exc):
            leave("interrupted", INTERRUPTED)
        if isinstance(exc, UserError):
            leave(str(exc), WRONG_INPUT)
        if isinstance(exc, JobFailed):  # jobs on a cluster have said it in their own logs alone
            leave(f"the sweep ran on past what failed, first {exc}", WRONG_INPUT)
        if isinstance(exc, HydraException | OmegaConfBaseException):
            leave(config_message(exc, command), WRONG_INPUT)
        if lost := lost_job(exc):
            leave(lost, INTERRUPTED)
        raise


class LineParser(argparse.ArgumentParser):
    """Parser of commands without a config, with one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(f"{message}; see {self.prog} --help")


def run_parsed(work: Callable[[], Any], interrupted: str = "interrupted") -> int:
    """Run a command without a config.

    Returns:
        The exit code.
    """
    try:
        work()
    except (Exception, KeyboardInterrupt) as exc:
        if comes_of_stopping(exc):
            return _tell(interrupted, INTERRUPTED)
        if isinstance(exc, UserError):
            return _tell(str(exc), WRONG_INPUT)
        raise
    return 0


def leave(message: str, code: int) -> NoReturn:
    """Exit with `message` on stderr."""
    sys.exit(_tell(message, code))


def _tell(message: str, code: int) -> int:
    if code == INTERRUPTED:
        ignore_signals()
    message = as_called(message)
    with suppress(OSError):  # the terminal may be gone
        print(f"error: {message}" if code == WRONG_INPUT else message, file=sys.stderr, flush=True)
    return code


def plain(config: Any) -> Any:
    """Return a config node as plain data, with interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def merge_overrides(
    stored: DictConfig, composed: DictConfig, skip: tuple[str, ...] = ()
) -> DictConfig:
    """Return a stored config with the command line's overrides applied.

    A group that the user chose replaces the stored one unless it is the same choice; single keys
    that the user gave replace single keys.

    Args:
        stored: from a run folder or checkpoint, by the groups' names.
        composed: what Hydra made of the defaults and the command line.
        skip: keys of the command line that have no place in `stored`.
    """
    result = OmegaConf.create({**stored})
    for key, value in _preset(composed).items():
        if key not in skip:
            OmegaConf.update(result, key, value, force_add=True)
    for override in typed_overrides():
        key = override.package or override.key_or_group
        if key in skip or key in PRESETS:
            continue
        node = OmegaConf.select(composed, key)
        if isinstance(node, DictConfig) and "name" in node and "." not in key:
            if OmegaConf.select(result, f"{key}.name") != node.name:
                result[key] = node
        else:
            OmegaConf.update(result, key, node, force_add=True)
    return result


def _preset(composed: DictConfig) -> dict[str, Any]:
    """Return the settings that `experiment=...` and `debug=...` changed, by their dotted names."""
    job = HydraConfig.get()
    words = [word for word in job.overrides.task if word.partition("=")[0] not in PRESETS]
    if len(words) == len(job.overrides.task):
        return {}
    words += [word for word in job.overrides.hydra if word.startswith("hydra.searchpath=")]
    without = compose(job.job.config_name, overrides=words)
    after, before = (dict(leaves(OmegaConf.to_container(c))) for c in (composed, without))
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def known_tasks() -> list[Task]:
    """Return every task of `conf/task`, for messages."""
    files = sorted((CONF / "task").glob("*.yaml"))
    tasks = [make_task(plain(OmegaConf.load(file))) for file in files]
    return [task for task in tasks if task.inputs]


def make_task(data: Any) -> Task:
    """Return the task of a config node.

    Raises:
        UserError: no inputs or targets, a name twice, planes that are no numbers.
    """
    # One channel may be a bare word: brackets mean something to a shell.
    given = ([data[k]] if isinstance(data[k], str) else data[k] for k in ("inputs", "targets"))
    inputs, targets = (tuple(str(c) for c in names or ()) for names in given)
    for key, names in (("inputs", inputs), ("targets", targets)):
        if len(set(names)) < len(names):
            raise UserError(f"task.{key}={list(names)}: a channel is named twice")
    z = tuple(float(v) for v in data["input_z"] or ())
    return Task(str(data["name"]), inputs, targets, z)


def trainable_task(node: DictConfig) -> Task:
    """Return the task of a config that names inputs and targets.

    Raises:
        UserError: no inputs or no targets; see `make_task`.
    """
    task = make_task(plain(node))
    if not task.inputs or not task.targets:
        raise UserError(
            "task.inputs and task.targets: name one channel or more for each, "
            "as in task.inputs=[phase] task.targets=[dapi]"
        )
    return task


class _Stdout(logging.Handler):
    """Prints to the current stdout, since a running progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, unless it is for the run's log.txt alone."""
        if getattr(record, "file_only", False):
            return
        # A file's name need not be UTF-8, and print would end the command over it.
        text = as_called(self.format(record)).encode(errors="backslashreplace").decode()
        with suppress(OSError):  # nobody reads any more: the work goes on
            print(text, flush=True)


class _LogFile(logging.FileHandler):
    """A run's `log.txt`; a full disk does not end the run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore a full disk; writers of results report it."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, even if its buffer does not fit on the disk."""
        with suppress(OSError):
            super().close()


def set_up_logging(log_file: Path | None = None, quiet: bool = False) -> None:
    """Our lines on stdout (stderr is for errors and bars), warnings alone if `quiet`, and, if given, in
    the run's `log.txt`."""
    ours = logging.getLogger("vfn")
    ours.setLevel(logging.INFO)
    ours.propagate = False
    for handler in list(ours.handlers):
        ours.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [_Stdout(logging.WARNING if quiet else logging.NOTSET)]
    if log_file is not None:
        to_file = _LogFile(log_file, encoding="utf-8", errors="backslashreplace")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(to_file)
    for handler in handlers:
        ours.addHandler(handler)
    # Lightning's advice is for developers; its warnings about our choices would only confuse.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # we say ourselves what is wrong
    for message in UNSAID:
        warnings.filterwarnings("ignore", f".*{message}.*")
