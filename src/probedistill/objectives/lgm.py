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


def lgm_objective(
    real: RealFeatures,
    *,
    sigma: float,
    balanced: bool = False,
    real_batch: int = 0,
    fresh: bool = False,
    seed: int = 0,
) -> Objective:
    """Match the gradient of a random linear head, a new one each step: 1 − cos(vec G(Φ, y; W), vec G(Z, t; W)).

    Args:
        real: The fixed real features, normalised.
        sigma: Standard deviation of the head W (C, d); its bias is 0.
        balanced: Give every real class the same weight.
        real_batch: Real features drawn for a step; 0: all of them; -1: as many as synthetic features.
        fresh: Encode fresh crops of that real batch at every step.
        seed: Seed of heads and batches.
    """

    def target(weight: Tensor, count: int, step: int, generator: torch.Generator) -> Tensor:
        """The real gradient (C, d + 1) at a head."""
        if fresh:
            return head_gradient(*real.fresh_batch(step, count), weight, balanced=balanced)
        if 0 < count < len(real.labels):
            rows = torch.randperm(len(real.labels), generator=generator)[:count]
            return head_gradient(real.take(rows), real.labels[rows.to(real.device)], weight, balanced=balanced)
        return summed_head_gradient(real.blocks(), real.counts, weight, balanced=balanced)

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        # Drawn on the CPU from (seed, step), so that every device and process has the same head.
        generator = torch.Generator().manual_seed(seed_of(seed, Stream.OBJECTIVE, step))
        shape = (real.num_classes, real.dim)
        weight = (torch.randn(shape, generator=generator) * sigma).to(real.device, real.dtype)
        count = len(labels) if real_batch < 0 else real_batch
        # Synthetic classes all have the same number of images, so there is nothing to balance.
        synthetic = head_gradient(real.normalize(features), labels, weight)
        return lgm_loss(synthetic, target(weight, count, step, generator))

    return objective
