"""One figure for the PNG, the report and a notebook: a sentence, a drawing, and the numbers behind it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.files import whole_file
from ..text import printable
from .draw import WIDTH, heading, scene_of
from .drawings import COLOURS, Array, Bars, Curve, Drawing, HeatMap, Line, Plane, Points, accuracy_bars, colour
from .scene import on_paper
from .tables import Table

if TYPE_CHECKING:
    from .paper import Page

__all__ = [
    "COLOURS",
    "Array",
    "Bars",
    "Curve",
    "Drawing",
    "Figure",
    "HeatMap",
    "Line",
    "Plane",
    "Points",
    "accuracy_bars",
    "colour",
    "on_one_page",
    "save_figures",
]


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, summary and numbers.

    Attributes:
        title: A few words.
        summary: What it shows, in a sentence or two: enough for readers who cannot see the drawing.
        drawing: The drawing; ``None`` if there is only a table.
        table: The numbers behind the drawing.
    """

    title: str
    summary: str
    drawing: Drawing | None = field(repr=False)
    table: Table = field(repr=False)

    def svg(self) -> str:
        """The drawing as one inline SVG element; empty if there is no drawing.

        It needs neither scripts nor styles. Its text takes the colour of the surrounding text, so that it suits light
        and dark pages. Every cell, point and bar has a title, which browsers show as a tooltip.
        """
        return scene_of(self.drawing).svg(self.summary or self.title) if self.drawing is not None else ""

    def _repr_html_(self) -> str:
        """HTML for a notebook: title, summary and drawing."""
        title, summary = (html.escape(printable(text)) for text in (self.title, self.summary))
        drawn = f'<div style="overflow-x:auto">{self.svg()}</div>' if self.drawing is not None else ""
        return f"<h4>{title}</h4><p>{summary}</p>{drawn}"


def on_one_page(figures: Sequence[Figure]) -> Page:
    """Figures below each other, each with its title and summary, as one ``matplotlib.figure.Figure``."""
    drawn = [(figure, scene_of(figure.drawing)) for figure in figures if figure.drawing is not None]
    width = max([WIDTH, *(scene.width for _, scene in drawn)])
    return on_paper([(heading(figure.title, figure.summary, width), scene) for figure, scene in drawn])


def save_figures(path: Path, figures: Sequence[Figure]) -> None:
    """Write figures below each other into one PNG, or an SVG if ``path`` ends in .svg, completely or not at all."""
    with whole_file(path) as temporary:
        on_one_page(figures).write(temporary, "svg" if path.suffix == ".svg" else "png")
