"""Hand a trained model to other programs: python -m vfn.export --help"""

from omegaconf import DictConfig

from vfn.cli.entry import run_module


def main(config: DictConfig) -> None:
    """The work, imported once the command line has proved sound."""
    from vfn.export.command import export

    export(config)


if __name__ == "__main__":
    run_module("export", main)
