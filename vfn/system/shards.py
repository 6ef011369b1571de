"""Jobs that share the fields of a plate: `shard=2/8`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vfn.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Job `number` (from 1) of `count`."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: object) -> "Shard":
        """Parse "K/N"; None means all fields.

        Raises:
            UserError: anything else, or no job of that number.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d+)/(\d+)", str(text))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"shard={text}: give K/N, job K of N counted from 1, as shard=2/8")
        return cls(int(found[1]), int(found[2]))

    def of(self, items: Sequence[T]) -> list[T]:
        """Return this job's share, in order: shares are disjoint, complete and differ by one in
        length at most."""
        return list(items[self.number - 1 :: self.count])

    def own(self, path: Path) -> Path:
        """Return `path`, or with several jobs a name beside it that no other job writes."""
        if self.count == 1:
            return path
        return path.with_name(f"{path.stem}.{self.number}-of-{self.count}{path.suffix}")
