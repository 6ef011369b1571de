"""Which stains predict which: python -m vfn.panel --help"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from vfn.cli import guarded, run_cli
from vfn.panel.command import make_panel

CONF = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="panel")
def main(config: DictConfig) -> None:
    """Hydra's entry point."""
    guarded(make_panel, config)


if __name__ == "__main__":
    run_cli(main)
