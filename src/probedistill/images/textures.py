"""``textures:procedural``: pictures of noise, stripes and so on, made in memory; synthetic backgrounds for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import ImagesConfig
from ..methods import check_name
from ..seeds import Stream, seed_of
from .labelled import LabelledImages, digest_of
from .sources import WHOLE, Source, described

_VERSION = 1  # of the formulae below, as part of the fingerprint: they define the images
_SIDE, _PER_KIND = 96, 240


@described("textures:procedural")
def textures_source(place: str, config: ImagesConfig) -> Source:
    """The textures; they have no splits."""
    check_name("textures", place, ["procedural"])

    def read() -> LabelledImages:
        labels = np.repeat(np.arange(len(_KINDS)), _PER_KIND)
        return LabelledImages(
            class_names=list(_KINDS),
            labels=labels,
            names=[f"{kind}/{i:04d}" for kind in _KINDS for i in range(_PER_KIND)],
            load=_Painter(),
            spec=config.images,
            split=WHOLE,
            fingerprint=digest_of("textures", str(_VERSION), str(_SIDE), str(_PER_KIND), *_KINDS),
        )

    return Source(config.images, {WHOLE: read})


@dataclass
class _Painter:
    def __call__(self, index: int) -> Image.Image:
        kind, number = divmod(index, _PER_KIND)
        rng = np.random.default_rng(seed_of(0, Stream.TEXTURE, kind, number))
        pattern = list(_KINDS.values())[kind](rng)[..., None]
        low, high = rng.uniform(10, 80, 3), rng.uniform(60, 170, 3)  # any hue, but darker than a white digit
        return Image.fromarray((low + (high - low) * pattern).round().astype(np.uint8))


def _stripes(rng: np.random.Generator) -> NDArray[np.float64]:
    angle, wavelength, phase = rng.uniform(0, np.pi), rng.uniform(6, 14), rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    return 0.5 + 0.5 * np.sin(2 * np.pi / wavelength * (rows * np.cos(angle) + columns * np.sin(angle)) + phase)


def _spots(rng: np.random.Generator) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-4 * _smooth_noise(rng, rng.uniform(3, 6))))


def _bricks(rng: np.random.Generator) -> NDArray[np.float64]:
    height, joint = int(rng.integers(10, 17)), 2
    width = 2 * height
    rows, columns = np.mgrid[:_SIDE, :_SIDE] + rng.integers(0, width, 2)[:, None, None]
    course = rows // height
    columns = columns + course % 2 * height
    shade = rng.uniform(0.6, 1.0, (course.max() + 1, columns.max() // width + 1))
    wall = shade[course, columns // width]
    return np.where((rows % height < joint) | (columns % width < joint), 0.0, wall)


def _grain(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.clip(0.5 + 0.2 * _smooth_noise(rng, 0.5), 0, 1)


def _smooth_noise(rng: np.random.Generator, sigma: float) -> NDArray[np.float64]:
    """White noise blurred by a Gaussian of ``sigma`` pixels that wraps around; mean 0, variance 1."""
    frequency = np.fft.fftfreq(_SIDE)
    blur = np.exp(-2 * (np.pi * sigma) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(_SIDE, _SIDE))) * blur).real
    return (noise - noise.mean()) / noise.std()


_KINDS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "stripes": _stripes,
    "spots": _spots,
    "bricks": _bricks,
    "grain": _grain,
}
