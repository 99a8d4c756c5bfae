"""What every result can do: print itself, be looked at in a notebook, and be saved as numbers and as a picture."""

from __future__ import annotations

from typing import Any

from .figures import Figure
from .tables import Table, as_text


class Result:
    """Base of the results of `evaluate`, `transfer`, `align`, `geometry`, `bias` …

    A result is a dataclass. It says what it found as tables, sentences and figures, each made in one place; the
    terminal, the PNG, the report and a notebook all show these.
    """

    def tables(self) -> list[Table]:
        """The numbers."""
        raise NotImplementedError

    def findings(self) -> list[str]:
        """What the numbers say, a sentence each."""
        return []

    def figures(self) -> list[Figure]:
        """The numbers as drawings."""
        return []

    def __str__(self) -> str:
        return as_text(*(table.rich() for table in self.tables()), *self.findings(), markup=False, soft_wrap=True)

    def to_pandas(self) -> Any:
        """The first table as a ``pandas.DataFrame`` of what it shows."""
        import pandas

        return pandas.DataFrame.from_records(self.tables()[0].records())
