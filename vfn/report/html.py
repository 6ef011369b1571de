"""Templates, and the date, versions and provenance that pages state."""

import datetime
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vfn import __version__

PACKAGES = ("numpy", "torch", "scikit-image", "tifffile")


@cache
def environment() -> Environment:
    """Return the templates of the package, by their path in it."""
    return Environment(
        loader=PackageLoader("vfn", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def today() -> str:
    """Date, time and zone, for people."""
    now = datetime.datetime.now().astimezone()
    return now.strftime("%Y-%m-%d %H:%M %Z").strip()


def plain_text(value: Any) -> str:
    """A value of the provenance as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={plain_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain_text(item) for item in value)
    return str(value)


def versions() -> str:
    """Names and versions of what made the page."""
    known = [f"vfn {__version__}", f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)
