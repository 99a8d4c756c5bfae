"""Images in [0, 1] ↔ 8-bit pixels and their files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..images.decode import decode_image


def png_files(images: Tensor) -> Iterator[bytes]:
    """The 8-bit images (m, 3, S, S) as PNG files."""
    for pixels in to_8_bits(images).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG", optimize=True)
        yield file.getvalue()


def decode_files(files: Iterable[bytes], size: int) -> Tensor:
    """Image files → (m, 3, size, size) float32 in [0, 1].

    Raises:
        ValueError: A file is no image, or not of that size.
    """
    images = []
    for data in files:
        image = decode_image(data)
        if image.size != (size, size):
            raise ValueError(f"an image of {image.width} × {image.height} pixels where {size} × {size} were written")
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(images).float() / 255


def as_shipped(images: Tensor) -> Tensor:
    """Images in [0, 1] as their 8-bit files give them back, float32 on the CPU."""
    return to_8_bits(images).float() / 255


def to_8_bits(images: Tensor) -> Tensor:
    """Images in [0, 1] → uint8, rounded to the nearest value, on the CPU."""
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
