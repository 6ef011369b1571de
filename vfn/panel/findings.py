"""Results of the trained cells of a panel: metrics with intervals, grades, the smallest panel."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from vfn.errors import UserError

LEVEL = 0.95  # of the intervals
FIGURES = ("pearson", "psnr_signal", "ssim_signal", "mae_signal")
GRADES = ("L", "A", "H")  # low, average, high


class Estimate(NamedTuple):
    """A figure over the repeats: mean and 95 % interval; NaN where one repeat gives none."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Finding:
    """One input set and target.

    Attributes:
        figures: column of `FIGURES` -> over the repeats.
        gain: dB of PSNR on the signal range over the best baseline.
        baseline: the best one, and its `figures`.
        grade: see `Grades.words`.
    """

    inputs: tuple[str, ...]
    target: str
    figures: Mapping[str, Estimate]
    gain: Estimate
    baseline: str
    baseline_figures: Mapping[str, Estimate]
    grade: str


@dataclass(frozen=True)
class Grades:
    """Pearson's r from which a target counts as predicted with high or average quality.

    Raises:
        UserError: limits out of order or range.
    """

    high: float
    average: float

    def __post_init__(self) -> None:
        if not 0 < self.average < self.high < 1:
            raise UserError(
                f"grades={{high: {self.high:g}, average: {self.average:g}}}: give correlations with "
                "0 < average < high < 1"
            )

    def of(self, r: float) -> int:
        """Number of the grade in `GRADES`."""
        return int(r >= self.average) + int(r >= self.high)

    def words(self, estimate: Estimate) -> str:
        """The grade, both where the interval spans a limit ("L-A"), the mean's with a question mark
        where it spans two.

        The interval of two repeats is so wide that it would say nothing: there the mean decides.
        """
        if math.isnan(estimate.mean):
            return "-"
        ends = [estimate.mean]
        if estimate.n > 2:
            ends += [estimate.low, estimate.high]
        grades = sorted({self.of(end) for end in ends if not math.isnan(end)})
        if grades[-1] - grades[0] > 1:
            return f"{GRADES[self.of(estimate.mean)]}?"
        return "-".join(GRADES[i] for i in grades)


def interval(values: Sequence[float | None], correlation: bool = False) -> Estimate:
    """Mean and Student's 95 % interval over repeats; of correlations on Fisher's z scale.

    Repeats share fields (or parts of them), so they are not independent: the interval tells of the
    split, of seed and training, not of other plates. With n = 2 it is very wide by its nature.
    """
    x = np.array([v for v in values if v is not None], float)
    if not len(x):
        return Estimate(math.nan, math.nan, math.nan, 0)
    if correlation:
        x = np.arctanh(np.clip(x, -0.999999, 0.999999))
    mean, half = float(x.mean()), math.nan
    if len(x) > 1:
        spread = float(x.std(ddof=1)) / math.sqrt(len(x))
        half = float(special.stdtrit(len(x) - 1, (1 + LEVEL) / 2)) * spread  # Student's quantile
    ends = (mean, mean - half, mean + half)
    mean, low, high = map(math.tanh, ends) if correlation else ends
    return Estimate(mean, low, high, len(x))


def collect(cells: Iterable[Mapping[str, Any]], grades: Grades) -> list[Finding]:
    """Put the repeats of each input set and target together, in the order of their first cell."""
    pairs: dict[tuple[tuple[str, ...], str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        for target, scores in cell["targets"].items():
            pairs.setdefault((tuple(cell["inputs"]), target), []).append(scores)
    return [_finding(inputs, target, runs, grades) for (inputs, target), runs in pairs.items()]


def _finding(
    inputs: tuple[str, ...], target: str, runs: Sequence[Mapping[str, Any]], grades: Grades
) -> Finding:
    def over(system: str) -> dict[str, Estimate]:
        return {
            column: interval([run[system][column] for run in runs], column == "pearson")
            for column in FIGURES
        }

    baselines = {
        name: over(name)
        for name in runs[0]
        if name != "prediction" and all(name in run for run in runs)
    }
    best = max(baselines, key=lambda name: baselines[name]["psnr_signal"].mean)
    pairs = [(run["prediction"]["psnr_signal"], run[best]["psnr_signal"]) for run in runs]
    gain = interval([None if None in pair else pair[0] - pair[1] for pair in pairs])
    figures = over("prediction")
    grade = grades.words(figures["pearson"])
    return Finding(inputs, target, figures, gain, best, baselines[best], grade)


@dataclass(frozen=True)
class Stained:
    """A choice of stains that are made, the others predicted from them.

    Attributes:
        stains: that are made; `free` channels cost nothing and are not listed.
        sources: predicted channel -> the best input set within the stains (and the free channels), and
            its r; an r of NaN and no inputs where none was trained.
        enough: every predicted channel reaches the wanted r.
    """

    stains: tuple[str, ...]
    sources: Mapping[str, tuple[tuple[str, ...], float]]
    enough: bool

    @property
    def predicted(self) -> list[str]:
        """The predicted channels in words, with their inputs and r."""
        return [
            f"{target} from {' + '.join(inputs)} (r = {r:.2f})"
            if inputs
            else f"{target}: not trained"
            for target, (inputs, r) in self.sources.items()
        ]

    @property
    def worst(self) -> float:
        """The smallest r among the predicted channels; -1 where one has none."""
        values = [r for _, r in self.sources.values()]
        return min((-1.0 if math.isnan(r) else r for r in values), default=math.inf)


def smallest_panels(
    quality: Mapping[tuple[tuple[str, ...], str], float],
    channels: Sequence[str],
    free: Sequence[str],
    wanted: float,
) -> list[Stained]:
    """Return the best choice for each number of stains from 0, up to the first number that is enough.

    Of equally many stains that is the best whose worst predicted channel is predicted best; where
    several are enough, all of them come, the best first.

    Args:
        quality: (input set, target) -> r.
        channels: all; those of `free` (transmitted light) cost no stain and are not predicted.
        wanted: r that every predicted channel must reach.
    """
    stains = [channel for channel in channels if channel not in free]
    found: list[Stained] = []
    for size in range(len(stains)):
        choices = []
        for chosen in combinations(stains, size):
            there = {*chosen, *free}
            sources = {s: _source(s, there, quality) for s in stains if s not in chosen}
            enough = all(r >= wanted for _, r in sources.values())  # NaN is not
            choices.append(Stained(chosen, sources, enough))
        choices.sort(key=lambda choice: -choice.worst)
        good = [choice for choice in choices if choice.enough]
        if good:
            return found + good
        found.append(choices[0])
    return found


def _source(
    target: str, there: set[str], quality: Mapping[tuple[tuple[str, ...], str], float]
) -> tuple[tuple[str, ...], float]:
    """Return the input set among the channels `there` that predicts `target` best, and its r."""
    known = [
        (inputs, r)
        for (inputs, name), r in quality.items()
        if name == target and set(inputs) <= there and not math.isnan(r)
    ]
    return max(known, key=lambda pair: pair[1], default=((), math.nan))
