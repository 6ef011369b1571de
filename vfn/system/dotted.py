"""Classes and functions that a config names by their dotted path (Hydra's `_target_`)."""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from inspect import Parameter, signature
from pkgutil import resolve_name
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from vfn.errors import UserError

TARGET = "_target_"


def targets_in(data: Any) -> Iterator[Any]:
    """Every `_target_` in plain data, however deep."""
    todo = [data]
    while todo:
        node = todo.pop()
        if isinstance(node, Mapping):
            if node.get(TARGET) is not None:
                yield node[TARGET]
            todo += node.values()
        elif isinstance(node, list | tuple):
            todo += node


def trusted(given: Any) -> tuple[str, ...]:
    """The value of the setting `trust`: one dotted path, a list of them, or None.

    Raises:
        UserError: anything else.
    """
    names = [] if given is None else [given] if isinstance(given, str) else list(given)
    if not all(isinstance(name, str) for name in names):
        raise UserError(
            f"trust={given}: give a dotted path, as my_package.MyNet, or a list of them"
        )
    return tuple(names)


def refuse_code(data: Any, where: str, trust: Collection[str] = ()) -> None:
    """Refuse plain data from a file that names code to run.

    Args:
        where: the file, for the message.
        trust: dotted paths that may be named.

    Raises:
        UserError: a `_target_` that is not in `trust`.
    """
    strange = dict.fromkeys(str(t) for t in targets_in(data) if t not in trust)
    if strange:
        names = list(strange)
        given = names[0] if len(names) == 1 else f"'[{','.join(names)}]'"
        raise UserError(
            f"{where}: names code to run (_target_: {', '.join(names)}), which is not part of vfn; if it is not "
            f"yours, do not trust it; if it is, add trust={given}"
        )


def find(path: str, key: str) -> Any:
    """Import the object at a dotted path that the user named; the current folder is searched last.

    Args:
        key: the setting that names it, for the message.

    Raises:
        UserError: there is none.
    """
    if os.getcwd() not in sys.path:  # console scripts do not search it
        sys.path.append(os.getcwd())
    try:
        return resolve_name(path)
    except Exception as exc:  # a module of the user's may fail in any way
        reason = " ".join(str(exc).split())
        raise UserError(
            f"{key}={path}: cannot be imported ({type(exc).__name__}: {reason}); give a dotted path, as "
            "my_package.MyNet, from the current folder or an installed package"
        ) from exc


def build(spec: Mapping[str, Any], key: str, **offered: Any) -> Any:
    """Call the `_target_` of `spec` with the options beside it, by hydra.utils.instantiate.

    Args:
        spec: named by the user, or trusted.
        key: the setting that holds it, for the message.
        offered: further arguments; those that the target does not take are left out.

    Raises:
        UserError: it cannot be imported or refuses its arguments.
    """
    made = find(str(spec[TARGET]), f"{key}.{TARGET}")
    if not callable(made):
        raise UserError(f"{key}.{TARGET}={spec[TARGET]}: is no class or function")
    try:
        given = {name: value for name, value in offered.items() if _takes(made, name)}
        return instantiate({"_convert_": "all", **spec}, **given)
    except (InstantiationException, TypeError, ValueError) as exc:
        cause = exc.__cause__ or exc
        reason = " ".join(str(cause).split())
        raise UserError(f"{key}: {spec[TARGET]}: {type(cause).__name__}: {reason}") from exc


def _takes(function: Callable[..., Any], name: str) -> bool:
    parameters = signature(function).parameters
    return name in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
