"""Predict stains in the browser: python -m vfn.app --help"""

from vfn.app.command import serve
from vfn.cli import run_module

if __name__ == "__main__":
    run_module("app", serve)
