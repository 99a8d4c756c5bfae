"""The canvas: parameters ↔ synthetic images in [0, 1].

Three named pieces: levels (a pyramid of resolutions, or plain pixels), colour (a decorrelation
matrix), squashing (a sigmoid). ``S = sigmoid(2 · M Σ_l upsample(P_l))``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..seeds import Stream, seed_of

# Square root of the colour covariance of natural images (Olah et al., "Feature Visualization", 2017).
_COLOUR_SQRT = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOUR_MATRIX = _COLOUR_SQRT / _COLOUR_SQRT.norm(dim=0).max()

_RENDERED = 64  # images at a time where there is no graph: rendering takes several times their memory


class Canvas:
    """Parameters of m synthetic images.

    Args:
        count: Number of images m on this canvas.
        size: Side in pixels.
        kind: ``"pyramid"`` or ``"pixels"``.
        open_levels: Levels that take part from the start; ``None`` for all.
        device: Where the parameters live. They are float32 unless ``dtype`` says otherwise.

    Attributes:
        levels: The open levels, each (m, 3, s, s). Level sizes are 1, 2, 4 … and the full size.
    """

    def __init__(
        self,
        count: int,
        size: int,
        kind: str = "pyramid",
        *,
        open_levels: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.count, self.size, self.kind = count, size, kind
        self.sizes = pyramid_sizes(size) if kind == "pyramid" else [size]
        self._like = torch.empty(0, device=device, dtype=dtype)
        self._colour = COLOUR_MATRIX.to(self._like) if kind == "pyramid" else torch.eye(3).to(self._like)
        self.levels: list[Tensor] = []
        for _ in range(len(self.sizes) if open_levels is None else open_levels):
            self.open_level()

    @property
    def all_open(self) -> bool:
        """Whether every level takes part."""
        return len(self.levels) == len(self.sizes)

    def open_level(self) -> Tensor:
        """Open the next finer level and return it.

        It starts at zero. Levels are summed, so the image is continuous without rescaling the old
        ones (the authors' code takes the mean of the levels and has to rescale them).
        """
        if self.all_open:
            raise ValueError(f"all {len(self.sizes)} levels are open already")
        side = self.sizes[len(self.levels)]
        level = self._like.new_zeros(self.count, 3, side, side)
        self.levels.append(level)
        return level

    def render(self, levels: Sequence[Tensor]) -> Tensor:
        """Images (n, 3, size, size) in (0, 1) of some rows of the levels; differentiable."""
        coarse = [level for level in levels if level.shape[-1] < self.size]
        total = levels[-1] if levels[-1].shape[-1] == self.size else self._like.new_zeros(())
        if coarse:
            # Σ_l U_l P_l U_lᵀ as one product over all levels' columns: far less memory traffic than a sum of images.
            matrices = [_upsampling(level, self.size) for level in coarse]
            stretched = torch.cat([matrix @ level for matrix, level in zip(matrices, coarse, strict=True)], dim=3)
            total = total + stretched @ torch.cat(matrices, dim=1).T
        return torch.sigmoid(2 * torch.einsum("rc,nchw->nrhw", self._colour, total))

    @torch.no_grad()
    def images(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Images ``start`` to ``stop``, without a graph."""
        rows = range(self.count)[start:stop]
        images = self._like.new_empty(len(rows), 3, self.size, self.size)
        for part, first in zip(images.split(_RENDERED), rows[::_RENDERED], strict=True):
            part.copy_(self.render([level[first : first + len(part)] for level in self.levels]))
        return images

    @torch.no_grad()
    def fill_with_noise(self, std: float, *, seed: int, first: int = 0) -> None:
        """Set the open levels to noise of ``std`` / number of open levels each.

        Image i (counted from ``first`` on, over all processes) has a generator of its own, so that
        any split of the images over processes starts from the same noise.
        """
        for i in range(self.count):
            generator = torch.Generator().manual_seed(seed_of(seed, Stream.CANVAS_NOISE, first + i))
            for level in self.levels:
                level[i] = torch.randn(level.shape[1:], generator=generator) * (std / len(self.levels))

    @torch.no_grad()
    def fill_with_images(self, images: Tensor) -> None:
        """Encode images (m, 3, size, size) in [0, 1]: exact once all levels are open, else as far as they go.

        Coarse levels take what they can show, finer ones the rest (a Laplacian pyramid).
        """
        images = images.to(self._like).clamp(0.01, 0.99)
        rest = torch.einsum("rc,nchw->nrhw", torch.linalg.inv(self._colour), torch.logit(images) / 2)
        for level in self.levels:
            level.copy_(F.adaptive_avg_pool2d(rest, level.shape[-1]))
            rest = rest - _upsample(level, self.size)


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
