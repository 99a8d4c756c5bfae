"""A picture as a list of shapes and words at places in pixels, painted as SVG or by matplotlib.

Both painters draw the same list, so the PNG and the report cannot differ. Widths of text are overestimated a little:
the browser's font is unknown here, and narrower text does no harm.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from ..text import printable
from .fonts import families

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .paper import Page

INK = "currentColor"
"""The colour of text: that of the page in SVG, nearly black in a PNG."""
LINE_HEIGHT = 1.2
"""Height of a line of text, in font sizes."""

_PAPER_INK = "#22262e"
_ROOM_FOR = {"dot": 1.0, "cross": 1.6, "diamond": 2.1, "star": 2.8}  # size of a marker relative to a dot
Place = tuple[float, float]
Anchor = Literal["start", "middle", "end"]


# ---------------------------------------------------------------------------------------------------
# Text


def text_width(text: str, size: float) -> float:
    """The width of a line of text in pixels, or a little more."""
    return size * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF" or letter in "mwMW@%\u2026":
        return 1.05
    if letter in "iljtfrI.,:;|!'()[] ":
        return 0.42
    return 0.8 if letter.isupper() else 0.66


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Text in lines of at most ``width`` pixels; nothing of it is left out.

    It is broken after spaces, underscores, hyphens and the like, and within a word only if the word is too long.

    >>> wrapped("efficientnet_lite0 @ 128 px", 90, 12)
    ['efficientnet_', 'lite0 @ 128', 'px']
    """
    lines: list[str] = []
    for paragraph in printable(text, lines=True).split("\n"):
        line = ""
        for piece in _pieces(paragraph, width, size):
            if line and text_width((line + piece).rstrip(), size) > width:
                lines.append(line.rstrip())
                line = piece.lstrip()
            else:
                line += piece
        lines.append(line.rstrip())
    return lines


_BREAKS = re.compile(r"(?<=[\s_\-/·:,.|])(?=\S)(?!(?<=\d[.,]|[\se]-)\d)|(?=[@(])")  # not within numbers


def words_of(text: str) -> list[str]:
    """The pieces of a text between which a line may be broken."""
    return _BREAKS.split(text)


def _pieces(text: str, width: float, size: float) -> Iterator[str]:
    """Split text into parts that may be on separate lines: words, and pieces of words that are too long."""
    for word in words_of(text):
        start = 0
        for end in range(1, len(word) + 1):
            if end - start > 1 and text_width(word[start:end].rstrip(), size) > width:
                yield word[start : end - 1]
                start = end - 1
        yield word[start:]


# ---------------------------------------------------------------------------------------------------
# Shapes


