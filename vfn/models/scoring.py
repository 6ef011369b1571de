"""Validation, test and prediction steps: figures of patches by torchmetrics."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import lightning as L
import numpy as np
from torch import Tensor, nn
from torchmetrics import MetricCollection

from vfn.data.batch import Batch
from vfn.data.intensity import IntensityNormaliser
from vfn.metrics.patches import FullRange, full_range_metrics, patch_metrics


class PatchScoring(L.LightningModule):
    """A module from inputs to stains that is scored over the valid pixels of patches.

    `val/` and `test/`: mae, mse, psnr, ssim on the range of normalisation, [-1, 1], and pearson; psnr_full and
    ssim_full on all that the targets' dtype can hold, the paper's scale.
    """

    def prepare_metrics(self, recipe: Mapping[str, Any]) -> None:
        """Make the metrics.

        Args:
            recipe: of the checkpoint; its targets' dtypes have a full range if they are whole numbers.
        """
        targets = [IntensityNormaliser.from_dict(d) for d in recipe.get("targets", ())]
        whole = bool(targets) and all(np.dtype(one.dtype).kind in "ui" for one in targets)
        self.full_range = FullRange(targets)
        self.metrics = nn.ModuleDict({part: patch_metrics(f"{part}/") for part in ("val", "test")})
        self.full_metrics = nn.ModuleDict(
            {part: full_range_metrics(f"{part}/") for part in ("val", "test") if whole}
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the figures `val/...`."""
        self._score("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the figures `test/...`."""
        self._score("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the stains (B, Ct, h, w) in [-1, 1]."""
        predicted: Tensor = self(batch.input).float()
        return predicted

    def _collections(self, part: str) -> Iterator[tuple[MetricCollection, bool]]:
        """The figures of a part, and whether they are on the full range."""
        for group, full in ((self.metrics, False), (self.full_metrics, True)):
            if part in group:
                yield cast(MetricCollection, group[part]), full

    def _score(self, part: str, batch: Batch) -> None:
        prediction = self.predict_step(batch, 0)
        for metrics, full in self._collections(part):
            images = [prediction, batch.target]
            if full:
                images = [self.full_range(image) for image in images]
            metrics.update(*images, batch.valid)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of all processes."""
        self._log_figures("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures of all processes."""
        self._log_figures("test")

    def _log_figures(self, part: str) -> None:
        for metrics, _ in self._collections(part):
            # Reduced by torchmetrics already: the mean of equal values is that value.
            self.log_dict(metrics.compute(), sync_dist=True, batch_size=1)
            metrics.reset()
