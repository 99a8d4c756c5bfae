"""Images in [0, 1] ↔ 8-bit pixels and their files."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..images.decode import decode_image
from ..text import printable


def png_files(images: Tensor) -> Iterator[bytes]:
    """The 8-bit images (m, 3, S, S) as PNG files."""
    for pixels in to_8_bits(images).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG", optimize=True)
        yield file.getvalue()


_MOST_SHOWN = 60  # images in a gallery: a notebook stores what it shows


def gallery_html(images: Tensor, titles: Sequence[str]) -> str:
    """Images with their names as HTML for a notebook.

    Args:
        images: (m, 3, S, S) in [0, 1].
        titles: m names.
    """
    cards = [
        '<figure style="margin:0;width:112px"><img width="112" alt="" style="image-rendering:pixelated" '
        f'src="data:image/png;base64,{base64.b64encode(file).decode()}"><figcaption style="overflow-wrap:anywhere">'
        f"{html.escape(printable(title))}</figcaption></figure>"
        for file, title in zip(png_files(images[:_MOST_SHOWN]), titles)
    ]
    rest = f"<p>and {len(images) - _MOST_SHOWN:,} more</p>" if len(images) > _MOST_SHOWN else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px;font-size:12px">{"".join(cards)}</div>{rest}'


def decode_files(files: Iterable[bytes], size: int) -> Tensor:
    """Image files → (m, 3, size, size) float32 in [0, 1].

    Raises:
        ValueError: A file is not an image, or not of that size.
    """
    images = []
    for data in files:
        image = decode_image(data)
        if image.size != (size, size):
            raise ValueError(f"an image of {image.width} × {image.height} pixels instead of {size} × {size}")
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(images).float() / 255


def as_shipped(images: Tensor) -> Tensor:
    """Images in [0, 1] as their 8-bit files give them back, float32 on the CPU."""
    return to_8_bits(images).float() / 255


def to_8_bits(images: Tensor) -> Tensor:
    """Images in [0, 1] → uint8, rounded to the nearest value, on the CPU."""
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
