"""An objective that is also applied to an encoder's inner layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .real import Objective


def with_inner_layers(own: Objective, dim: int, inner: Sequence[tuple[int, Objective]], weight: float) -> Objective:
    """Add ``weight`` times the mean objective of an encoder's inner layers to the objective of its final features.

    Patterns that only this encoder sees can satisfy a loss on the last layer alone. Earlier layers are more similar to
    those of other encoders, and closer to the pixels.

    Args:
        own: Objective of the features (n, d).
        dim: d.
        inner: Width and objective of each layer whose features follow.
        weight: Weight of the layers together.

    Returns:
        The objective of features (n, d + the widths' sum).
    """
    widths = [dim, *(width for width, _ in inner)]

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        first, *layers = features.split(widths, dim=1)
        of_layers = [of_layer(part, labels, step) for part, (_, of_layer) in zip(layers, inner, strict=True)]
        return own(first, labels, step) + weight * torch.stack(of_layers).mean()

    return objective
