"""Measure how far out of focus fields are: python -m vfn.focus --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("focus", sys.argv[1:])
