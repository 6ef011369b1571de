"""Predict whole fields with a trained model: python predict.py --help"""

import hydra
from omegaconf import DictConfig

from vfn.cli.entry import guarded, run_cli


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(config: DictConfig) -> None:
    """Hydra's entry point."""
    from vfn.commands.predict import predict  # here: --help and a misspelt key need not wait for it

    guarded(predict, config, "predict", show=True)


if __name__ == "__main__":
    run_cli(main, "predict")
