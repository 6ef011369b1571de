"""Finish a sweep once its jobs are over."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class AfterSweep(Callback):
    """Call a function with the sweep's folder when all jobs are over, also where some failed.

    Hydra's own hook for the end is left out where a job failed.

    Args:
        work: "module:function".
    """

    waiting: ClassVar[list[tuple[str, Path]]] = []

    def __init__(self, work: str) -> None:
        self.work = work

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the folder, in the process that launches the jobs."""
        self.waiting.append((self.work, Path(config.hydra.sweep.dir)))

    @classmethod
    def finish(cls) -> None:
        """Call the function, if this process has launched a sweep."""
        while cls.waiting:
            work, folder = cls.waiting.pop()
            resolve_name(work)(folder)
