"""A refocusing model on channels that it never saw (the paper's cross-data-set row of Table 1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from vfn.data.pixels import present, read_sample
from vfn.data.samples import Task
from vfn.evaluation.ranges import FULL_RANGES, ChannelRanges, Range
from vfn.evaluation.rows import pixel_figures
from vfn.models.checkpoint import load_checkpoint
from vfn.panel.plan import Question
from vfn.refocus.refocuser import Refocuser, check_refocuses, range_of
from vfn.system.progress import progress
from vfn.training.build import stain_data

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
        """The result in a sentence."""
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
        names = list(dict.fromkeys(sample.field for sample in split.test))[:FIELDS]
        samples = [sample for sample in split.test if sample.field in names]
        figures: dict[str, list[dict[str, float]]] = {"blurred": [], "refocused": []}
        for sample in progress(samples, len(samples), f"refocusing {channel}"):
            blurred, truth = present(read_sample(sample, data.store))
            for name, image in (("blurred", blurred), ("refocused", refocuser(blurred))):
                figures[name].append(pixel_figures(image, truth, ranges, COLUMNS))
        means = {
            name: {c: float(np.mean([f[c] for f in rows])) for c in COLUMNS}
            for name, rows in figures.items()
        }
        found.append(Across(channel, len(samples), means["blurred"], means["refocused"]))
    return found
