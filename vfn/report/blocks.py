"""The optional parts of a stain's section: a heading with sentences, charts, a table, found places.

What was not measured has no block, and the page no trace of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from vfn.report.figures import DARK, LIGHT, Theme, png_uri


@dataclass(frozen=True)
class Chart:
    """A figure for light and dark pages, as `data:` addresses."""

    alt: str
    caption: str
    light: str
    dark: str


def chart(draw: Callable[[Theme], Figure], alt: str, caption: str = "") -> Chart:
    """Draw a figure in both themes."""
    return Chart(alt, caption, png_uri(draw(LIGHT)), png_uri(draw(DARK)))


@dataclass(frozen=True)
class Table:
    """A table as it is shown; `words` are the numbers of the columns that hold text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = ()


@dataclass(frozen=True)
class Place:
    """A thing that was found in a field: it is marked in the field's picture, and a link leads there.

    Attributes:
        field: name of the field.
        kind: "hallucinated" (in the prediction alone) or "missed" (in the truth alone).
        row: of its centre, in pixels of the field.
        column: likewise.
        words: what else is known of it, such as its size.
    """

    field: str
    kind: Literal["hallucinated", "missed"]
    row: float
    column: float
    words: str = ""


@dataclass(frozen=True)
class Block:
    """One part of a stain's section, shown in this order.

    Attributes:
        title: heading.
        sentences: what it says, a paragraph each.
        charts: side by side.
        table: numbers.
        places: a list whose entries lead to the pictures.
        note: small print at the end.
        wide: charts one below the other over the whole width, not side by side.
    """

    title: str
    sentences: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    table: Table | None = None
    places: Sequence[Place] = ()
    note: str = ""
    wide: bool = False
