"""The base of every result: it prints itself, shows itself in a notebook, and gives its numbers and figures."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..extras import needed
from ..machine.progress import in_notebook
from ..store.records import as_plain
from ..text import encodable, printable
from .figures import Figure, on_one_page
from .tables import NOTHING, Table, as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Paper

_MOST_LINES = 40  # of a result in an interactive Python
_NUMBER = re.compile(r"(?:= )?([+-]?[\d,]*\.?\d+)(?: ± ([\d,]*\.?\d+))?(?:\s?%)?")  # "=" marks a set's own encoder
_WHOLE = re.compile(r"[+-]?\d[\d,]*")


class Result:
    """Base of the results of `evaluate`, `transfer`, `align`, `geometry`, `bias` …

    A result is a dataclass. It presents its findings as tables, sentences and figures, each made in one place and shown
    by the terminal, the PNG, the report and a notebook.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep `__repr__` and `__eq__`: a dataclass's own would print every number, and cannot compare arrays."""
        super().__init_subclass__(**options)
        for name in ("__repr__", "__eq__"):
            if name not in cls.__dict__:
                setattr(cls, name, getattr(Result, name))

    def tables(self) -> list[Table]:
        """The numbers."""
        raise NotImplementedError

    def fitting(self, width: int) -> list[Table]:
        """Return tables for a page of ``width`` characters; they differ from `tables` if those are too wide."""
        return self.tables()

    def findings(self) -> list[str]:
        """Sentences about what the numbers show."""
        return []

    def figures(self) -> list[Figure]:
        """The numbers as drawings."""
        return []

    def plain(self) -> dict[str, Any]:
        """Every number as plain values, ready for JSON: what ``--json`` prints."""
        content: dict[str, Any] = as_plain(self)
        return content

    def __str__(self) -> str:
        findings = map(printable, self.findings())
        return as_text(*(table.rich() for table in self.tables()), *findings, sep="\n", markup=False, soft_wrap=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return type(other) is type(self) and as_plain(self) == as_plain(other)

    def __repr__(self) -> str:
        lines = str(self).splitlines()
        more = len(lines) - _MOST_LINES
        return "\n".join([*lines[:_MOST_LINES], f"… {more} more lines: print() shows them"] if more > 0 else lines)

    def _repr_html_(self) -> str:
        """HTML for a notebook: findings, figures and tables."""
        parts = [f"<p>{html.escape(printable(finding))}</p>" for finding in self.findings()]
        parts += [figure._repr_html_() for figure in self.figures()]
        parts += [f'<div style="overflow-x:auto">{table.html()}</div>' for table in self.tables()]
        return "".join(parts)

    def show(self) -> None:
        """Show the result: in a notebook with its figures, else as tables on standard output."""
        if in_notebook():
            from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

            display(self)
        else:
            import sys

            print(encodable(str(self), getattr(sys.stdout, "encoding", None)))

    def plot(self) -> Paper:
        """The figures on one page, as a ``matplotlib.figure.Figure``: ``plot().savefig("result.pdf")``.

        Raises:
            UserError: Nothing is drawn of this result: its tables are all.
        """
        drawn = [figure for figure in self.figures() if figure.drawing is not None]
        if not drawn:
            raise UserError(f"this {type(self).__name__} has no figures; show() and to_pandas() give its tables")
        return on_one_page(drawn)

    def to_pandas(self, table: int = 0) -> Any:
        """One of the tables as a ``pandas.DataFrame``.

        A column of numbers has floats, with the values as shown: percent as percent, NaN for a dash; whole numbers are
        integers. A column of means with spreads becomes two, the second with `` ±`` after its name.

        Args:
            table: Which of `tables`.

        Raises:
            UserError: pandas is not installed.
        """
        pandas = needed("pandas", None, "to_pandas() needs")

        records = self.tables()[table].records()
        columns: dict[str, list[Any]] = {}
        for name in records[0] if records else ():
            columns |= _as_numbers(name, [record[name] for record in records])
        return pandas.DataFrame(columns)


def _as_numbers(name: str, cells: list[str]) -> dict[str, list[Any]]:
    """Convert a column to numbers if all its cells are numbers or missing; otherwise leave it unchanged."""
    if all(_WHOLE.fullmatch(cell) for cell in cells):
        return {name: [int(cell.replace(",", "")) for cell in cells]}
    found = [_NUMBER.fullmatch(cell.strip()) for cell in cells]
    if not any(found) or any(match is None and cell not in (NOTHING, "") for match, cell in zip(found, cells)):
        return {name: list(cells)}
    columns = {name: [_float(match and match[1]) for match in found]}
    if any(match and match[2] for match in found):
        columns[f"{name} ±"] = [_float(match and match[2]) for match in found]
    return columns


def _float(text: str | None) -> float:
    return float(text.replace(",", "")) if text else float("nan")
