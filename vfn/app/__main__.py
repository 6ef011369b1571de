"""Predict stains in the browser: python -m vfn.app --help"""

from omegaconf import DictConfig

from vfn.cli.entry import run_module


def main(config: DictConfig) -> None:
    """The work, imported once the command line has proved sound."""
    from vfn.app.command import serve

    serve(config)


if __name__ == "__main__":
    run_module("app", main)
