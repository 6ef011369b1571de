"""Train a virtual stain: python train.py --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("train", sys.argv[1:])
