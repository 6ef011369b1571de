"""VirFluoNet: virtual fluorescence staining, and how far a predicted stain can be trusted.

`vfn.load` and `vfn.score` are the Python interface; see `vfn.api`. They are imported when they are
asked for, so that `import vfn` costs nothing.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfn.api import Model, load, score
    from vfn.errors import UserError

# albumentations 2.0.8 calls home when imported unless this is set; it must come before the first import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
__all__ = ["Model", "UserError", "load", "score"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vfn' has no attribute {name!r}")
    from vfn import api, errors

    return getattr(errors if name == "UserError" else api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
