"""Predict stains in the browser: python -m vfn.app --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("app", sys.argv[1:])
