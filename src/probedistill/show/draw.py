"""Drawings → scenes: where each cell, point, bar, line and word goes.

Names are never cut. A long one is broken over lines, and its margin, row or the whole picture grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby

import numpy as np

from .drawings import COLOURS, Array, Bars, Curve, Drawing, HeatMap, Line, Plane, Points, colour
from .scene import INK, LINE_HEIGHT, Area, Box, Dot, Mark, Path, Scene, Words, text_width, words_of, wrapped
from .tables import NOTHING

WIDTH = 520.0  # pixels of a picture whose content needs no more
SIZE, SMALL = 12.0, 11.0  # of text, in pixels
MOST_DOTS = 1500  # dots in a plane: more cannot be told apart, and each costs a hundred bytes
MOST_PLACES = 600  # points of a line
MOST_TITLES = 150  # points with a title, of a line without markers

_DENSE = 16  # columns; with more, cells have no text
_MOST_CELLS = 2500  # with more, pale cells have no title
_THICKEST = 56.0  # pixels of an upright bar
_MOST_ABOVE = 12  # names in a legend; with more, it goes below the plane
_GAP = 10.0  # pixels above the first row of a block
_DASHES: tuple[tuple[float, ...], ...] = ((), (7, 3), (2, 2.5), (9, 3, 2, 3))  # tell lines apart in grey print
_LEGEND_ROOM = {"dot": 4.0, "cross": 4.0, "diamond": 3.2, "star": 3.0}


def scene_of(drawing: Drawing) -> Scene:
    """Lay a drawing out."""
    if isinstance(drawing, HeatMap):
        return _heat_map(drawing)
    if isinstance(drawing, Plane):
        return _plane(drawing)
    return _bars(drawing) if isinstance(drawing, Bars) else _curve(drawing)


def heading(title: str, summary: str, width: float) -> Scene:
    """A figure's title and summary, for a PNG."""
    scene = Scene(width=width)
    for text, size, bold in ((title, 14.0, True), (summary, SMALL, False)):
        # Bold letters are wider than the estimate.
        lines = wrapped(text, width * (0.9 if bold else 1.0), size) if text else []
        scene.height = 4 + scene.write_below(0, scene.height, lines, size, bold=bold, faint=not bold)
    return scene


def _widest(lines: Iterable[str], size: float = SIZE) -> float:
    """The width of the longest line of text; 0 if there are no lines."""
    return max((text_width(line, size) for line in lines), default=0.0)


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of 0 … count - 1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


# ---------------------------------------------------------------------------------------------------
# Heat maps


def _heat_map(drawing: HeatMap) -> Scene:
    values, columns = drawing.values, len(drawing.columns)
    low, high = drawing.limits or _range(values)
    texts = drawing.text or tuple(tuple(_shown(v, drawing.digits) for v in row) for row in values)
    dense = columns > _DENSE
    names = [wrapped(name, 190, SIZE) for name in drawing.rows]
    left = _widest(chain.from_iterable(names)) + 10
    inner = 0.0 if dense else _widest(chain.from_iterable(texts)) + 12
    cell, heads, turned = _heads(drawing.columns, (WIDTH - left) / max(columns, 1), inner, dense)
    scene = Scene(width=left + cell * columns + 2)
    _write_heads(scene, heads, left, cell, turned)
    heights = [max(18.0 if dense else 30.0, len(lines) * SIZE * LINE_HEIGHT + (3 if dense else 10)) for lines in names]
    untitled = 0.02 if values.size > _MOST_CELLS else -1.0
    frames: list[Mark] = []
    words: list[Mark] = []
    y = scene.height
    for r, (lines, height) in enumerate(zip(names, heights, strict=True)):
        y += _GAP if r in drawing.gaps and r else 0.0
        scene.write(left - 8, y + height / 2, lines, anchor="end")
        for k in range(columns):
            middle = left + cell * (k + 0.5)
            words.append(Words(middle, y + height / 2, texts[r][k], SIZE, "middle", through=True))
            share = _share(float(values[r, k]), low, high)
            if share <= untitled:
                continue
            title = f"{drawing.rows[r]} → {drawing.columns[k]}: {texts[r][k]}"
            title += drawing.unit if texts[r][k] != NOTHING else ""
            framed = bool(drawing.framed is not None and drawing.framed[r, k])
            box = Box(left + cell * k + 1, y + 1, cell - 2, height - 2, *_tint(values[r, k], share), title, framed)
            # Frames are drawn last, so that no neighbour covers half of one.
            (frames if framed else scene.marks).append(box)
        y += height
    scene.add(*frames, *([] if dense else words))
    scene.height = y + 2
    if dense:
        _note(scene, left, f"palest: {_shown(low, drawing.digits)}, strongest: {_shown(high, drawing.digits)}")
    return scene


