"""How far out of focus fields are: python -m vfn.focus --help"""

from vfn.cli import run_module
from vfn.focus.command import focus

if __name__ == "__main__":
    run_module("focus", focus)
