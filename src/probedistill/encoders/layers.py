"""The inner layers of an encoder, which a loss can use in addition to the features.

A layer's features are the mean and the standard deviation of each of its channels over the image. The model itself
provides its layers: every timm model has ``forward_intermediates``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

_FLOOR = 1e-5  # added to variances: at 0 the square root has no finite gradient


@torch.no_grad()
def inner_layers(model: nn.Module, count: int, example: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The last ``count`` stages of a model, evenly spaced.

    Args:
        model: The model of an encoder.
        count: How many layers are wanted; a shallow model may have fewer.
        example: Normalised images (n, 3, S, S).

    Returns:
        The layers' numbers, and the number of features of each; both empty if the model does not provide its layers.
    """
    stages = len(getattr(model, "feature_info", None) or ())
    apart = max(1, stages // 5)
    layers = tuple(range(stages - 1, -1, -apart)[:count])[::-1]
    with suppress(Exception):  # some models list stages that they cannot return
        parts = features_with_layers(model, example, layers)
        if layers and torch.allclose(parts[0], model(example), rtol=1e-3, atol=1e-4):
            return layers, tuple(part.shape[1] for part in parts[1:])
    return (), ()


def features_with_layers(model: nn.Module, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """The features (n, d) of normalised images, then those (n, 2 · channels) of each layer, from one pass."""
    last, inner = model.forward_intermediates(images, indices=list(layers), output_fmt="NCHW")  # type: ignore[operator]
    return [model.forward_head(last), *(_pooled(maps) for maps in inner)]  # type: ignore[operator]


def _pooled(maps: Tensor) -> Tensor:
    """Mean and standard deviation (n, 2c) of maps (n, c, h, w) over the image."""
    variance, mean = torch.var_mean(maps.float() if maps.dtype != torch.float64 else maps, dim=(2, 3), correction=0)
    return torch.cat([mean, (variance + _FLOOR).sqrt()], dim=1)
