"""The page of matplotlib that figures are painted on. Import it when it is needed: matplotlib is slow to import."""

from __future__ import annotations

import io
import warnings
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

from .fonts import quiet


class Page(Figure):
    """A figure that a notebook shows even if ``pyplot``, which otherwise arranges that, has not been imported."""

    def write(self, path: Any, kind: Literal["png", "svg"] = "png") -> None:
        """Write a file, without warnings about letters that the font lacks.

        Args:
            path: The file, or what takes its place.
            kind: Its format.
        """
        # no date, so that the same figure always gives the same file
        metadata = {"Date": None} if kind == "svg" else None
        with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "probedistill"}), quiet():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            self.savefig(path, format=kind, metadata=metadata)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.write(file)
        return file.getvalue()
