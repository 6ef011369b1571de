"""Find out which stains predict which: python -m vfn.panel --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("panel", sys.argv[1:])
