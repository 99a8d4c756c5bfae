"""Augmented views: random resized crop, flip and noise, drawn once per step and replayable.

Parameters are drawn on the CPU from ``(seed, step)`` alone, so that a resumed run, another device,
another micro-batch size or another number of processes sees the same views. A crop with its resize
(and flip) is one pair of interpolation matrices, ``rows @ image @ columns.T``: batched over views,
differentiable, anti-aliased when it shrinks, and deterministic on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import AugmentConfig

_TRIES = 10  # of torchvision's RandomResizedCrop, before it falls back to a centre crop


@dataclass(frozen=True)
class Views:
    """Parameters of n views; slicing gives the parameters of some of them.

    Attributes:
        boxes: (n, 4) float64: left, top, width, height as shares of the image's width and height.
        flips: (n,) bool.
        noise_seeds: (n,) int64; -1 where a view gets no noise.
        noise_std: Standard deviation of the noise.
    """

    boxes: Tensor
    flips: Tensor
    noise_seeds: Tensor
    noise_std: float = 0.0

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: slice) -> Views:
        return Views(self.boxes[index], self.flips[index], self.noise_seeds[index], self.noise_std)


def draw_views(config: AugmentConfig, count: int, *, seed: int, aspect: float = 1.0) -> Views:
    """Draw the parameters of ``count`` views.

    Crops follow torchvision's RandomResizedCrop: area share uniform in ``scale``, log aspect ratio
    uniform in ``ratio``, ten tries, then the largest centred crop.

    Args:
        config: Ranges and probabilities.
        count: Number of views n.
        seed: The same seed gives the same views.
        aspect: Width / height of the images that will be cropped.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    area = config.scale[0] + (config.scale[1] - config.scale[0]) * uniform(count, _TRIES)
    low, high = np.log(config.ratio[0]), np.log(config.ratio[1])
    ratio = torch.exp(low + (high - low) * uniform(count, _TRIES))
    width = torch.sqrt(area * ratio / aspect)  # as shares of the image's own width and height
    height = torch.sqrt(area / ratio * aspect)
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(dim=1, keepdim=True)
    width = width.gather(1, first).squeeze(1)
    height = height.gather(1, first).squeeze(1)
    left, top = uniform(count) * (1 - width), uniform(count) * (1 - height)
    fallback = ~fits.any(dim=1)
    if fallback.any():
        nearest = min(max(aspect, config.ratio[0]), config.ratio[1])
        width = torch.where(fallback, min(1.0, nearest / aspect), width)
        height = torch.where(fallback, min(1.0, aspect / nearest), height)
        left = torch.where(fallback, (1 - width) / 2, left)
        top = torch.where(fallback, (1 - height) / 2, top)
    flips = uniform(count) < config.flip
    noisy = (uniform(count) < (config.noise_prob or 0.0)) & (config.noise_std > 0)
    noise_seeds = torch.randint(2**62, (count,), generator=generator)
    return Views(
        boxes=torch.stack([left, top, width, height], dim=1),
        flips=flips,
        noise_seeds=torch.where(noisy, noise_seeds, torch.tensor(-1)),
        noise_std=config.noise_std,
    )


def apply_views(images: Tensor, views: Views, size: int) -> Tensor:
    """Cut, flip, resize and add noise: differentiable with respect to the images.

    Args:
        images: (n, 3, H, W) in [0, 1], one image per view.
        views: Parameters of n views.
        size: Side of the square result in pixels.

    Returns:
        (n, 3, size, size), same dtype and device. Noise may leave [0, 1], as in the authors' code.
    """
    if len(images) != len(views):
        raise ValueError(f"{len(images)} images for {len(views)} views")
    height, width = images.shape[-2:]
    left, top, share_x, share_y = views.boxes.unbind(1)
    exact = torch.promote_types(images.dtype, torch.float32)
    columns = _interpolation(left * width, share_x * width, width, size, views.flips, exact, images.device).to(images)
    rows = _interpolation(top * height, share_y * height, height, size, None, exact, images.device).to(images)
    result = rows[:, None] @ images @ columns[:, None].mT
    noise = _noise(views, result.shape[1:])
    return result if noise is None else result + noise.to(result)


def _interpolation(
    start: Tensor,
    length: Tensor,
    source: int,
    size: int,
    flips: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Matrices (n, size, source) of bilinear resampling of [start, start + length) to ``size`` pixels.

    Where it shrinks, the triangle filter widens with the factor (anti-aliasing, as Pillow does). The centres are exact
    (float64, on the CPU) and travel; the matrices, a hundred times as large, are made where they are used.
    """
    step = length / size
    centres = start[:, None] + (torch.arange(size, dtype=start.dtype) + 0.5) * step[:, None]
    if flips is not None:
        centres = torch.where(flips[:, None], centres.flip(1), centres)
    per_pixel = (1 / step.clamp(min=1.0)).to(device, dtype)[:, None, None]
    pixels = torch.arange(source, dtype=dtype, device=device) + 0.5
    distance = (pixels - centres.to(device, dtype)[:, :, None]).abs_()
    weights = distance.mul_(-per_pixel).add_(1).clamp_(min=0)  # in place: these matrices are as large as the views
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _noise(views: Views, shape: torch.Size) -> Tensor | None:
    """(n, 3, size, size) noise, each view's from its own seed, so that any slice replays alike."""
    chosen = [(i, int(seed)) for i, seed in enumerate(views.noise_seeds.tolist()) if seed >= 0]
    if not chosen:
        return None
    noise = torch.zeros(len(views), *shape)
    generator = torch.Generator()
    for i, seed in chosen:
        noise[i].normal_(0.0, views.noise_std, generator=generator.manual_seed(seed))
    return noise
