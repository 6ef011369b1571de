"""Predict whole fields with a trained model: python predict.py --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("predict", sys.argv[1:])
