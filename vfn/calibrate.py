"""Give a trained model its uncertainty: python -m vfn.calibrate --help"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from vfn.calibration import calibrate
from vfn.cli import guarded, run_cli

CONF = Path(__file__).resolve().parents[1] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="calibrate")
def main(config: DictConfig) -> None:
    """Hydra's entry point."""
    guarded(calibrate, config)


if __name__ == "__main__":
    run_cli(main)
