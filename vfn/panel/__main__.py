"""Which stains predict which: python -m vfn.panel --help"""

from omegaconf import DictConfig

from vfn.cli.entry import run_module


def main(config: DictConfig) -> None:
    """The work, imported once the command line has proved sound."""
    from vfn.panel.command import make_panel

    make_panel(config)


if __name__ == "__main__":
    run_module("panel", main)
