"""Give a trained model its uncertainty: python -m vfn.calibrate --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("calibrate", sys.argv[1:])
