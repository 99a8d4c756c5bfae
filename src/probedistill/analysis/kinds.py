"""The registry of analyses: name → the record class, which names its file and says how a report shows it.

To add one, write ``analysis/NAME.py``, a line in `KINDS` and a command. Your own analysis needs none of these: the
entry point ``probedistill.analysis`` or ``report --analysis module:mine:Sharpness`` names its class. This is
``mine.py``; ``Sharpness({"cat": 0.2}).save("runs/a")`` saves a result in the run, and ``figures()`` may add drawings::

    from dataclasses import dataclass
    from probedistill.analysis.base import Analysis
    from probedistill.show.tables import Table, number

    @dataclass(frozen=True)
    class Sharpness(Analysis):
        kind = "sharpness"
        slopes: dict[str, float]

        def tables(self):
            rows = tuple((name, number(slope)) for name, slope in self.slopes.items())
            return [Table("How sharp the images are", ("class", "mean slope"), rows)]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import is_dataclass
from pathlib import Path

from ..errors import UserError
from ..registry import Registry
from .base import Analysis

KINDS = Registry(
    "analysis",
    {
        "transfer": ".analysis.matrix:TransferMatrix",
        "align": ".analysis.alignment:Alignment",
        "bias": ".analysis.bias:BiasReport",
        "geometry": ".analysis.geometry:Geometry",
        "migrate": ".analysis.migrate:Migration",
        "audit": ".analysis.audit:Audit",
    },
)
"""Analyses, in the order in which a report shows them."""


def kinds(more: Iterable[str] = ()) -> dict[str, type[Analysis]]:
    """Every kind of analysis by its name: the built-in ones, those of plug-ins, and ``more``.

    Args:
        more: Names in `KINDS`, or ``module:MODULE:CLASS`` for your own.

    Raises:
        UserError: A class that is not an `Analysis` or cannot be imported, or two with the same name.
    """
    found: dict[str, type[Analysis]] = {}
    for name in dict.fromkeys([*KINDS.names(), *more]):
        kind = KINDS.load(name)
        if not (isinstance(kind, type) and issubclass(kind, Analysis) and is_dataclass(kind) and _has_name(kind)):
            raise UserError(f"analysis {name!r} must be a dataclass derived from probedistill.analysis.base.Analysis")
        if found.setdefault(kind.kind, kind) is not kind:
            raise UserError(f"analysis {name!r} has the same kind as another, {kind.kind!r}; rename it")
    return found


def read_in(folder: Path, kind: type[Analysis]) -> list[Analysis]:
    """The results of a kind in a folder: KIND.json and KIND-*.json, by name.

    Raises:
        UserError: One of them is damaged.
    """
    paths = [folder / f"{kind.kind}.json", *sorted(folder.glob(f"{kind.kind}-*.json"))]
    return [kind.read(path) for path in paths if path.is_file()]


def _has_name(kind: type[Analysis]) -> bool:
    name = getattr(kind, "kind", "")
    return isinstance(name, str) and name.isidentifier()
