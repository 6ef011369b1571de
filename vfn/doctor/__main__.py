"""Look a data set over before training: python -m vfn.doctor --help"""

import sys

from omegaconf import DictConfig

from vfn.cli.entry import run_module

DO_NOT_TRAIN = 1  # exit code: the files were written, but a script should not go on to training


def main(config: DictConfig) -> None:
    """The work, imported once the command line has proved sound."""
    from vfn.doctor.command import diagnose
    from vfn.doctor.findings import FATAL

    if diagnose(config).of_severity(FATAL):
        sys.exit(DO_NOT_TRAIN)


if __name__ == "__main__":
    run_module("doctor", main)
