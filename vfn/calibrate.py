"""Give a trained model its uncertainty: python -m vfn.calibrate --help"""

from omegaconf import DictConfig

from vfn.cli.entry import run_module


def main(config: DictConfig) -> None:
    """The work, imported once the command line has proved sound."""
    from vfn.uncertainty.calibrate import calibrate

    calibrate(config)


if __name__ == "__main__":
    run_module("calibrate", main)
