"""Linear Gradient Matching (LGM, arXiv 2511.16674)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..seeds import Stream, seed_of
from .formulas import head_gradient, lgm_loss, sample_weights
from .real import Objective, RealFeatures


def summed_head_gradient(
    blocks: Iterable[tuple[Tensor, Tensor]], counts: Tensor, weight: Tensor, *, balanced: bool = False
) -> Tensor:
    """`head_gradient` of all blocks in one pass, (C, d + 1), in ``weight``'s dtype.

    Args:
        blocks: Features (n, d) and labels (n,).
        counts: (C,) number of features of each class in all blocks.
        weight: (C, d).
        balanced: As for `head_gradient`.
    """
    weights = sample_weights(counts.to(weight), balanced=balanced)
    exact = torch.float32 if weight.device.type == "mps" else torch.float64
    total = torch.zeros(len(weight), weight.shape[1] + 1, dtype=exact, device=weight.device)
    for features, labels in blocks:
        total += head_gradient(features, labels, weight, weights=weights)
    return total.to(weight.dtype)


def lgm_objective(real: RealFeatures, *, sigma: float, balanced: bool, real_batch: int = 0, seed: int = 0) -> Objective:
    """Linear Gradient Matching against fixed real features; a new random head each step."""

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(seed, Stream.OBJECTIVE, step))
        shape = (real.num_classes, real.dim)
        weight = (torch.randn(shape, generator=generator) * sigma).to(real.device, real.dtype)
        if 0 < real_batch < len(real.labels):
            rows = torch.randperm(len(real.labels), generator=generator)[:real_batch]
            target = head_gradient(real.take(rows), real.labels[rows.to(real.device)], weight, balanced=balanced)
        else:
            target = summed_head_gradient(real.blocks(), real.counts, weight, balanced=balanced)
        return lgm_loss(head_gradient(real.normalize(features), labels, weight), target)

    return objective
