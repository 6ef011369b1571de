"""Check a data set before training: python -m vfn.doctor --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("doctor", sys.argv[1:])
