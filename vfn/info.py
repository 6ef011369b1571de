"""Print the model card of a checkpoint: python -m vfn.info CKPT"""

import sys

from vfn.cli.entry import run_parsed
from vfn.commands.info import info
from vfn.system.signals import end_by_signals

if __name__ == "__main__":
    end_by_signals()
    sys.exit(run_parsed(info))
