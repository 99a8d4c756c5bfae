"""Pictures of the synthetic images: a grid with titles, and sprites of their evolution."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..store.distilled import DistilledSet
from ..store.files import whole_file
from ..store.layout import EVOLUTION, PREVIEW, sprite_file
from ..store.pixels import to_8_bits
from .fonts import files, with_most
from .scene import wrapped

_CELL = 112  # least side of an image in a preview, in pixels
_MOST_TOGETHER = 12  # images with the same title that are kept in one row
_FONT, _LINE = 12, 14  # pixels: a title's font size and line spacing


def grid(images: Tensor, titles: list[str] | None = None, *, columns: int = 10, limit: int = 100) -> Image.Image:
    """Images as one picture, small ones enlarged, with their titles.

    If there are more than ``limit``, every title keeps an equal number of its first images, at least one. If all
    titles occur equally often, one after another, no row ends among images of one title.

    Args:
        images: (m, 3, S, S) in [0, 1].
        titles: m names, shown whole: long ones are broken over lines.
        columns: Most images in a row.
        limit: Most images in all.
    """
    from PIL import ImageDraw

    if titles and len(titles) > limit:
        kept = _few_of_each(titles, limit)
        images, titles = images[kept], [titles[i] for i in kept]
    shown = to_8_bits(images[:limit]).permute(0, 2, 3, 1).numpy()
    side = shown.shape[1]
    factor = max(1, -(-_CELL // side))
    cell, gap = side * factor, 4
    columns = min(columns, max(1, int(np.ceil(np.sqrt(len(shown) * 2)))))
    together = {len(list(same)) for _, same in groupby(titles or [])}
    if len(together) == 1 and 1 < (each := together.pop()) <= _MOST_TOGETHER:
        columns = each * max(1, columns // each)
    lines = [wrapped(title, cell, _FONT) for title in titles or []] or [[]] * len(shown)
    rows = [range(start, min(start + columns, len(shown))) for start in range(0, len(shown), columns)]
    bands = [max(len(lines[i]) for i in row) * _LINE + (2 if titles else 0) for row in rows]
    size = (columns * (cell + gap) + gap, sum(cell + band + gap for band in bands) + gap)
    sheet = Image.new("RGB", size, "white")
    pen, fonts = ImageDraw.Draw(sheet), _fonts(titles or [])
    y = gap
    for row, band in zip(rows, bands, strict=True):
        for place, i in enumerate(row):
            x, picture = gap + place * (cell + gap), Image.fromarray(shown[i])
            # Enlarge by whole factors without interpolation, so that small images are not blurred.
            sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST) if factor > 1 else picture, (x, y))
            for number, line in enumerate(lines[i]):
                pen.text((x, y + cell + number * _LINE), line, fill="black", font=fonts[i])
        y += cell + band + gap
    return sheet


def _few_of_each(titles: Sequence[str], limit: int) -> list[int]:
    """Rows of the first images of each title: an equal share of ``limit`` for each, at least one, ``limit`` in all."""
    each = max(1, limit // len(set(titles)))
    seen, kept = Counter[str](), []
    for row, title in enumerate(titles):
        seen[title] += 1
        if seen[title] <= each:
            kept.append(row)
    return kept[:limit]


def _fonts(titles: Sequence[str]) -> list[Any]:
    """Return for each title a font with its letters: Pillow's own font has only English letters."""
    from PIL import ImageFont

    found = files(" ".join(titles)) if not all(map(str.isascii, titles)) else []
    return [
        ImageFont.load_default(_FONT) if title.isascii() else ImageFont.truetype(with_most(title, found), _FONT)
        for title in titles
    ]


def save_preview(folder: Path, distilled: DistilledSet) -> None:
    """Write the images of a set, each with its class, as the preview in the folder of its run."""
    titles = [distilled.class_names[label] for label in distilled.labels.tolist()]
    save_grid(folder / PREVIEW, distilled.images, titles)


def save_grid(path: Path, images: Tensor, titles: list[str] | None = None, **options: int) -> None:
    """Write the `grid` of some images, with its options, as PNG."""
    picture = grid(images, titles, **options)
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")


CELLS_PER_ROW = 10
LIMIT = 100  # images in a sprite
LARGEST_CELL = 112  # largest side of an image in a sprite, in pixels
_QUALITY = 85


def cell_size(image_size: int) -> int:
    """Side in pixels of an image in a sprite."""
    return min(image_size, LARGEST_CELL)


def sprite_cells(count: int, image_size: int) -> list[tuple[int, int]]:
    """Left and top corner in pixels of each image of a sprite: the first `LIMIT` of ``count``.

    >>> sprite_cells(12, 64)[9:]
    [(576, 0), (0, 64), (64, 64)]
    """
    cell = cell_size(image_size)
    return [(i % CELLS_PER_ROW * cell, i // CELLS_PER_ROW * cell) for i in range(min(count, LIMIT))]


def save_sprite(folder: Path, step: int, images: Tensor) -> Path:
    """Write the images (m, 3, S, S) in [0, 1] as they are after ``step`` steps into a run's folder."""
    cell, cells = cell_size(images.shape[-1]), sprite_cells(len(images), images.shape[-1])
    sheet = Image.new("RGB", (max(x for x, _ in cells) + cell, max(y for _, y in cells) + cell))
    pixels = to_8_bits(images[: len(cells)]).permute(0, 2, 3, 1).numpy()
    for image, corner in zip(pixels, cells, strict=True):
        sheet.paste(Image.fromarray(image).resize((cell, cell)), corner)
    path = folder / EVOLUTION / sprite_file(step)
    with whole_file(path) as temporary:
        sheet.save(temporary, format="WEBP", quality=_QUALITY, method=1)  # twice as fast as the default, same file size
    return path


def read_evolution(folder: Path | str) -> list[tuple[int, Path]]:
    """The sprites of a run as (step, file), in order."""
    found = [(re.fullmatch(r"step-(\d+)\.webp", path.name), path) for path in (Path(folder) / EVOLUTION).glob("*.webp")]
    return sorted((int(match[1]), path) for match, path in found if match)


def remove_later(folder: Path, step: int) -> None:
    """Remove the sprites of steps after ``step``: a resumed run makes them again."""
    for later, path in read_evolution(folder):
        if later > step:
            path.unlink()
