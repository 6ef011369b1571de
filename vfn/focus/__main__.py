"""How far out of focus fields are: python -m vfn.focus --help"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from vfn.cli import guarded, run_cli
from vfn.focus.command import focus

CONF = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="focus")
def main(config: DictConfig) -> None:
    """Hydra's entry point."""
    guarded(focus, config)


if __name__ == "__main__":
    run_cli(main)
