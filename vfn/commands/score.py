"""`evaluate.py pred=DIR truth=DIR`: score predicted images, any program's, against real ones."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from vfn.cli.entry import plain
from vfn.cli.help import CONF
from vfn.errors import UserError
from vfn.evaluation.features import compare_features
from vfn.evaluation.folder_pairs import FolderPairs
from vfn.evaluation.limits import Limits, read_limits
from vfn.evaluation.pairs import PairSource
from vfn.evaluation.ranges import channel_ranges
from vfn.evaluation.raw_pairs import RawPairs
from vfn.evaluation.score import score_fields
from vfn.evaluation.stain import Nuclei
from vfn.metrics.feature_fidelity import SURVIVES
from vfn.metrics.features import object_channels, require_cp_measure
from vfn.report.evaluation_report import ChannelReport, print_evaluation, write_evaluation
from vfn.report.feature_figures import write_features
from vfn.system.files import make_folder

READS = ("channels", "inputs", "wells")


def default_limits() -> dict[str, Limits]:
    """Return the limits of the verdict as `conf/evaluate.yaml` ships them."""
    return read_limits(plain(OmegaConf.load(CONF / "evaluate.yaml").verdict))


@dataclass(frozen=True)
class Settings:
    """Settings of the measurements and the verdict.

    Attributes:
        limits: of the verdict.
        nuclei: in which channels nuclei are looked for.
        features: measure CellProfiler's features over objects that are found in these channels, of
            nuclei and of cell bodies, None for the usual names; None altogether measures none.
        survives: r from which a feature is said to survive.
    """

    limits: Mapping[str, Limits] = field(default_factory=default_limits)
    nuclei: Nuclei = field(default_factory=Nuclei)
    features: tuple[str | None, str | None] | None = None
    survives: float = SURVIVES

    @classmethod
    def from_config(cls, config: DictConfig) -> "Settings":
        """Read the keys `nuclei`, `features`, `cells`, `survives` and `verdict`.

        Raises:
            UserError: a limit or correlation out of range.
        """
        nuclei = tuple(str(name) for name in config.nuclei)
        cells = None if config.cells is None else str(config.cells)
        if not 0 <= config.survives <= 1:
            raise UserError(f"survives={config.survives}: give a correlation, 0 to 1")
        features = (nuclei[0] if nuclei else None, cells) if config.features else None
        limits = read_limits(plain(config.verdict))
        return cls(limits, Nuclei(nuclei), features, float(config.survives))


def score_folders(config: DictConfig, output: Path, provenance: Mapping[str, Any]) -> Any:
    """Score the images of `pred` against those of `truth`; return the summary."""
    pred = config.pred if isinstance(config.pred, ListConfig) else [config.pred]
    folders, truth = [Path(str(folder)) for folder in pred], Path(str(config.truth))
    channels, wells = tuple(str(c) for c in config.channels), _wells(config.wells)
    inputs = [str(name) for name in config.inputs]
    images: PairSource | None = None
    if len(folders) == 1 and not channels and wells is None:
        images = RawPairs.find(folders[0], truth, inputs)
    images = images or FolderPairs(folders, truth, channels or None, inputs, wells)
    return score(images, make_folder(output), provenance, Settings.from_config(config))


def score(
    source: PairSource,
    output: Path,
    provenance: Mapping[str, Any],
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Score every field of the source, write tables, figures and the page, and print a table.

    Fields are read one at a time: once for the intensity ranges (twice with float images), once for
    the metrics, and again for the few that the page shows. None is kept in memory.

    Args:
        source: the pairs.
        output: folder to write to, made if it is missing.
        provenance: how the predictions came about (command, checkpoint, data set); shown on the page.
        settings: None for those that `conf/evaluate.yaml` ships.

    Returns:
        The content of `summary.json`: channel -> column -> mean, std, n; `range_full`,
        `range_signal`, `baselines`, `verdict`.

    Raises:
        UserError: no field, images that cannot be compared, an output that cannot be written.
    """
    if not len(source):
        raise UserError("no field to score; check the folders and the split that was asked for")
    make_folder(output)
    settings = settings or Settings()
    if settings.features is not None:
        require_cp_measure()  # before the images are read
    ranges = channel_ranges(source)
    found_in = None
    if settings.features is not None:
        channels = [*source.pair(0).input_channels, *ranges]
        found_in = object_channels(channels, tuple(ranges), *settings.features)
    results = score_fields(source, ranges, settings.nuclei)
    features = None if found_in is None else compare_features(source, found_in)
    if features is not None:
        write_features(output / "features.csv", features, settings.survives)
    reports = [
        ChannelReport.of(source, result, features, settings.survives, settings.limits)
        for result in results
    ]
    summary = write_evaluation(output, source, reports, provenance)
    print_evaluation(output, reports)
    return summary


def _wells(pattern: str | None) -> re.Pattern[str] | None:
    """The expression that finds wells in the names of fields."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise UserError(f"wells={pattern}: is no regular expression ({exc})") from exc
    if "well" not in compiled.groupindex:
        raise UserError(f"wells={pattern}: name the part that is the well (?P<well>...)")
    return compiled