def _heads(names: Sequence[str], room: float, inner: float, dense: bool) -> tuple[float, list[list[str]], bool]:
    """The width of a column, the lines of each heading, and whether headings are turned to read upwards."""
    words = _widest(word.rstrip() for name in names for word in words_of(name))
    cell = max(inner, 58.0, min(words + 8, 104.0), min(room, 120.0))
    heads = [wrapped(name, cell - 6, SIZE) for name in names]
    if not dense and max(map(len, heads), default=0) <= 6 and cell * len(names) < 1.5 * WIDTH:
        return cell, heads, False
    heads = [wrapped(name, 200, SIZE) for name in names]
    lines = max(map(len, heads), default=1) * SIZE * LINE_HEIGHT + 4
    return max(inner, lines, 18.0 if dense else 30.0), heads, True


def _write_heads(scene: Scene, heads: Sequence[Sequence[str]], left: float, cell: float, turned: bool) -> None:
    line_height = SIZE * LINE_HEIGHT
    if turned:
        scene.height = _widest(chain.from_iterable(heads)) + 10
    else:
        scene.height = max(map(len, heads), default=0) * line_height + 8
    for k, lines in enumerate(heads):
        middle = left + cell * (k + 0.5)
        if not turned:
            scene.write(middle, scene.height - 6 - len(lines) * line_height / 2, lines, anchor="middle")
            continue
        for i, line in enumerate(lines):
            x = middle + line_height * (i - (len(lines) - 1) / 2)
            scene.add(Words(x, scene.height - 6, line, SIZE, turned=True))


def _tint(value: float, share: float) -> tuple[str, float]:
    """Colour and opacity of a cell. The page's text colour is legible on every cell, on light and on dark pages."""
    return (INK, 0.06) if math.isnan(value) else (COLOURS[0], 0.06 + 0.56 * share)


def _share(value: float, low: float, high: float) -> float:
    if math.isnan(value):
        return 0.0
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5


def _shown(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "−") if math.isfinite(value) else NOTHING


