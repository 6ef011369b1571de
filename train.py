"""Train a virtual stain: python train.py --help"""

import hydra
from omegaconf import DictConfig

from vfn.cli import guarded, run_cli
from vfn.training import train


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Hydra's entry point."""
    guarded(train, config)


if __name__ == "__main__":
    run_cli(main)
