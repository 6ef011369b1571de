"""Download public data sets: python -m vfn.download --help"""

import sys

from vfn.commands.download import main
from vfn.system.signals import end_by_signals

if __name__ == "__main__":
    end_by_signals()
    sys.exit(main())