@dataclass(frozen=True)
class Box:
    """A rectangle from its left upper corner; ``title`` shows when the mouse is over it."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    opacity: float = 1.0
    title: str = ""
    framed: bool = False

    def outline(self) -> list[Place]:
        """Its corners."""
        right, bottom = self.x + self.width, self.y + self.height
        return [(self.x, self.y), (right, self.y), (right, bottom), (self.x, bottom)]

    def svg(self) -> str:
        """The rectangle as an SVG element."""
        place = f'x="{_n(self.x)}" y="{_n(self.y)}" width="{_n(self.width)}" height="{_n(self.height)}"'
        frame = f' stroke="{INK}" stroke-width="2"' if self.framed else ""
        return _element("rect", f'{place} fill="{self.fill}" fill-opacity="{_n(self.opacity, 2)}"{frame}', self.title)


@dataclass(frozen=True)
class Dot:
    """A marker around its middle: ``"dot"``, ``"cross"``, ``"diamond"`` or ``"star"``; with opacity 0 only a title."""

    x: float
    y: float
    size: float
    fill: str
    marker: str = "dot"
    opacity: float = 1.0
    title: str = ""

    @property
    def edged(self) -> bool:
        """Whether it has a line around it, which lifts it from a cloud of others."""
        return self.marker != "dot"

    def outline(self) -> list[Place]:
        """Its corners; a dot has twelve."""
        r = self.size * _ROOM_FOR[self.marker]
        if self.marker == "cross":
            thin = 0.3 * r
            arms = [(-r, -thin), (-thin, -thin), (-thin, -r), (thin, -r), (thin, -thin), (r, -thin)]
            corners = [*arms, *((-x, -y) for x, y in arms)]
            half = math.sqrt(0.5)
            return [(self.x + half * (x - y), self.y + half * (x + y)) for x, y in corners]
        count = {"dot": 12, "diamond": 4, "star": 10}[self.marker]
        radii = [r, 0.45 * r] if self.marker == "star" else [r]
        turns = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
        return [
            (self.x + radii[i % len(radii)] * math.cos(turn), self.y + radii[i % len(radii)] * math.sin(turn))
            for i, turn in enumerate(turns)
        ]

    def svg(self) -> str:
        """The marker as an SVG element."""
        if not self.opacity:
            look = 'fill="none" pointer-events="all"'
        else:
            look = f'fill="{self.fill}"' + (f' fill-opacity="{_n(self.opacity, 2)}"' if self.opacity < 1 else "")
            look += f' stroke="{INK}" stroke-width="0.7"' if self.edged else ""
        if self.marker == "dot":
            return _element("circle", f'cx="{_n(self.x)}" cy="{_n(self.y)}" r="{_n(self.size)}" {look}', self.title)
        return _element("path", f'd="{_way(self.outline())}Z" {look}', self.title)


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    corners: Sequence[Place]
    fill: str
    opacity: float

    def outline(self) -> list[Place]:
        """Its corners."""
        return list(self.corners)

    def svg(self) -> str:
        """The polygon as an SVG element."""
        return f'<path d="{_way(self.corners)}Z" fill="{self.fill}" fill-opacity="{_n(self.opacity, 2)}"/>'


@dataclass(frozen=True)
class Path:
    """A line through places; ``dashes`` are the lengths of its strokes and gaps, if it has any."""

    places: Sequence[Place]
    colour: str = INK
    width: float = 1.0
    opacity: float = 1.0
    dashes: Sequence[float] = ()

    def svg(self) -> str:
        """The line as an SVG element."""
        look = f'stroke="{self.colour}" stroke-width="{_n(self.width)}"'
        look += f' stroke-opacity="{_n(self.opacity, 2)}"' if self.opacity < 1 else ""
        look += f' stroke-dasharray="{" ".join(map(_n, self.dashes))}"' if self.dashes else ""
        return f'<path d="{_way(self.places)}" fill="none" {look} stroke-linejoin="round"/>'


@dataclass(frozen=True)
class Words:
    """A line of text; its place is the start, middle or end of the line, at half the height of its letters.

    Attributes:
        turned: Whether it is read from bottom to top.
        through: Whether the mouse reaches what is below it, so that the tooltip of that shows.
    """

    x: float
    y: float
    text: str
    size: float = 12.0
    anchor: Anchor = "start"
    bold: bool = False
    faint: bool = False
    turned: bool = False
    through: bool = False

    def svg(self) -> str:
        """The text as an SVG element."""
        # Not every viewer supports dominant-baseline, so move the baseline down by a third of the font size.
        down = 0.35 * self.size
        if self.turned:
            place = f'transform="translate({_n(self.x + down)} {_n(self.y)})rotate(-90)"'
        else:
            place = f'x="{_n(self.x)}" y="{_n(self.y + down)}"'
        look = f' font-size="{_n(self.size)}"' if self.size != 12 else ""
        look += f' text-anchor="{self.anchor}"' if self.anchor != "start" else ""
        look += ' font-weight="600"' if self.bold else ""
        look += ' opacity="0.75"' if self.faint else ""
        look += ' pointer-events="none"' if self.through else ""
        return f"<text {place}{look}>{html.escape(printable(self.text))}</text>"


Mark = Box | Dot | Area | Path | Words


@dataclass
class Scene:
    """Marks on a page of ``width`` × ``height`` pixels, the later above the earlier."""

    width: float = 0.0
    height: float = 0.0
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        """Put marks above the earlier ones."""
        self.marks += marks

    def write(self, x: float, y: float, lines: Sequence[str], size: float = 12.0, **look: Any) -> None:
        """Write lines of text below each other around the height ``y``."""
        top = y - size * LINE_HEIGHT * (len(lines) - 1) / 2
        self.add(*(Words(x, top + size * LINE_HEIGHT * i, line, size, **look) for i, line in enumerate(lines) if line))

    def write_below(self, x: float, top: float, lines: Sequence[str], size: float = 12.0, **look: Any) -> float:
        """Write lines of text below the height ``top``, and return where they end."""
        height = len(lines) * size * LINE_HEIGHT
        self.write(x, top + height / 2, lines, size, **look)
        return top + height

    def svg(self, label: str) -> str:
        """Return the page as one SVG element; ``label`` describes it for readers who cannot see it."""
        # Wide pages keep their size and scroll; others shrink on a phone.
        kind = "figure wide" if self.width > 540 else "figure"
        width, height = math.ceil(self.width), math.ceil(self.height)
        head = f'class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        label = html.escape(printable(label))
        inside = "".join(mark.svg() for mark in self.marks)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {head} aria-label="{label}" fill="{INK}" font-size="12" '
            f'font-family="system-ui, sans-serif">{inside}</svg>'
        )

    def paint(self, axes: Axes, top: float = 0.0) -> None:
        """Draw the page with matplotlib, ``top`` pixels below the upper edge of axes that count in pixels."""
        # Draw neighbours of a kind as one collection: 2,500 single cells would take matplotlib a second.
        for order, (kind, group) in enumerate(groupby(self.marks, _painter)):
            kind(axes, list(group), top, order + 1)


def _n(value: float, digits: int = 1) -> str:
    """Write a number for SVG, as short as possible."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _way(places: Sequence[Place]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in places)


