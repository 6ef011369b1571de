"""Which stains predict which: python -m vfn.panel --help"""

from vfn.cli import run_module
from vfn.panel.command import make_panel

if __name__ == "__main__":
    run_module("panel", make_panel)