def _range(*values: Array) -> tuple[float, float]:
    """The smallest and the largest finite number; 0 and 1 if there is none."""
    flat = np.concatenate([np.ravel(np.asarray(v, dtype=np.float64)) for v in values]) if values else np.zeros(0)
    known = flat[np.isfinite(flat)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


# ---------------------------------------------------------------------------------------------------
# Axes


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most about ``most`` of them.

    >>> ticks(0, 97, 5)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    """
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-300) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two positive numbers, with their double and fivefold if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    found = [float(f"{factor * 10.0**power:.12g}") for power in powers for factor in factors]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def _tick(value: float) -> str:
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 and value == round(value) else f"{value:g}".replace("-", "−")


class _Axes:
    """An area of a scene with numbers along its left and lower edges."""

    def __init__(
        self, scene: Scene, xs: tuple[float, float], ys: tuple[float, float], height: float,
        labels: tuple[str, str], *, log_x: bool = False, one_scale: bool = False, numbers_below: bool = True,
    ) -> None:  # fmt: skip
        self.scene, self.xs, self.ys, self.log_x = scene, xs, ys, log_x
        across, up = self._ticks(xs), ticks(*ys, max(2, round(height / 42)))
        above = wrapped(labels[1], scene.width, SMALL) if labels[1] else []
        self.left = _widest(map(_tick, up), SMALL) + 8
        self.right = scene.width - _widest(map(_tick, across[-1:]), SMALL) / 2 - 2
        if one_scale:
            self.xs = _stretched(xs, (self.right - self.left) * (ys[1] - ys[0]) / height)
            across = self._ticks(self.xs)
        self.top = 10 + scene.write_below(0, scene.height, above, SMALL, faint=True)
        self.bottom = self.top + height
        for value in up:
            y = self.y(value)
            scene.add(Path([(self.left, y), (self.right, y)], width=0.7, opacity=0.18))
            scene.add(Words(self.left - 6, y, _tick(value), SMALL, "end", faint=True))
        free = -math.inf
        for value in across if numbers_below else ():
            x, half = self.x(value), text_width(_tick(value), SMALL) / 2
            scene.add(Path([(x, self.bottom), (x, self.bottom + 4)], width=0.7, opacity=0.5))
            if x - half > free and x - half >= 0 and x + half <= scene.width:
                scene.add(Words(x, self.bottom + 13, _tick(value), SMALL, "middle", faint=True))
                free = x + half + 4
        scene.add(Path([(self.left, self.bottom), (self.right, self.bottom)], width=0.9, opacity=0.5))
        below = wrapped(labels[0], self.right - self.left, SMALL) if labels[0] else []
        middle = (self.left + self.right) / 2
        scene.height = 2 + scene.write_below(middle, self.bottom + 24, below, SMALL, anchor="middle", faint=True)

    def _ticks(self, ends: tuple[float, float]) -> list[float]:
        return (log_ticks(*ends) if self.log_x else []) or ticks(*ends, 7)

    def x(self, value: float) -> float:
        low, high = self.xs
        share = math.log(value / low) / math.log(high / low) if self.log_x else (value - low) / (high - low)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def _wider(ends: tuple[float, float], by: float = 0.04) -> tuple[float, float]:
    """Move both ends outwards, so that nothing is drawn on the edge."""
    low, high = ends
    more = by * (high - low) if _differ(low, high) else max(0.5 * abs(low), 0.5)
    return low - more, high + more


def _legend(
    scene: Scene, entries: Iterable[tuple[str, Callable[[float, float], Box | Dot | Path]]], room: float = 16.0
) -> None:
    """Lay out names line by line, each after ``room`` pixels for its marker. A single name needs no legend."""
    entries = list(entries)
    if len(entries) < 2:
        return
    x, y = 0.0, scene.height + 9
    for name, look in entries:
        lines = wrapped(name, scene.width - room - 2, SMALL)
        width = _widest(lines, SMALL) + room + 2
        if x and x + width > scene.width:
            x, y = 0.0, y + 17
        scene.add(look(x + 6, y))
        for line in lines:
            scene.add(Words(x + room, y, line, SMALL))
            y += SMALL * LINE_HEIGHT if len(lines) > 1 else 0
        if len(lines) > 1:  # the next entry begins below it
            x, y = 0.0, y + 4
        else:
            x += width + 12
    scene.height = y + (17 if x else 4)


def _note(scene: Scene, x: float, text: str) -> None:
    lines = wrapped(text, max(scene.width - x, 120), SMALL)
    scene.height = 2 + scene.write_below(x, scene.height + 4, lines, SMALL, faint=True)
    scene.width = max(scene.width, x + _widest(lines, SMALL))


# ---------------------------------------------------------------------------------------------------
# Points in a plane


def _plane(drawing: Plane) -> Scene:
    scene = Scene(width=WIDTH)
    first = {group.name: group for group in reversed(drawing.groups)}
    named = list(dict.fromkeys(group.name for group in drawing.groups))
    entries = [(name, _swatch(first[name])) for name in named]
    below = len(entries) > _MOST_ABOVE
    if not below:
        _legend(scene, entries)
    places = [np.asarray(group.xy, dtype=np.float64).reshape(-1, 2) for group in drawing.groups]
    xs, ys = (_wider(_range(*(place[:, axis] for place in places))) for axis in (0, 1))
    # One scale for both directions, so that distances can be compared.
    inch = min((WIDTH - 110) / (xs[1] - xs[0]), 430 / (ys[1] - ys[0]))
    ys = _stretched(ys, 150 / inch)
    axes = _Axes(scene, xs, ys, inch * (ys[1] - ys[0]), (drawing.x, drawing.y), one_scale=True)
    kept = _thinned(drawing.groups)
    for group, place, rows in zip(drawing.groups, places, kept, strict=True):
        for row in rows:
            x, y = place[row]
            if math.isfinite(x) and math.isfinite(y):
                scene.add(_point(group, axes.x(x), axes.y(y), group.titles[row]))
    if below:
        scene.height += 6
        _legend(scene, entries)
    dots = sum(len(place) for group, place in zip(drawing.groups, places) if group.marker == "dot")
    if dots > MOST_DOTS:
        drawn = sum(len(rows) for group, rows in zip(drawing.groups, kept) if group.marker == "dot")
        _note(scene, 0, f"{drawn:,} of {dots:,} dots are shown")
    return scene


def _differ(low: float, high: float) -> bool:
    """Whether two numbers are far enough apart for an axis in floating point."""
    return high - low > max(1e-12 * max(abs(low), abs(high)), 1e-100)


def _stretched(ends: tuple[float, float], length: float) -> tuple[float, float]:
    """Move the ends outwards to at least this distance."""
    more = max(0.0, length - (ends[1] - ends[0])) / 2
    return ends[0] - more, ends[1] + more


def _thinned(groups: Sequence[Points]) -> list[list[int]]:
    """The rows of each group that are drawn: all rows, but groups of dots share `MOST_DOTS` in proportion."""
    dots = sum(len(group.xy) for group in groups if group.marker == "dot")
    share = min(1.0, MOST_DOTS / dots) if dots else 1.0
    return [
        spread(len(g.xy), max(2, math.floor(share * len(g.xy)))) if g.marker == "dot" else list(range(len(g.xy)))
        for g in groups
    ]


def _point(group: Points, x: float, y: float, title: str) -> Dot:
    return Dot(x, y, 2.6, group.colour, group.marker, 0.5 if group.marker == "dot" else 1.0, title)


def _swatch(group: Points) -> Callable[[float, float], Dot]:
    return lambda x, y: Dot(x, y, _LEGEND_ROOM[group.marker], group.colour, group.marker)


# ---------------------------------------------------------------------------------------------------
# Bars


def _bars(drawing: Bars) -> Scene:
    scene = Scene(width=WIDTH)
    colours = {name: colour(i) for i, name in enumerate(drawing.series)}
    low, high = drawing.limits or _range(np.zeros(1), *drawing.series.values())
    low, high = (low, high) if _differ(low, high) else (low, low + 1)
    if not drawing.across:
        scene.width = _width_of_upright(drawing)

    def swatch(shade: str) -> Callable[[float, float], Box]:
        return lambda x, y: Box(x - 5, y - 5, 10, 10, shade)

    _legend(scene, ((name, swatch(shade)) for name, shade in colours.items()))
    (_bars_across if drawing.across else _bars_up)(scene, drawing, colours, (low, high))
    return scene


def _width_of_upright(drawing: Bars) -> float:
    """The width of a scene with room for the number on each upright bar."""
    slot = max(len(drawing.series) * max(16.0, _widest_number(drawing) + 2) + 14, 46.0)
    slot = max(slot, min(120.0, (WIDTH - 50) / max(1, len(drawing.categories))))
    return max(WIDTH, slot * len(drawing.categories) + 50)


def _widest_number(drawing: Bars) -> float:
    return _widest((_shown(float(v), drawing.digits) for values in drawing.series.values() for v in values), SMALL)


def _spread(drawing: Bars, name: str, k: int) -> float:
    """The deviation of a bar; 0 if there is none."""
    known = name in drawing.spreads and math.isfinite(drawing.series[name][k])
    return float(np.nan_to_num(drawing.spreads[name][k])) if known else 0.0


def _bar_title(drawing: Bars, category: str, name: str, text: str, spread: float) -> str:
    text += f" ± {_shown(spread, drawing.digits)}" if spread else ""
    return f"{category} · {name}: {text}" if len(drawing.series) > 1 else f"{category}: {text}"


def _within(value: float, ends: tuple[float, float]) -> float:
    return min(max(value, ends[0]), ends[1])


def _bars_up(scene: Scene, drawing: Bars, colours: dict[str, str], ends: tuple[float, float]) -> None:
    scene.height += 4
    low, high = ends
    room = (low - (0.08 * (high - low) if low < 0 else 0.0), high + 0.06 * (high - low))  # for numbers beyond the bars
    axes = _Axes(scene, (0.0, 1.0), room, 240, ("", drawing.axis), numbers_below=False)
    slot = (axes.right - axes.left) / max(1, len(drawing.categories))
    thick = min((slot - 12) / max(1, len(drawing.series)), max(_THICKEST, _widest_number(drawing) + 2))
    zero = axes.y(_within(0.0, ends))
    deepest = axes.bottom + 8
    for k, category in enumerate(drawing.categories):
        start = axes.left + slot * (k + 0.5) - thick * len(drawing.series) / 2
        for i, (name, values) in enumerate(drawing.series.items()):
            value, x = float(values[k]), start + thick * i
            text, spread = _shown(value, drawing.digits), _spread(drawing, name, k)
            end = zero if not math.isfinite(value) else axes.y(_within(value, ends))
            title = _bar_title(drawing, category, name, text, spread)
            top, height = min(zero, end), max(abs(end - zero), 0.5)
            scene.add(Box(x + 1, top, thick - 2, height, colours[name], 0.9, title))
            farthest = end
            if spread:
                low, high = (axes.y(_within(value + sign * spread, ends)) for sign in (-1, 1))
                farthest = low if value < 0 else high
                scene.add(Path([(x + thick / 2, low), (x + thick / 2, high)], width=1.2))
            beyond = 8.0 if value < 0 else -8.0
            scene.add(Words(x + thick / 2, farthest + beyond, text, SMALL, "middle"))
        lines = wrapped(category, slot - 6, SMALL)
        ends_at = scene.write_below(axes.left + slot * (k + 0.5), axes.bottom + 8, lines, SMALL, anchor="middle")
        deepest = max(deepest, ends_at)
    scene.height = deepest + 4


def _bars_across(scene: Scene, drawing: Bars, colours: dict[str, str], ends: tuple[float, float]) -> None:
    names = [wrapped(category, 200, SIZE) for category in drawing.categories]
    left = _widest(chain.from_iterable(names)) + 10
    beside = _widest_number(drawing) + 8
    before = beside if ends[0] < 0 else 0.0
    inch = (scene.width - left - beside - before) / (ends[1] - ends[0])
    zero = left + before + inch * (_within(0.0, ends) - ends[0])

    def along(value: float) -> float:
        return zero + inch * (_within(value, ends) - _within(0.0, ends))

    heads = wrapped(drawing.axis, scene.width - left, SMALL) if drawing.axis else []
    y = top = 6 + scene.write_below(left, scene.height + 2, heads, SMALL, faint=True)
    for k, (category, lines) in enumerate(zip(drawing.categories, names, strict=True)):
        height = max(15.0 * len(drawing.series) + 8, len(lines) * SIZE * LINE_HEIGHT + 6)
        scene.write(left - 8, y + height / 2, lines, anchor="end")
        bar = y + height / 2 - 15.0 * len(drawing.series) / 2
        for name, values in drawing.series.items():
            value = float(values[k])
            text, spread = _shown(value, drawing.digits), _spread(drawing, name, k)
            long = along(value) - zero if math.isfinite(value) else 0.0
            title = _bar_title(drawing, category, name, text, spread)
            scene.add(Box(zero + min(long, 0), bar + 1, max(abs(long), 0.5), 13, colours[name], 0.9, title))
            farthest = zero + long
            if spread:
                low, high = along(value - spread), along(value + spread)
                farthest = low if long < 0 else high
                scene.add(Path([(low, bar + 7.5), (high, bar + 7.5)], width=1.2))
            x = farthest + (-5 if long < 0 else 5)
            scene.add(Words(x, bar + 7.5, text, SMALL, "end" if long < 0 else "start"))
            bar += 15.0
        y += height
    scene.add(Path([(zero, top), (zero, y)], width=0.9, opacity=0.5))
    scene.height = y + 4


# ---------------------------------------------------------------------------------------------------
# Curves


def _curve(drawing: Curve) -> Scene:
    scene = Scene(width=WIDTH)
    looks = [(colour(i), _DASHES[i % len(_DASHES)]) for i in range(len(drawing.lines))]
    samples = [_sample(*look, joined=line.joined and len(line.x) > 1) for line, look in zip(drawing.lines, looks)]
    _legend(scene, zip((line.name for line in drawing.lines), samples), 28.0)
    every = [np.asarray(line.x, dtype=np.float64) for line in drawing.lines]
    log_x = drawing.log_x and any((x > 0).any() for x in every)
    xs = _range(*((x[x > 0] if log_x else x) for x in every))
    xs = (xs[0] / 1.05, xs[1] * 1.05) if log_x else _wider(xs, 0.015)
    spreads = [np.zeros(len(line.y)) if line.spread is None else np.nan_to_num(line.spread) for line in drawing.lines]
    ends = [np.asarray(line.y) + sign * s for line, s in zip(drawing.lines, spreads) for sign in (-1, 1)]
    axes = _Axes(scene, xs, _wider(_range(*ends), 0.05), 230, (drawing.x, drawing.y), log_x=log_x)
    for line, look in zip(drawing.lines, looks):
        _line(scene, axes, line, *look, several=len(drawing.lines) > 1)
    _name_points(scene, axes, drawing.lines)
    return scene


def _name_points(scene: Scene, axes: _Axes, lines: Sequence[Line]) -> None:
    """Write names below points, or above the lowest ones; a name without room, or on another one, is left out."""
    taken: list[tuple[float, float, float]] = []  # the ends and the height of names
    for line in lines:
        for x, y, text in zip(line.x, line.y, line.labels):
            if not (math.isfinite(x) and math.isfinite(y)) or (axes.log_x and x <= 0):
                continue
            half, down = text_width(text, SMALL) / 2, axes.y(float(y)) + 12
            if down + SMALL / 2 > axes.bottom:
                down -= 24
            middle = max(half, min(axes.x(float(x)), scene.width - half))
            left, right = middle - half, middle + half
            if 2 * half <= scene.width and all(right < a or b < left or abs(down - at) > SMALL for a, b, at in taken):
                scene.add(Words(middle, down, text, SMALL, "middle", faint=True, through=True))
                taken.append((left, right, down))


def _line(scene: Scene, axes: _Axes, line: Line, colour: str, dashes: tuple[float, ...], *, several: bool) -> None:
    known = [i for i in range(len(line.x)) if math.isfinite(line.x[i]) and math.isfinite(line.y[i])]
    known = [i for i in known if not axes.log_x or line.x[i] > 0]
    kept = spread(len(known), MOST_PLACES)
    rows = [known[i] for i in kept]
    places = [(axes.x(float(line.x[i])), axes.y(float(line.y[i]))) for i in rows]
    if line.spread is not None and len(rows) > 1:
        half = [0.0 if not math.isfinite(line.spread[i]) else float(line.spread[i]) for i in rows]
        upper = [(x, axes.y(float(line.y[i]) + h)) for (x, _), i, h in zip(places, rows, half)]
        lower = [(x, axes.y(float(line.y[i]) - h)) for (x, _), i, h in zip(places, rows, half)]
        scene.add(Area([*upper, *reversed(lower)], colour, 0.16))
    # The number of missing values so far: the line is broken where it changes.
    missing = [row - place for row, place in zip(rows, kept)]
    for _, part in groupby(range(len(rows)), missing.__getitem__):
        joined = [places[i] for i in part]
        if len(joined) > 1 and line.joined:
            scene.add(Path(joined, colour, 1.8, dashes=dashes))
    marked = line.marked or not line.joined
    for i in range(len(rows)) if marked else spread(len(rows), MOST_TITLES):
        title = f"{line.name} · {line.titles[rows[i]]}" if several else line.titles[rows[i]]
        alone = marked or len(rows) == 1
        scene.add(Dot(*places[i], 3.4 if alone else 6.0, colour, opacity=1.0 if alone else 0.0, title=title))


def _sample(colour: str, dashes: tuple[float, ...], *, joined: bool) -> Callable[[float, float], Path | Dot]:
    if not joined:
        return lambda x, y: Dot(x + 5, y, 3.4, colour)
    return lambda x, y: Path([(x - 6, y), (x + 16, y)], colour, 2.0, dashes=dashes)
