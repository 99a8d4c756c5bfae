"""Drawings as data: a heat map, points in a plane, bars, curves.

A drawing is independent of matplotlib, HTML and sizes: `show.draw` lays it out once for the PNG, the report and a
notebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

COLOURS = ("#3b7dd8", "#d27f00", "#ae4384", "#04ab53", "#8e52a7", "#fe524c", "#279ed3", "#b84b00", "#9c8f8f", "#955b59")
"""Colours of classes, lines and series: see `colour`.

Each stands out from white and from dark pages (3:1). They also differ for readers who see no red or no green, to whom
blue and purple, or orange and olive, easily look the same. Neighbours differ in grey print.
"""
_SHADES = ((0.0, 0.0), (0.0, 0.36), (1.0, 0.42))  # (0 black or 1 white, share to mix in): plain, darker, paler


def colour(number: int) -> str:
    """The colour of a class, line or series: ten colours, then darker and paler ones; after thirty they repeat.

    >>> colour(0), colour(10), colour(20)
    ('#3b7dd8', '#26508a', '#8db4e8')
    """
    paint, part = _SHADES[number // len(COLOURS) % len(_SHADES)]
    plain = COLOURS[number % len(COLOURS)]
    mixed = (round((1 - part) * int(plain[at : at + 2], 16) + part * 255 * paint) for at in (1, 3, 5))
    return "#" + "".join(f"{value:02x}" for value in mixed)


@dataclass(frozen=True)
class HeatMap:
    """Numbers in cells.

    Attributes:
        rows: R names.
        columns: K names.
        values: (R, K); NaN if there is no number.
        text: Text in the cells, R × K. Default: the values with ``digits`` decimals.
        digits: Decimals of the values.
        unit: Unit after a value in its tooltip, such as ``"%"``.
        limits: Values of the first and last colour; default: the smallest and the largest value.
        framed: (R, K) bool, cells with a frame.
        gaps: Indices of the rows above which there is a gap.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Array
    text: tuple[tuple[str, ...], ...] | None = None
    digits: int = 1
    unit: str = ""
    limits: tuple[float, float] | None = None
    framed: NDArray[np.bool_] | None = None
    gaps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Points:
    """Points in a plane that share a marker and colour.

    Attributes:
        name: For the legend; the same name has one entry.
        xy: (n, 2).
        titles: n texts, shown as tooltips.
        marker: ``"dot"`` (small and faint), ``"cross"``, ``"diamond"`` or ``"star"`` (large).
        colour: One of `COLOURS` or any other.
    """

    name: str
    xy: Array
    titles: tuple[str, ...]
    marker: str = "dot"
    colour: str = COLOURS[0]


@dataclass(frozen=True)
class Plane:
    """Points in a plane; all of one scale."""

    groups: tuple[Points, ...]
    x: str
    y: str


@dataclass(frozen=True)
class Bars:
    """Bars for each category, one per series, side by side.

    Attributes:
        categories: K names.
        series: Name → K values; NaN if there is no number.
        axis: What the values are.
        digits: Decimals of the numbers on the bars.
        limits: Lowest and highest value of the axis.
        across: Bars go from left to right, categories from top to bottom.
        spreads: Name of a series → K deviations, each drawn as a line to both sides of its bar's end; NaN or 0 if
            there is none.
    """

    categories: tuple[str, ...]
    series: dict[str, Array]
    axis: str
    digits: int = 0
    limits: tuple[float, float] | None = None
    across: bool = False
    spreads: dict[str, Array] = field(default_factory=dict)


def accuracy_bars(categories: tuple[str, ...], series: Mapping[str, Sequence[tuple[float, float]]]) -> Bars:
    """Bars of top-1 accuracies in percent.

    Args:
        categories: K names.
        series: Name → mean and deviation of each category, both as shares; NaN if there is none.
    """
    means = {name: 100 * np.array([mean for mean, _ in pairs]) for name, pairs in series.items()}
    spreads = {name: 100 * np.array([spread for _, spread in pairs]) for name, pairs in series.items()}
    return Bars(categories, means, "top-1 accuracy, %", digits=1, limits=(0, 100), across=True, spreads=spreads)


@dataclass(frozen=True)
class Line:
    """A line through points: x and y (n,), a title for each, and whether the points are marked."""

    name: str
    x: Array
    y: Array
    titles: tuple[str, ...]
    marked: bool = False
    spread: Array | None = None
    """(n,) half the height of a band around the line, or ``None``."""
    joined: bool = True
    """Whether a line goes through the points; if not, they are marked."""
    labels: tuple[str, ...] = ()
    """A name below each marked point, for pictures without tooltips; none where names would overlap."""


@dataclass(frozen=True)
class Curve:
    """Lines over a common axis."""

    lines: tuple[Line, ...]
    x: str
    y: str
    log_x: bool = False


Drawing = HeatMap | Plane | Bars | Curve
