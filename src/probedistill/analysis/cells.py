"""The cells of a transfer matrix, and the scores known so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..store.files import check_writable
from ..store.locks import PATIENCE, claimed
from ..store.records import read_record
from .matrix import Scores, TransferMatrix


@dataclass(frozen=True)
class Cell:
    """Probes that are trained on one set of images and tested on one target.

    Attributes:
        kind: distilled, random, centroids or full.
        target: Index of the target.
        key: Digest of all that the scores depend on.
        probes: Names of the probes.
        rows: Indices of the sets that the scores belong to.
        source: Fingerprint of the encoder of these sets, if it is needed: for centroids, and behind a head.
        inherits: Whether the probes need the head and the source's features of the one set.
    """

    kind: str
    target: int
    key: str
    probes: tuple[str, ...]
    rows: list[int]
    source: str = ""
    inherits: bool = False


@dataclass(frozen=True)
class _KeptCells:
    """The part of ``transfer.json`` that a later call uses."""

    cells: dict[str, Scores]


class Kept:
    """Scores by the key of their cell, in memory and, if there is a folder, in its ``transfer.json``.

    Calls that run at the same time share the file: each reads what the others have written before it writes.
    """

    def __init__(self, folder: Path | None) -> None:
        self.cells: dict[str, Scores] = {}
        self._folder = folder
        if folder is not None:
            check_writable(folder)
            self._take()

    def missing(self, cell: Cell) -> list[str]:
        """Probes of a cell that have not been scored."""
        return [probe for probe in cell.probes if probe not in self.cells.get(cell.key, {})]

    def add(self, cell: Cell, scores: Scores) -> None:
        """Keep the scores of a cell."""
        self.cells.setdefault(cell.key, {}).update(scores)

    @contextmanager
    def shared(self) -> Iterator[Path | None]:
        """Lock the folder for writing, after reading what other calls have written; ``None`` without a folder."""
        if self._folder is None:
            yield None
            return
        with claimed(self._folder, wait=PATIENCE):
            self._take()
            yield self._folder

    def _take(self) -> None:
        """Add scores from the file; known scores are kept."""
        assert self._folder is not None
        path = self._folder / f"{TransferMatrix.kind}.json"
        if not path.exists():
            return
        hint = "make it again, or choose another folder"
        found = read_record(path, _KeptCells, kind=TransferMatrix.kind, what="transfer", hint=hint).cells
        self.cells = {key: {**found.get(key, {}), **self.cells.get(key, {})} for key in {**found, **self.cells}}
