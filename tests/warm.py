"""What every command would do again after its imports, done once in the fork server of `tests.cli`."""

import gc

from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vfn.cli.help import CONF, settings_of


def _draw() -> None:
    """Find the fonts, and build the parser of what stands between dollar signs."""
    figure = Figure(layout="constrained")
    figure.add_subplot(xscale="log", title="a").plot([1, 10], [1, 10])
    FigureCanvasAgg(figure).draw()


_draw()
Plugins.instance()
with initialize_config_dir(str(CONF), version_base="1.3"):
    for command in ("train", "predict", "evaluate", "doctor", "panel"):
        compose(command)
        settings_of(command)
# What is here stays: no command looks through it for what could go, which would copy every page of it.
gc.collect()
gc.freeze()
