"""Many small pictures as a few WebP sheets in base64. The page cuts a sheet apart when a picture is scrolled near."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from ..machine.progress import ProgressBar

_SHEET = 1120  # pixels; larger sheets take long to decode, smaller ones make the page longer
_QUALITY = 82


@dataclass(frozen=True)
class Sheets:
    """Pictures in square cells, row by row, sheet by sheet.

    Attributes:
        cell: Side of a cell in pixels.
        columns: Cells in a row.
        per_sheet: Cells in a sheet.
        sheets: WebP files in base64.
    """

    cell: int
    columns: int
    per_sheet: int
    sheets: tuple[str, ...]


def pack(count: int, picture: Callable[[int], Image.Image], cell: int, *, progress: bool = False) -> Sheets:
    """Put the square pictures ``picture(0)`` … ``picture(count - 1)`` into sheets, resized to their cell."""
    columns = max(1, _SHEET // cell)
    per_sheet = columns * columns
    sheets = []
    with ProgressBar("pictures", count, enabled=progress and count > per_sheet) as bar:
        for start in range(0, count, per_sheet):
            here = range(start, min(start + per_sheet, count))
            sheet = Image.new("RGB", (min(columns, len(here)) * cell, -(-len(here) // columns) * cell))
            for place, i in enumerate(here):
                image = picture(i).resize((cell, cell), Image.Resampling.LANCZOS)
                sheet.paste(image, (place % columns * cell, place // columns * cell))
            file = io.BytesIO()
            sheet.save(file, format="WEBP", quality=_QUALITY)
            sheets.append(base64.b64encode(file.getvalue()).decode())
            bar.advance(len(here))
    return Sheets(cell, columns, per_sheet, tuple(sheets))
