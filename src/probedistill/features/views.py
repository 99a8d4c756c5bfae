"""Augmented views: random resized crop, flip and noise, drawn once per step and replayable.

Parameters are drawn on the CPU and depend only on ``(seed, step)``, so that a resumed run, another device, another
micro-batch size or another number of processes sees the same views. A crop with its resize (and flip) is one pair of
interpolation matrices, ``rows @ image @ columns.T``: batched over views, differentiable, and deterministic on every
device (the backward pass of ``grid_sample`` is not, on CUDA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import AugmentConfig

_TRIES = 10  # attempts of torchvision's RandomResizedCrop before it falls back to a centre crop


@dataclass(frozen=True)
class Views:
    """Parameters of n views; slicing gives the parameters of some of them.

    Attributes:
        boxes: (n, 4) float64: left, top, width, height as shares of the image's width and height.
        flips: (n,) bool.
        noise_seeds: (n,) int64; -1 for a view without noise.
        noise_std: Standard deviation of the noise.
        noise_mean: Mean of the noise.
        antialias: Whether the interpolation averages over pixels when it shrinks.
        zeros: Whether there is black beyond the image's edge, instead of its outermost pixels.
    """

    boxes: Tensor
    flips: Tensor
    noise_seeds: Tensor
    noise_std: float = 0.0
    noise_mean: float = 0.0
    antialias: bool = True
    zeros: bool = False

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: slice) -> Views:
        per_view = {name: getattr(self, name)[index] for name in ("boxes", "flips", "noise_seeds")}
        return replace(self, **per_view)


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
    if config.kind == "none":
        whole = whole_views(count, aspect=aspect)
        return replace(whole, antialias=config.antialias, zeros=config.pad == "zeros")
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    # Draw all tries of all views at once: later draws must not depend on how many tries are needed.
    smallest, largest = config.shares
    area = smallest + (largest - smallest) * uniform(count, _TRIES)
    low, high = np.log(config.ratio[0]), np.log(config.ratio[1])
    ratio = torch.exp(low + (high - low) * uniform(count, _TRIES))
    width = torch.sqrt(area * ratio / aspect)  # shares of the image's width and height
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
    noisy = (uniform(count) < config.noise_prob) & (config.noise_std > 0 or config.noise_mean != 0)
    noise_seeds = torch.randint(2**62, (count,), generator=generator)
    return Views(
        boxes=torch.stack([left, top, width, height], dim=1),
        flips=flips,
        noise_seeds=torch.where(noisy, noise_seeds, torch.tensor(-1)),
        noise_std=config.noise_std,
        noise_mean=config.noise_mean,
        antialias=config.antialias,
        zeros=config.pad == "zeros",
    )


def whole_views(count: int, *, aspect: float = 1.0) -> Views:
    """Views that change nothing: the largest centred square, which is a square image's whole."""
    width, height = min(1.0, 1 / aspect), min(1.0, aspect)
    box = torch.tensor([(1 - width) / 2, (1 - height) / 2, width, height], dtype=torch.float64)
    return Views(box.repeat(count, 1), torch.zeros(count, dtype=torch.bool), torch.full((count,), -1))


def apply_views(images: Tensor, views: Views, size: int) -> Tensor:
    """Cut, flip, resize and add noise: differentiable with respect to the images.

    Args:
        images: (n, 3, H, W) in [0, 1], one image per view.
        views: Parameters of n views.
        size: Side of the square result in pixels.

    Returns:
        (n, 3, size, size), dtype and device of ``images``. Noise may leave [0, 1], as in the authors' code.
    """
    if len(images) != len(views):
        raise ValueError(f"{len(images)} images for {len(views)} views")
    height, width = images.shape[-2:]
    left, top, share_x, share_y = views.boxes.unbind(1)
    exact = torch.promote_types(images.dtype, torch.float32)
    matrices = partial(_interpolation, size=size, views=views, dtype=exact, device=images.device)
    columns = matrices(left * width, share_x * width, width, flip=True).to(images)
    rows = matrices(top * height, share_y * height, height, flip=False).to(images)
    result = rows[:, None] @ images @ columns[:, None].mT
    noise = _noise(views, result.shape[1:])
    return result if noise is None else result + noise.to(result)


def _interpolation(
    start: Tensor,
    length: Tensor,
    source: int,
    *,
    flip: bool,
    size: int,
    views: Views,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Matrices (n, size, source) of bilinear resampling of [start, start + length) to ``size`` pixels.

    With anti-aliasing, the triangle filter widens with the step between two samples, as in Pillow. Without, it is
    always two pixels wide, as in ``grid_sample``.
    """
    step = length / size
    centres = start[:, None] + (torch.arange(size, dtype=start.dtype) + 0.5) * step[:, None]
    if flip:
        centres = torch.where(views.flips[:, None], centres.flip(1), centres)
    width = step.clamp(min=1.0) if views.antialias else torch.ones_like(step)
    # With zero padding, weights beyond the edge count in the normalisation, and are then cut off.
    beyond = math.ceil(float(width.max())) if views.zeros else 0
    # The exact centres (float64, on the CPU) are copied to the device. The matrices, a hundred times as large, are made
    # there, and in place, because they are as large as the views themselves.
    per_pixel = (1 / width).to(device, dtype)[:, None, None]
    pixels = torch.arange(-beyond, source + beyond, dtype=dtype, device=device) + 0.5
    distance = (pixels - centres.to(device, dtype)[:, :, None]).abs_()
    weights = distance.mul_(-per_pixel).add_(1).clamp_(min=0)
    weights = weights.div_(weights.sum(dim=2, keepdim=True))
    return weights[:, :, beyond : beyond + source] if beyond else weights


def _noise(views: Views, shape: torch.Size) -> Tensor | None:
    """(n, 3, size, size) noise, or ``None``. Each view has its own seed, so any slice replays the same noise."""
    chosen = [(i, int(seed)) for i, seed in enumerate(views.noise_seeds.tolist()) if seed >= 0]
    if not chosen:
        return None
    noise = torch.zeros(len(views), *shape)
    generator = torch.Generator()
    for i, seed in chosen:
        noise[i].normal_(views.noise_mean, views.noise_std, generator=generator.manual_seed(seed))
    return noise


def random_squares(image: Image.Image, side: int, count: int, *, seed: int) -> Tensor:
    """Random squares of a real image whose short side is ``side`` pixels long.

    Args:
        image: RGB, any size; resized bilinearly.
        side: Side of the squares in pixels.
        count: Number of squares n.
        seed: Seed of their places.

    Returns:
        (n, 3, side, side) float32 in [0, 1].
    """
    scale = side / min(image.size)
    width, height = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    resized = np.array(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    pixels = torch.from_numpy(resized).permute(2, 0, 1)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(width - side + 1, (count,), generator=generator).tolist()
    top = torch.randint(height - side + 1, (count,), generator=generator).tolist()
    return torch.stack([pixels[:, y : y + side, x : x + side] for x, y in zip(left, top, strict=True)])
