"""Look a data set over before training: python -m vfn.doctor --help"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from vfn.cli import guarded, run_cli
from vfn.doctor.command import diagnose

CONF = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="doctor")
def main(config: DictConfig) -> None:
    """Hydra's entry point."""
    guarded(diagnose, config)


if __name__ == "__main__":
    run_cli(main)
