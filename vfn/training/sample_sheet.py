"""The sheet of sample patches that a training draws every few epochs."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from vfn.data.batch import Batch
from vfn.system.files import replacing

INCHES, DPI = 1.6, 110  # of one tile


def sample_sheet(
    batch: Batch,
    prediction: Tensor,
    inputs: tuple[str, ...],
    targets: tuple[str, ...],
    path: Path,
) -> np.ndarray:
    """Draw a row a patch: inputs, then prediction and truth of each target, on the truth's range.

    Args:
        batch: B patches; `prediction` (B, Ct, h, w), all in [-1, 1].
        path: of the PNG.

    Returns:
        The sheet (H, W, 3) uint8.
    """
    columns = [(name, batch.input[:, i], batch.input[:, i]) for i, name in enumerate(inputs)]
    for i, name in enumerate(targets):
        columns.append((f"{name}, predicted", prediction[:, i], batch.target[:, i]))
        columns.append((f"{name}, true", batch.target[:, i], batch.target[:, i]))
    rows = len(batch.input)
    figure = Figure((INCHES * len(columns), INCHES * rows + 0.25), DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for c, (title, images, scale) in enumerate(columns):
        axes[0, c].set_title(title, fontsize=8)
        for r in range(rows):
            low, high = np.percentile(scale[r].numpy(), [0.5, 99.5])
            axes[r, c].imshow(images[r].numpy(), cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axes[r, c].set_axis_off()
    with replacing(path) as temporary:
        # Lays out and draws once, where `savefig` does both twice.
        canvas.print_png(temporary)  # type: ignore[no-untyped-call]
    sheet: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return sheet
