"""A refocusing model on channels that it never saw (the paper's cross-data-set row of Table 1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from vfn.checkpoint import load_checkpoint
from vfn.data.pixels import present, read_view
from vfn.data.views import Task
from vfn.metrics.ranges import FULL_RANGES, ChannelRanges, Range
from vfn.metrics.rows import pixel_figures
from vfn.panel.plan import Question
from vfn.progress import progress
from vfn.refocusing import Refocuser, check_refocuses, range_of
from vfn.training import stain_data

FIELDS = 8  # test fields, each at every depth
COLUMNS = ("psnr_signal", "pearson")


@dataclass(frozen=True)
class Across:
    """One channel, mean over planes.

    Attributes:
        planes: out of focus, of test fields.
        blurred, refocused: column of `COLUMNS` -> mean against the focal plane.
    """

    channel: str
    planes: int
    blurred: dict[str, float]
    refocused: dict[str, float]

    @property
    def sentence(self) -> str:
        """Whether it helps."""
        gain = self.refocused["psnr_signal"] - self.blurred["psnr_signal"]
        what = "helps" if gain > 0 else "does HARM to"
        return (
            f"The refocusing model {what} {self.channel}, which it never saw: {gain:+.1f} dB, r "
            f"{self.blurred['pearson']:.2f} -> {self.refocused['pearson']:.2f}."
        )


def across(config: DictConfig, question: Question, path: Path) -> list[Across]:
    """Refocus every other stain of the panel's data set, which must have stacks.

    Raises:
        UserError: no refocusing model, or no planes out of focus to try it on.
    """
    model = load_checkpoint(path)
    check_refocuses(model)
    found = []
    for channel in question.channels:
        if channel in question.free or channel in model.task.inputs:
            continue
        task = Task("refocus", (channel,), (channel,), model.task.input_z)
        data = stain_data(config, task)
        split = data.divide()
        sharp = list(dict.fromkeys(p for v in split.train for p in v.targets if p is not None))
        refocuser = Refocuser(model, range_of(sharp, model, data.store))
        ranges = ChannelRanges(
            refocuser.sharp.dtype,
            Range(*FULL_RANGES.get(refocuser.sharp.dtype, (refocuser.sharp.low, refocuser.sharp.high))),
            Range(refocuser.sharp.low, refocuser.sharp.high), len(sharp), 0,
        )  # fmt: skip
        names = list(dict.fromkeys(view.field for view in split.test))[:FIELDS]
        views = [view for view in split.test if view.field in names]
        figures: dict[str, list[dict[str, float]]] = {"blurred": [], "refocused": []}
        for view in progress(views, len(views), f"refocusing {channel}"):
            blurred, truth = present(read_view(view, data.store))
            for name, image in (("blurred", blurred), ("refocused", refocuser(blurred))):
                figures[name].append(pixel_figures(image, truth, ranges, COLUMNS))
        means = {
            name: {c: float(np.mean([f[c] for f in rows])) for c in COLUMNS}
            for name, rows in figures.items()
        }
        found.append(Across(channel, len(views), means["blurred"], means["refocused"]))
    return found
