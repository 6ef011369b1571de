"""Train a virtual stain: python train.py --help"""

import hydra
from omegaconf import DictConfig

from vfn.cli.entry import guarded, run_cli
from vfn.cli.help import DEMO


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Hydra's entry point."""
    from vfn.training.fit import train  # here: --help and a misspelt key need not wait for it

    guarded(train, config, "train")


if __name__ == "__main__":
    run_cli(main, "train", alone=DEMO)
