"""Print the model card of a checkpoint: python -m vfn.info CKPT"""

import sys

from vfn.__main__ import run

if __name__ == "__main__":
    run("info", sys.argv[1:])
