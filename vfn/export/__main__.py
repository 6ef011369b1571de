"""Export a model for other programs: python -m vfn.export --help"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("export", sys.argv[1:])
