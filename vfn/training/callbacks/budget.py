"""A time limit for one call of `train.py`."""

from datetime import timedelta
from typing import Any

from lightning.pytorch.callbacks import Timer


class Budget(Timer):
    """`trainer.max_time` of this call: a resumed run gets it anew, as a cluster's queue grants it.

    Lightning's own timer counts the time before the stop as well.
    """

    def __init__(self, duration: timedelta) -> None:
        super().__init__(duration=duration, interval="step", verbose=False)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: time spent before a stop does not count."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start from zero."""

    @property
    def is_over(self) -> bool:
        """Whether the time is spent."""
        left = self.time_remaining()
        return left is not None and left <= 0
