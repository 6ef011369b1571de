"""Download public data sets: python -m vfn.download --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("download", sys.argv[1:])
