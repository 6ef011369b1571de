"""Look a data set over before training: python -m vfn.doctor --help"""

from vfn.cli import run_module
from vfn.doctor.command import diagnose

if __name__ == "__main__":
    run_module("doctor", diagnose)
