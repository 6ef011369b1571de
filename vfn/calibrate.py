"""Give a trained model its uncertainty: python -m vfn.calibrate --help"""

from vfn.calibration import calibrate
from vfn.cli import run_module

if __name__ == "__main__":
    run_module("calibrate", calibrate)
