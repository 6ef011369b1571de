"""Score a virtual stain: python evaluate.py --help"""

import hydra
from omegaconf import DictConfig

from vfn.cli.entry import guarded, run_cli


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Hydra's entry point."""
    from vfn.commands.evaluate import (
        evaluate,  # here: --help and a misspelt key need not wait for it
    )

    guarded(evaluate, config, "evaluate", show=True)


if __name__ == "__main__":
    run_cli(main, "evaluate")
