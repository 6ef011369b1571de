"""Data loaders for patches, in worker processes, resumable within an epoch."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from vfn.data.batch import RawBatch
from vfn.data.patches import RandomPatches
from vfn.system.signals import available


def as_it_is(batch: RawBatch) -> RawBatch:
    """Collate nothing: the data set returns batches already."""
    return batch


class _From(Sampler[int]):
    """Remaining indices of the current epoch, this rank's share."""

    def __init__(self, loader: "PatchLoader", rank: int, world: int) -> None:
        self.loader, self.rank, self.world = loader, rank, world

    def __iter__(self) -> Iterator[int]:
        loader = self.loader
        size = loader.batch_size or 1
        if loader.drawn - loader.begun >= loader.taken:
            loader.begun = loader.drawn
        start = 0 if loader.repeat else loader.begun
        first = start + loader.drawn - loader.begun
        for index in range(first * size, (start + loader.taken) * size):
            yield index * self.world + self.rank

    def __len__(self) -> int:
        return self.loader.batches * (self.loader.batch_size or 1)


class PatchLoader(DataLoader[RawBatch]):
    """DataLoader over `RandomPatches` that continues within an epoch after a resume.

    Lightning saves and restores it through `state_dict`.

    Args:
        batches: of an epoch.
        limit: number or share of them that is taken, as `limit_train_batches` of `L.Trainer`.
        repeat: take the same batches in every epoch.
        drawn: batches drawn before this epoch.
    """

    def __init__(
        self,
        dataset: RandomPatches,
        batches: int,
        rank: int = 0,
        world: int = 1,
        limit: float = 1.0,
        repeat: bool = False,
        drawn: int = 0,
        **kwargs: Any,
    ) -> None:
        self.batches, self.repeat = batches, repeat
        self.taken = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        self.drawn = self.begun = drawn  # since training began: now, and when this epoch did
        super().__init__(dataset, sampler=_From(self, rank, world), **kwargs)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.batches

    def __iter__(self) -> Any:
        """Yield the remaining batches of the epoch; lazily, so that a state loaded after `iter` counts."""
        for batch in super().__iter__():
            self.drawn += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches drawn since training began, and before this epoch."""
        return {"drawn": self.drawn, "begun": self.begun}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after `state["drawn"]` batches."""
        self.drawn, self.begun = int(state["drawn"]), int(state["begun"])


def leave_signals(_worker: int) -> None:
    """Ignore signals in a worker process: they go to the whole group of processes, but the workers end
    with the training, which finishes its step first."""
    for number in available("SIGINT", "SIGTERM", "SIGUSR1"):
        signal.signal(number, signal.SIG_IGN)


def share_by_name() -> None:
    """Share tensors of worker processes by name instead of by file descriptor, torch's default on Linux.

    Each descriptor goes through a socket, which takes as long as the pixels, and counts against the limit of
    open files. A process of torch's own removes what a killed worker leaves.
    """
    torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]


def loader_options(batch_size: int, workers: int) -> dict[str, Any]:
    """Return the arguments that all loaders of patches share."""
    if workers:
        share_by_name()
    return {
        "batch_size": batch_size,
        "collate_fn": as_it_is,
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": workers > 0,
        "worker_init_fn": leave_signals,
        # Its own: a loader draws a seed each time it starts, also where a run is resumed.
        "generator": torch.Generator(),
    }
