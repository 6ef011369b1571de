"""How far out of focus fields are: python -m vfn.focus --help"""

from omegaconf import DictConfig

from vfn.cli.entry import run_module


def main(config: DictConfig) -> None:
    """The work, imported once the command line has proved sound."""
    from vfn.focus.command import focus

    focus(config)


if __name__ == "__main__":
    run_module("focus", main)
