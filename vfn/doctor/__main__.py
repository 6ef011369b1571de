"""Look a data set over before training: python -m vfn.doctor --help"""

from omegaconf import DictConfig

from vfn.cli import run_module


def main(config: DictConfig) -> None:
    """The work, imported once the command line has proved sound."""
    from vfn.doctor.command import diagnose

    diagnose(config)


if __name__ == "__main__":
    run_module("doctor", main)
