"""One table for the terminal, the report, a notebook and a data frame."""

from __future__ import annotations

import csv
import html
import io
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console

from ..text import encodable, printable
from .scene import words_of

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

NOTHING = "–"
"""Shown instead of a missing number."""
_NAME, _WORD, _PIECE = 30, 12, 13
"""Up to these lengths, names of rows, other words and their pieces (``efficientnet_``) are never broken."""
_NUMBER = re.compile(r"[-+−]?[\d.,]+(?:e[-+]?\d+)?%?")


@dataclass(frozen=True)
class Table:
    """Rows and columns with a title.

    Attributes:
        title: What the table shows.
        columns: Heads of the columns; a line break in one is shown as such.
        rows: Cells as they are shown. Use `percent` and similar functions for numbers.
        caption: A sentence below the table.
        sections: Indices of the rows that begin a new section.
        dim: Indices of the rows that are shown faintly, such as baselines.
        left: Number of text columns at the start; the other columns are numbers, aligned to the right.
        texts: Indices of text columns among these.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = field(repr=False)
    caption: str = ""
    sections: tuple[int, ...] = field(default=(), repr=False)
    dim: tuple[int, ...] = field(default=(), repr=False)
    left: int = field(default=1, repr=False)
    texts: tuple[int, ...] = field(default=(), repr=False)

    def _is_text(self, column: int) -> bool:
        return column < self.left or column in self.texts

    def rich(self) -> RichTable:
        """The table for a terminal. Names in it are shown literally, without mark-up."""
        from rich.table import Table as RichTable

        table = RichTable(
            title=_plain(self.title) or None, title_justify="left",
            caption=_plain(self.caption) or None, caption_justify="left",
        )  # fmt: skip
        for number, column in enumerate(self.columns):
            table.add_column(
                _plain(column), justify="left" if self._is_text(number) else "right", overflow="fold",
                min_width=self._narrowest(number),
            )  # fmt: skip
        for number, row in enumerate(self.rows):
            if number in self.sections:
                table.add_section()
            table.add_row(*map(_plain, row), style="dim" if number in self.dim else None)
        return table

    def fitting(self, width: int, *, or_wider: bool = False) -> RichTable:
        """Return the table for a page of ``width`` characters.

        If it is too wide for that, the result has one line per cell, or is wider (``or_wider``).
        """
        each = len(self.columns)
        widths = [self._narrowest(number) for number in range(each)]
        room = width - sum(widths) - (3 * each + 1)  # minus the frame
        too_wide = room < 0
        if too_wide and not or_wider:
            cells = tuple((column, cell) for row in self.rows for column, cell in zip(self.columns, row, strict=True))
            dim = tuple(number for number in range(len(cells)) if number // each in self.dim)
            sections = tuple(range(0, len(cells), each))
            lines = Table(self.title, ("", ""), cells, self.caption, sections, dim, left=2).rich()
            lines.show_header = False
            return lines
        # rich narrows columns without regard to their least widths, and is then too wide. Here, room goes first to
        # numbers, then to headings up to nine letters, to text (narrow columns first), and to the rest of the headings.
        heads = [_widest([column]) for column in self.columns]
        bodies = [_widest([row[number] for row in self.rows]) for number in range(each)]
        text = [n for n in range(each) if self._is_text(n)]
        if too_wide:
            room = sum(max(0, min(bodies[n], _NAME) - widths[n]) for n in text)
        numbers = [n for n in range(each) if n not in text]

        def give(number: int, wish: int) -> None:
            nonlocal room
            more = min(room, max(0, wish - widths[number]))
            widths[number] += more
            room -= more

        for number, wish in [*((n, bodies[n]) for n in numbers), *((n, min(heads[n], 9)) for n in range(each))]:
            give(number, wish)
        while room and (cramped := [n for n in text if widths[n] < bodies[n]]):
            narrowest = min(cramped, key=widths.__getitem__)
            give(narrowest, widths[narrowest] + 1)
        for number, wish in enumerate(heads):
            give(number, wish)
        columns, *rows = (
            tuple(_broken(cell, width) for cell, width in zip(row, widths, strict=True))
            for row in (self.columns, *self.rows)
        )
        table = replace(self, columns=columns, rows=tuple(rows)).rich()
        for column, width in zip(table.columns, widths, strict=True):
            # rich would narrow columns of a fixed width that do not fit.
            column.min_width, column.width = (width, None) if too_wide else (None, width)
        return table

    def _narrowest(self, column: int) -> int:
        """Length of the longest word in a column that must not be split, however narrow the page is.

        These are numbers (1234 must not read as 12 and 34), names of rows up to a usual length, other words up to a
        dozen letters, and the pieces into which `_broken` breaks them up to one more. A row without other cells is a
        heading, not a name.
        """
        named = (row for row in self.rows if any(row[1:]) or len(row) == 1)
        cells = [self.columns[column], *(row[column] for row in named)]
        words = [word for cell in cells for word in printable(cell, lines=True).split()]

        def needs(word: str) -> int:
            if _NUMBER.fullmatch(word):
                return cell_len(word)
            if column == 0:
                return min(cell_len(word), _NAME)
            return max(min(cell_len(word), _WORD), min(max(map(cell_len, words_of(word))), _PIECE))

        return max(map(needs, words), default=0)

    def encodable(self, encoding: str | None) -> Table:
        """Return the table with everything that an encoding lacks replaced."""
        columns, *rows = (tuple(encodable(cell, encoding) for cell in row) for row in (self.columns, *self.rows))
        title, caption = (encodable(text, encoding) for text in (self.title, self.caption))
        return replace(self, columns=columns, rows=tuple(rows), title=title, caption=caption)

    def html(self) -> str:
        """Return the table as an HTML element without styles."""

        def line(cells: Sequence[str], *, head: bool) -> str:
            found = []
            for number, cell in enumerate(cells):
                kind = "" if self._is_text(number) else ' class="number"'
                inside = html.escape(printable(cell, lines=True)).replace("\n", "<br>")
                scope = "col" if head else "row" if number == 0 else ""
                found.append(f'<th scope="{scope}"{kind}>{inside}</th>' if scope else f"<td{kind}>{inside}</td>")
            return f"<tr>{''.join(found)}</tr>"

        edges = sorted({0, *self.sections, len(self.rows)})
        bodies = ["".join(line(row, head=False) for row in self.rows[a:b]) for a, b in itertools.pairwise(edges)]
        text = f"<caption>{html.escape(printable(self.title))}</caption>" if self.title else ""
        text += f"<thead>{line(self.columns, head=True)}</thead>"
        text += "".join(f"<tbody>{part}</tbody>" for part in bodies if part)
        note = f"<p>{html.escape(printable(self.caption))}</p>" if self.caption else ""
        return f"<table>{text}</table>{note}"

    def records(self) -> list[dict[str, str]]:
        """A mapping from column to cell for each row; of columns of one name the second has (2) behind it."""
        plain = [" ".join(column.split()) for column in self.columns]
        names: list[str] = []
        for name in plain:
            again = (f"{name} ({number})" for number in itertools.count(2))
            names.append(name if name not in names else next(new for new in again if new not in [*plain, *names]))
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def csv(self) -> str:
        """The table as comma-separated values, as RFC 4180 has them."""
        lines = io.StringIO()
        writer = csv.writer(lines)
        writer.writerow([" ".join(column.split()) for column in self.columns])
        writer.writerows([[_inert(printable(cell)) for cell in row] for row in self.rows])
        return lines.getvalue()

    def __str__(self) -> str:
        return as_text(self.rich(), soft_wrap=True)


def _widest(cells: Sequence[str]) -> int:
    """Length of the longest line in some cells."""
    return max((cell_len(line) for cell in cells for line in printable(cell, lines=True).split("\n")), default=0)


def _broken(cell: str, width: int) -> str:
    """Break the long words of a cell after underscores, hyphens and the like, not wherever a line ends.

    >>> _broken("images_per_class of one", 12)
    'images_per_\nclass of one'
    """
    lines: list[str] = []
    for line in cell.split("\n"):
        words = []
        for word in line.split(" "):
            parts = [""]
            for piece in words_of(word) if cell_len(word) > width else [word]:
                if cell_len(parts[-1] + piece) > width and parts[-1]:
                    parts.append("")
                parts[-1] += piece
            words.append("\n".join(parts))
        lines.append(" ".join(words))
    return "\n".join(lines)


def _inert(cell: str) -> str:
    """Escape a cell so that no spreadsheet reads it as a formula: a name may begin with =."""
    return f"'{cell}" if cell[:1] in ("=", "@") or (cell[:1] in ("+", "-") and not cell[1:2].isdigit()) else cell


def _plain(text: str) -> Text:
    """Text that rich shows literally, without mark-up."""
    from rich.text import Text

    return Text(printable(text, lines=True))


def percent(value: float | None, std: float | None = None) -> str:
    """A share as percent with one decimal, with its spread if there is one.

    >>> percent(0.756), percent(0.756, 0.011), percent(None)
    ('75.6', '75.6 ± 1.1', '–')
    """
    if value is None or math.isnan(value):
        return NOTHING
    return f"{100 * value:.1f}" + ("" if std is None or math.isnan(std) else f" ± {100 * std:.1f}")


def points(value: float | None) -> str:
    """A difference of shares, in points of a percent, with its sign."""
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:+.1f}"


def number(value: float | None, digits: int = 2) -> str:
    """A number with some decimals."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def as_text(*what: Any, width: int = 100, **options: Any) -> str:
    """What ``Console.print`` makes of these on a page of that width, without colours."""
    # As if there were no terminal and no notebook: no escapes, and nothing is displayed.
    console = Console(width=width, no_color=True, force_terminal=False, force_jupyter=False)
    with console.capture() as captured:
        console.print(*what, **options)
    return captured.get().rstrip()
