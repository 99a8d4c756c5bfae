"""The canvas: parameters ↔ synthetic images in [0, 1].

Three named pieces: levels (a pyramid of resolutions, or plain pixels), colour (a decorrelation matrix), squashing (a
sigmoid). ``S = sigmoid(2 · M Σ_l upsample(P_l))``.

Your own canvas is a class, or a function that returns an object, with arguments (count, size, device) and the
attributes of `AnyCanvas`. In ``mine.py``, grey images::

    class Grey:
        def __init__(self, count, size, device="cpu"):
            self.count, self.size = count, size
            self.levels = [torch.zeros(count, 1, size, size, device=device)]

        def render(self, levels):
            return torch.sigmoid(levels[0]).expand(-1, 3, -1, -1)

        def fill_with_noise(self, std, *, seed, first=0):
            generator = torch.Generator().manual_seed(seed + first)  # on the CPU, so that every device draws the same
            self.levels[0].copy_(std * torch.randn(self.levels[0].shape, generator=generator))

        def fill_with_images(self, images):
            self.levels[0].copy_(images.mean(1, keepdim=True).clamp(0.01, 0.99).logit())

and then ``probedistill distill … --canvas.kind module:mine:Grey``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..seeds import Stream, seed_of

# Square root of the colour covariance of natural images (Olah et al., "Feature Visualization", 2017).
_COLOUR_SQRT = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOUR_MATRIX = _COLOUR_SQRT / _COLOUR_SQRT.norm(dim=0).max()

_RENDERED = 64  # images per pass without a graph: rendering takes several times their memory


class AnyCanvas(Protocol):
    """What the engine needs of a canvas.

    Attributes:
        count: Number of images m.
        size: Side of the images in pixels.
        levels: The parameters, float tensors of shape (m, …) on one device. Adam changes them in place.
    """

    count: int
    size: int
    levels: list[Tensor]

    def render(self, levels: Sequence[Tensor]) -> Tensor:
        """Images (n, 3, size, size) in [0, 1] of n rows of each tensor of parameters; differentiable."""

    def fill_with_noise(self, std: float, *, seed: int, first: int = 0) -> None:
        """Start from noise; ``first`` is the number of this canvas's first image among all images."""

    def fill_with_images(self, images: Tensor) -> None:
        """Start from images (m, 3, size, size) in [0, 1]."""


