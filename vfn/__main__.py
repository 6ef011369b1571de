"""The command `vfn`: `vfn train ...` is `python train.py ...`, `vfn doctor ...` is `python -m vfn.doctor ...`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

from vfn import __version__
from vfn.cli.entry import WRONG_INPUT, leave, run_settings
from vfn.cli.help import DEMO, HELP
from vfn.errors import nearest
from vfn.system.signals import end_by_signals


class Command(NamedTuple):
    """One command.

    Attributes:
        summary: its line in `vfn --help`.
        work: "module:function", imported once the command line has proved sound.
        config: its file in `conf/`; None where the function parses the words itself.
        alone: settings for a call without any.
        show: print the settings first.
        needs: settings that tell it from others with the same config.
    """

    summary: str
    work: str
    config: str | None
    alone: Sequence[str] = ()
    show: bool = False
    needs: Sequence[str] = ()


_EVALUATE = Command("", "vfn.commands.evaluate:evaluate", "evaluate", show=True)
COMMANDS = {
    "train": Command("train a virtual stain", "vfn.commands.train:train", "train", DEMO),
    "predict": Command(
        "predict whole fields with a trained model", "vfn.commands.predict:predict", "predict",
        show=True,
    ),
    "evaluate": _EVALUATE._replace(summary="score a model on its test fields"),
    "score": _EVALUATE._replace(
        summary="score predicted images, any program's, against real ones", needs=("pred", "truth")
    ),
    "compare": _EVALUATE._replace(
        summary="compare evaluations of two models or more", needs=("compare",)
    ),
    "conditions": _EVALUATE._replace(
        summary="compare treated cells with control cells", needs=("ckpt", "data2")
    ),
    "doctor": Command("check a data set before training", "vfn.doctor.command:check", "doctor"),
    "panel": Command("find out which stains predict which", "vfn.panel.command:make_panel", "panel"),
    "focus": Command("measure how far out of focus fields are", "vfn.focus.command:focus", "focus"),
    "calibrate": Command(
        "give a trained model its uncertainty", "vfn.commands.calibrate:calibrate", "calibrate"
    ),
    "export": Command("export a model for other programs", "vfn.export.command:export", "export"),
    "info": Command("print the model card of a checkpoint", "vfn.commands.info:main", None),
    "download": Command("download a public data set", "vfn.commands.download.command:main", None),
    "app": Command("predict in the browser", "vfn.app.command:serve", "app"),
}  # fmt: skip


def overview() -> str:
    """Return the text of `vfn --help`."""
    program = "vfn" if Path(sys.argv[0]).stem == "vfn" else "python -m vfn"
    lines = [f"  {name:<11} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "VirFluoNet: virtual fluorescence staining, and how far a predicted stain can be trusted.",
            "",
            f"  {program} COMMAND [KEY=VALUE ...]",
            "",
            *lines,
            "",
            f"{program} COMMAND --help explains one command.",
        ]
    )


def run(name: str, words: Sequence[str]) -> None:
    """Run one command with `words` as its command line, and exit."""
    command = COMMANDS[name]
    if command.config is None:
        end_by_signals()
        sys.exit(resolve_name(command.work)(words))
    given = {word.lstrip("+").partition("=")[0].partition(".")[0] for word in words}
    missing = [key for key in command.needs if key not in given]
    if missing and not any(word.startswith("-") for word in words):  # --help, --cfg
        leave(
            f"{name}: {missing[0]}=... is missing (vfn {name} --help shows examples)", WRONG_INPUT
        )
    run_settings(command.work, command.config, words, command.alone, command.show)


def main() -> None:
    """Run the command that the first word of the command line names."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in HELP:
        print(overview())
    elif name == "--version":
        print(f"vfn {__version__}")
    elif name in COMMANDS:
        run(name, words)
    else:
        near = nearest(name, list(COMMANDS))
        hint = f"did you mean {near}?" if near else "a command comes first, as in vfn train"
        leave(f"{name}: no such command; {hint} (vfn --help lists them)", WRONG_INPUT)


if __name__ == "__main__":
    main()
