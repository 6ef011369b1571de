"""Further terms of the objective: each a module of this package with a function `loss`.

`loss.terms={edges: 0.5}` adds `vfn/models/terms/edges.py` with that weight; docs/extending.md shows one.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from torch import Tensor

from vfn.errors import UserError

Term = Callable[[Tensor, Tensor, Tensor], Tensor]


def find_term(name: str) -> Term:
    """The function `loss(prediction, target, valid)` of the module `name` of this package.

    All are (B, C, H, W), images in [-1, 1], `valid` bool; it returns a mean over the valid pixels.

    Raises:
        UserError: there is no such module.
    """
    known = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    if name not in known:
        raise UserError(
            f"loss.terms={{{name}: ...}}: there is no vfn/models/terms/{name}.py; "
            f"there are {', '.join(known) or 'none'} (docs/extending.md)"
        )
    term: Term = import_module(f"vfn.models.terms.{name}").loss
    return term
