"""`python -m vfn.info CKPT`: print the model card of a checkpoint."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from vfn.cli.entry import LineParser, run_parsed
from vfn.cli.help import as_called
from vfn.models.card import card_of, markdown
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE


def info(argv: Sequence[str] | None = None) -> None:
    """Print the model card of a checkpoint.

    Raises:
        UserError: a wrong command line; see `read_raw`, `card_of`.
    """
    parser = LineParser(
        as_called("python -m vfn.info"),
        description="Print the model card of a checkpoint: verdict, task, data, training, scores, "
        "limits, licence. The file is read as data; it can run no code.",
    )
    parser.add_argument(
        "ckpt", type=Path, metavar="CKPT", help="outputs/NAME/checkpoints/best.ckpt"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    args = parser.parse_args(argv)
    card = card_of(read_raw(args.ckpt.expanduser(), trust=None)[RECIPE])
    if args.json:
        print(json.dumps(card, indent=2))
    elif sys.stdout.isatty():
        Console().print(Markdown(markdown(card)))
    else:
        print(markdown(card), end="")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_parsed(partial(info, argv))
