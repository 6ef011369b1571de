"""The page model: a page is a title and blocks, and `page.html.j2` draws every kind of block.

A plain string is a paragraph. All text is escaped unless it is `Markup`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup
from matplotlib.figure import Figure

from vfn.report.figures import DARK, LIGHT, Theme, png_uri
from vfn.report.html import environment, plain_text, today, versions
from vfn.report.images import Pictures, Strip


class Block:
    """A part of a page; `blocks.html.j2` has the markup of each subclass, by name."""


Content = str | Block


@dataclass(frozen=True)
class Styled:
    """Text with a CSS class, as a table cell or an entry of `Terms`; `title` is its tooltip."""

    text: str
    css: str = ""
    title: str = ""


@dataclass(frozen=True)
class Soft(Block):
    """A paragraph in small print."""

    text: str


@dataclass(frozen=True)
class Bullets(Block):
    """A list of sentences."""

    items: Sequence[str]
    css: str = "findings"


@dataclass(frozen=True)
class Table(Block):
    """A table.

    Attributes:
        header: column titles.
        rows: cells.
        words: indices of the columns that hold text.
        label: name for screen readers, of a table that is scrolled by keyboard.
        css: class.
        tall: scrolls within a box of limited height.
    """

    header: Sequence[str | Styled]
    rows: Sequence[Sequence[str | Styled]]
    words: Sequence[int] = ()
    label: str = ""
    css: str = ""
    tall: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure as `data:` URLs, for light and dark pages."""

    alt: str
    caption: str
    light: str
    dark: str


def chart(draw: Callable[[Theme], Figure], alt: str, caption: str = "") -> Chart:
    """Draw a figure in both themes."""
    return Chart(alt, caption, png_uri(draw(LIGHT)), png_uri(draw(DARK)))


@dataclass(frozen=True)
class Drawing:
    """An inline SVG with its caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Charts(Block):
    """Figures side by side, or one below the other over the whole width; `beside` follows in a cell."""

    charts: Sequence[Chart | Drawing]
    wide: bool = False
    beside: Sequence[Content] = ()


@dataclass(frozen=True)
class Key(Block):
    """A colour bar."""

    chart: Chart


@dataclass(frozen=True)
class Terms(Block):
    """Terms with their explanations."""

    entries: Sequence[tuple[str, str | Styled]]


@dataclass(frozen=True)
class Part(Block):
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Content]


@dataclass(frozen=True)
class Fold(Block):
    """Blocks that unfold when the title is chosen.

    Attributes:
        open: unfolded from the start.
        printed: unfolded on paper.
        anchor: for links.
        css: class.
    """

    title: str
    blocks: Sequence[Content]
    open: bool = False
    printed: bool = False
    anchor: str = ""
    css: str = ""


@dataclass(frozen=True)
class Article(Block):
    """Blocks in a frame of their own; the title is markup."""

    title: Markup
    blocks: Sequence[Content]
    css: str


@dataclass(frozen=True)
class Section(Block):
    """A card of the page; without a title it belongs to the head."""

    title: str
    blocks: Sequence[Content]
    anchor: str = ""
    css: str = ""


@dataclass(frozen=True)
class Command(Block):
    """A command line with a button that copies it."""

    command: str


@dataclass(frozen=True)
class Gallery(Block):
    """Pictures side by side with a scale bar."""

    strip: Strip
    field: str
    what: str


@dataclass(frozen=True)
class Place:
    """An object found in a field: its picture marks it, and a link leads there.

    Attributes:
        field: name of the field.
        kind: "hallucinated" (in the prediction alone) or "missed" (in the truth alone).
        row: of its centre, in pixels of the field.
        column: likewise.
        words: further facts, such as its size.
    """

    field: str
    kind: str
    row: float
    column: float
    words: str = ""


@dataclass(frozen=True)
class Places(Block):
    """A list of places; `stain_section` puts those with a picture into `links` (place -> anchor)."""

    title: str
    places: Sequence[Place]
    links: dict[Place, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slider(Block):
    """Truth and prediction under one another with a movable line between them, and other pictures.

    Attributes:
        anchor: unique in the page.
        pictures: of the region.
        field: name of the field.
        what: "whole field" or "detail".
        marks: places within the region, each with the anchor of its link; empty where none leads here.
        note: small print below.
        limit: characters of each picture.
    """

    anchor: str
    pictures: Pictures
    field: str
    what: str
    marks: Mapping[Place, str]
    note: str
    limit: float


@dataclass(frozen=True)
class Page:
    """A self-contained HTML page: it loads nothing, and reads offline, on a phone and on paper."""

    title: str
    heading: str
    blocks: Sequence[Content]

    def html(self) -> str:
        """Return the page as text."""
        return environment().get_template("report/page.html.j2").render(page=self)


def link(anchor: str, text: str) -> Markup:
    """Return a link to an anchor of the page."""
    return Markup('<a href="#{}">{}</a>').format(anchor, text)


def level_mark(level: str | None) -> Markup:
    """Return a level of the verdict as shape, word and colour."""
    return environment().get_template("report/blocks.html.j2").module.mark(level)  # type: ignore[attr-defined]


def how_computed(
    entries: Sequence[tuple[str, str | Styled]],
    provenance: Mapping[str, object],
    files: str,
    software: str = "",
) -> Section:
    """Return the last section of a page: methods, provenance, software, and the files beside it."""
    given = [(str(k), Styled(plain_text(v), "mono")) for k, v in provenance.items()]
    last = [
        ("software", software or versions()),
        ("date", today()),
        ("numbers", f"{files} beside this page."),
    ]
    return Section("How it was computed", [Terms([*entries, *given, *last])])
