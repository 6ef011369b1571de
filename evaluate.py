"""Score a virtual stain: python evaluate.py --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("evaluate", sys.argv[1:])
