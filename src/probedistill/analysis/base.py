"""What every analysis shares: its file, its picture, and how its record names encoders and images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..encoders.encoder import Encoder
from ..errors import UserError
from ..show.figures import Figure, save_figures
from ..show.results import Result
from ..store.locks import PATIENCE, claimed
from ..store.records import Count, read_record, write_record
from ..store.run_record import RunRecord

Array = NDArray[np.float64]
Kind = TypeVar("Kind", bound="Analysis")


class Analysis(Result):
    """A result with its own file, KIND.json, and a picture, KIND.png.

    A subclass is a dataclass whose annotations are the schema of the file (see `probedistill.store.records`). It sets
    `kind`, and builds `tables`, `findings` and `figures` from its fields; the report shows these.
    """

    kind: ClassVar[str]
    """The name of the analysis, and of its files."""
    of_one_run: ClassVar[bool] = False
    """Whether it is about a single run: the report then shows it with that run, not among the comparisons."""

    @classmethod
    def file_in(cls, path: Path | str) -> Path:
        """The file of results: ``path`` itself, or KIND.json in it if it is a folder."""
        path = Path(path)
        return path / f"{cls.kind}.json" if path.is_dir() else path

    @classmethod
    def read(cls: type[Kind], path: Path | str) -> Kind:
        """Read a file written by `save`.

        Args:
            path: The file, or the folder that holds it.

        Raises:
            UserError: No such file, a file of another kind, or a damaged one.
        """
        hint = f"give a file that probedistill {cls.kind} wrote"
        return read_record(cls.file_in(path), cls, kind=cls.kind, what=cls.kind, hint=hint)

    def write(self, folder: Path | str) -> None:
        """Write KIND.json into ``folder``."""
        write_record(Path(folder) / f"{self.kind}.json", self, kind=self.kind)

    def figures(self) -> list[Figure]:
        """The numbers as drawings; if a subclass has none, its tables."""
        return [Figure(table.title, table.caption, None, table) for table in self.tables()]

    def save(self, folder: Path | str) -> None:
        """Write KIND.json and, if anything is drawn, KIND.png into ``folder``, while no other process writes there."""
        with claimed(Path(folder), called="folder", wait=PATIENCE):
            self.write(folder)
            self.draw(folder)

    def draw(self, folder: Path | str) -> None:
        """Write KIND.png into ``folder``, if anything is drawn.

        Raises:
            UserError: It cannot be written; the message says that the numbers are saved.
        """
        figures = self.figures()
        if any(figure.drawing is not None for figure in figures):
            try:
                save_figures(Path(folder) / f"{self.kind}.png", figures)
            except UserError as error:
                again = "the numbers are saved, so repeat the same command to draw the figure"
                raise UserError(f"{error}; {again}") from error


@dataclass(frozen=True)
class EncoderAbout:
    """An encoder, as records name it.

    Attributes:
        name: For tables and figures; no two encoders of a result share it.
        fingerprint: SHA-256 of weights and settings.
        input_size: Side of its images in pixels.
    """

    name: str
    fingerprint: str
    input_size: Count

    @classmethod
    def of(cls, encoder: Encoder, name: str | None = None) -> EncoderAbout:
        """The record of ``encoder``, under another name if one is given."""
        return cls(name or encoder.name, encoder.fingerprint, encoder.input_size)

    @property
    def sized(self) -> str:
        """``NAME@PIXELS``."""
        return f"{self.name}@{self.input_size}"


@dataclass(frozen=True)
class MadeBy:
    """What made the synthetic images: the method, and the name of the encoder; ``None`` if it is unknown."""

    method: str | None
    encoder: str | None

    @classmethod
    def of(cls, run: RunRecord) -> MadeBy:
        """The record of what made a set."""
        return cls(run.method, run.source.name if run.source else None)


def check_array(what: str, values: Array, shape: tuple[int, ...], low: float = -np.inf, high: float = np.inf) -> None:
    """Raise `ValueError` for an array of another shape, or with values outside [low, high]; NaN is allowed.

    Records call it in ``__post_init__``, where `read_record` turns it into one line about the file.
    """
    if values.shape != shape:
        raise ValueError(f"{what} has the shape {values.shape}, not {shape}")
    if ((values < low) | (values > high)).any():
        raise ValueError(f"{what} has values outside {low:g} to {high:g}")
