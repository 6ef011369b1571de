"""Hand a trained model to other programs: python -m vfn.export --help"""

from vfn.cli import run_module
from vfn.export.command import export

if __name__ == "__main__":
    run_module("export", export)