class Canvas:
    """Parameters of m synthetic images.

    Args:
        count: Number of images m on this canvas.
        size: Side in pixels.
        kind: ``"pyramid"`` or ``"pixels"``.
        colour: ``"decorrelated"``, or ``"none"`` for plain red, green and blue.
        open_levels: Levels that take part from the start; ``None`` for all.
        device: Where the parameters live.
        dtype: Their type.

    Attributes:
        levels: The open levels, each (m, 3, s, s). Level sizes are 1, 2, 4 … and the full size.
    """

    def __init__(
        self,
        count: int,
        size: int,
        kind: str = "pyramid",
        *,
        colour: str = "decorrelated",
        open_levels: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.count, self.size, self.kind = count, size, kind
        self.sizes = pyramid_sizes(size) if kind == "pyramid" else [size]
        self._like = torch.empty(0, device=device, dtype=dtype)
        self._colour = (COLOUR_MATRIX if colour == "decorrelated" else torch.eye(3)).to(self._like)
        self.levels: list[Tensor] = []
        for _ in range(len(self.sizes) if open_levels is None else open_levels):
            self.open_level()

    @property
    def all_open(self) -> bool:
        """Whether every level takes part."""
        return len(self.levels) == len(self.sizes)

    def open_level(self) -> Tensor:
        """Open the next finer level and return it. It starts at zero, so the image stays as it is."""
        if self.all_open:
            raise ValueError(f"all {len(self.sizes)} levels are open already")
        side = self.sizes[len(self.levels)]
        level = self._like.new_zeros(self.count, 3, side, side)
        self.levels.append(level)
        return level

    @torch.no_grad()
    def open_noisy_level(self, *, seed: int, first: int = 0) -> Tensor:
        """Open the next level as LGM's authors do: N(0, 1) / n for n levels, and the old ones scaled by (n − 1) / n.

        Args:
            seed: Seed of the noise; each image and level has its own generator.
            first: Number of this canvas's first image among all images.
        """
        level = self.open_level()
        number = len(self.levels)
        for old in self.levels[:-1]:
            # All levels then have equal shares, as if all had been open from the start.
            old.mul_((number - 1) / number)
        for i in range(self.count):
            generator = torch.Generator().manual_seed(seed_of(seed, Stream.CANVAS_NOISE, first + i, number))
            level[i] = torch.randn(level.shape[1:], generator=generator) / number
        return level

    def render(self, levels: Sequence[Tensor]) -> Tensor:
        """Render images (n, 3, size, size) in (0, 1) from some rows of the levels; differentiable."""
        coarse = [level for level in levels if level.shape[-1] < self.size]
        total = levels[-1] if levels[-1].shape[-1] == self.size else self._like.new_zeros(())
        if coarse:
            # Σ_l U_l P_l U_lᵀ as one product over all levels' columns: much less memory traffic than a sum of images.
            matrices = [_upsampling(level, self.size) for level in coarse]
            stretched = torch.cat([matrix @ level for matrix, level in zip(matrices, coarse, strict=True)], dim=3)
            total = total + stretched @ torch.cat(matrices, dim=1).T
        return torch.sigmoid(2 * torch.einsum("rc,nchw->nrhw", self._colour, total))

    def images(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Images ``start`` to ``stop``, without a graph."""
        return rendered(self, start, stop)

    @torch.no_grad()
    def fill_with_noise(self, std: float, *, seed: int, first: int = 0) -> None:
        """Set the open levels to noise of ``std`` / number of open levels each.

        Image i (counted from ``first``, over all processes) has its own generator, so that any
        split of the images over processes starts from the same noise.
        """
        for i in range(self.count):
            generator = torch.Generator().manual_seed(seed_of(seed, Stream.CANVAS_NOISE, first + i))
            for level in self.levels:
                level[i] = torch.randn(level.shape[1:], generator=generator) * (std / len(self.levels))

    @torch.no_grad()
    def fill_with_images(self, images: Tensor) -> None:
        """Encode images (m, 3, size, size) in [0, 1]: exactly if all levels are open, otherwise approximately.

        Coarse levels store what they can represent, finer ones the remainder (a Laplacian pyramid).
        """
        images = images.to(self._like).clamp(0.01, 0.99)
        rest = torch.einsum("rc,nchw->nrhw", torch.linalg.inv(self._colour), torch.logit(images) / 2)
        for level in self.levels:
            level.copy_(F.adaptive_avg_pool2d(rest, level.shape[-1]))
            rest = rest - _upsample(level, self.size)


@torch.no_grad()
def rendered(canvas: AnyCanvas, start: int = 0, stop: int | None = None) -> Tensor:
    """Images ``start`` to ``stop`` of a canvas, (n, 3, size, size), without a graph."""
    rows = range(canvas.count)[start:stop]
    images = canvas.levels[0].new_empty(len(rows), 3, canvas.size, canvas.size)
    for part, first in zip(images.split(_RENDERED), rows[::_RENDERED], strict=True):
        part.copy_(canvas.render([level[first : first + len(part)] for level in canvas.levels]))
    return images


def pyramid_sizes(size: int) -> list[int]:
    """Sides of the levels: the powers of two below ``size``, then ``size``.

    >>> pyramid_sizes(112)
    [1, 2, 4, 8, 16, 32, 64, 112]
    """
    if size < 1:
        raise UserError(f"canvas size {size} must be at least 1 pixel")
    return [2**k for k in range(size.bit_length()) if 2**k < size] + [size]


def _upsample(level: Tensor, size: int) -> Tensor:
    """Bilinear (n, 3, s, s) → (n, 3, size, size) as two matrix products."""
    matrix = _upsampling(level, size)
    return matrix @ level @ matrix.T


def _upsampling(level: Tensor, size: int) -> Tensor:
    """Matrix (size, s) of bilinear interpolation for a level (n, 3, s, s)."""
    eye = torch.eye(level.shape[-1], dtype=level.dtype, device=level.device)
    return F.interpolate(eye[None], size=size, mode="linear", align_corners=False)[0].T