def _element(tag: str, attributes: str, title: str) -> str:
    if not title:
        return f"<{tag} {attributes}/>"
    return f"<{tag} {attributes}><title>{html.escape(printable(title), quote=False)}</title></{tag}>"


# ---------------------------------------------------------------------------------------------------
# matplotlib


def _painter(mark: Mark) -> Any:
    if isinstance(mark, Words):
        return _paint_words
    return _paint_paths if isinstance(mark, Path) else _paint_filled


def _paint_filled(axes: Axes, marks: list[Box | Dot | Area], top: float, order: int) -> None:
    from matplotlib.collections import PolyCollection

    marks = [mark for mark in marks if mark.opacity]
    colours = [_rgba(mark.fill, mark.opacity) for mark in marks]
    framed = [2.0 if isinstance(m, Box) and m.framed else 0.7 if isinstance(m, Dot) and m.edged else 0.0 for m in marks]
    outlines = [[(x, y + top) for x, y in mark.outline()] for mark in marks]
    axes.add_collection(
        PolyCollection(outlines, facecolors=colours, edgecolors=_PAPER_INK, linewidths=framed, zorder=order)
    )


def _paint_paths(axes: Axes, marks: list[Path], top: float, order: int) -> None:
    from matplotlib.collections import LineCollection

    places = [[(x, y + top) for x, y in mark.places] for mark in marks]
    colours, widths = [_rgba(mark.colour, mark.opacity) for mark in marks], [mark.width for mark in marks]
    # matplotlib measures dashes in line widths.
    styles = [(0, [length / mark.width for length in mark.dashes] or None) for mark in marks]
    axes.add_collection(LineCollection(places, colors=colours, linewidths=widths, linestyles=styles, zorder=order))


def _paint_words(axes: Axes, marks: list[Words], top: float, order: int) -> None:
    places: dict[str, Literal["left", "center", "right"]] = {"start": "left", "middle": "center", "end": "right"}
    for mark in marks:
        # matplotlib aligns the box of the turned text, and turned text begins at the bottom.
        across = "center" if mark.turned else places[mark.anchor]
        along = {"start": "bottom", "middle": "center", "end": "top"}[mark.anchor] if mark.turned else "center_baseline"
        axes.text(
            mark.x, mark.y + top, _from_the_left(printable(mark.text)), fontsize=0.94 * mark.size, ha=across, va=along,
            rotation=90 if mark.turned else 0, weight="bold" if mark.bold else "normal", zorder=order,
            color=_rgba(INK, 0.75 if mark.faint else 1.0), parse_math=False, usetex=False,
        )  # fmt: skip


def _from_the_left(text: str) -> str:
    """Make a text with Arabic or Hebrew in it begin at the left, as in a browser: "2 · كلب" starts with its number.

    matplotlib takes the direction of the first letter that has one, which would reverse "class/background".
    """
    turns = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text)
    return f"\u200e{text}" if turns else text


def _rgba(colour: str, opacity: float) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    return to_rgba(_PAPER_INK if colour == INK else colour, opacity)


def on_paper(figures: Sequence[Sequence[Scene]]) -> Page:
    """Figures, each of some scenes, below each other as a ``matplotlib.figure.Figure``: 72 pixels are an inch."""
    import matplotlib as mpl

    from .paper import Page

    edge, gap, within = 12.0, 28.0, 6.0
    tops: list[tuple[Scene, float]] = []
    below = 0.0
    for number, scenes in enumerate(figures):
        below += gap if number else 0.0
        for scene in scenes:
            below += within if scene is not scenes[0] else 0.0
            tops.append((scene, below))
            below += scene.height
    width = max((scene.width for scene, _ in tops), default=0.0) + 2 * edge
    height = below + 2 * edge
    figure = Page(figsize=(width / 72, height / 72), dpi=130, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-edge, width - edge), ylim=(height - edge, -edge))
    axes.set_axis_off()
    words = "".join(printable(mark.text) for scene, _ in tops for mark in scene.marks if isinstance(mark, Words))
    with mpl.rc_context({"font.family": families(words)}):
        for scene, top in tops:
            scene.paint(axes, top)
    return figure
