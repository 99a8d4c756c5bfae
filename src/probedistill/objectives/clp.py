"""Closed-Form Linear-Probe distillation (CLP-DD, arXiv 2605.07194)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from ..seeds import Stream, seed_of
from .formulas import closed_form_head, clp_loss, row_blocks, rows_of_a_block
from .real import Objective, RealFeatures


def summed_clp_loss(
    blocks: Iterable[tuple[Tensor, Tensor]], total: int, head: Tensor, loss: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Mean over ``total`` samples of ``loss(head, features, labels)``, block by block, with its gradient.

    A graph over all blocks would keep all of them in memory. So each block's gradient with respect to the head is
    computed immediately, and the result is a value whose gradient is their sum.
    """
    leaf = head.detach().requires_grad_(torch.is_grad_enabled() and head.requires_grad)
    value, gradient = torch.zeros_like(head[0, 0]).detach(), torch.zeros_like(leaf)
    for features, labels in blocks:
        part = loss(leaf, features, labels) * (len(labels) / total)
        if leaf.requires_grad:
            gradient = gradient + torch.autograd.grad(part, leaf)[0]
        value = value + part.detach()
    return value + (gradient.detach() * (head - head.detach())).sum()


def clp_objective(
    real: RealFeatures,
    *,
    ridge: float,
    temperature: float,
    outer: Literal["ce", "mse"] = "ce",
    normalize_head: bool = True,
    real_per_class: int = 0,
    mean: float = 0.0,
    seed: int = 0,
) -> Objective:
    """Make the ridge probe of the synthetic features right on the real ones: CE(Φ W(Z) / τ, y).

    The real mean is taken from both sides, but a probe takes the mean of the features that it is fitted on, the
    synthetic ones. ``mean`` is the weight of a penalty on their distance, ‖mean(Z) − μ‖² / s², where s² is the mean
    squared distance of a real feature from μ. The penalty is ours, not the paper's.

    Args:
        real: The fixed real features, normalised.
        ridge: λ as a multiple of the mean diagonal of the kernel Z Zᵀ.
        temperature: τ.
        outer: ``"ce"``, or ``"mse"`` against one-hot targets.
        normalize_head: Scale each class's column of the head to unit length.
        real_per_class: Real features per class drawn for a step, with replacement; 0: all of them, as they are.
        mean: Weight of the penalty on the mean.
        seed: Seed of the batches.
    """
    of_class = real.labels.argsort(stable=True).cpu().split(real.counts.tolist())

    def loss(head: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return clp_loss(head, x, y, temperature=temperature, outer=outer, normalize_head=normalize_head)

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        shift = (features.mean(dim=0) - real.mean).square().sum() / real.spread if mean else 0.0
        return outer_loss(features, labels, step) + mean * shift

    def outer_loss(features: Tensor, labels: Tensor, step: int) -> Tensor:
        z = real.normalize(features)
        # λ scales with the size of the features, so that one value suits every encoder. Within a step it is a constant,
        # as in the paper; without detach, the gradient would also change λ.
        scale = ridge * z.detach().square().sum(dim=1).mean()
        head = closed_form_head(z, labels, scale, num_classes=real.num_classes)
        if real_per_class > 0:
            # The same number for every class: otherwise a large class would dominate the loss.
            generator = torch.Generator().manual_seed(seed_of(seed, Stream.OBJECTIVE, step))
            rows = torch.cat([c[torch.randint(len(c), (real_per_class,), generator=generator)] for c in of_class])
            parts = rows.split(rows_of_a_block(real.num_classes))
            blocks = ((real.take(part), real.labels[part.to(real.device)]) for part in parts)
            return loss(head, *next(blocks)) if len(parts) == 1 else summed_clp_loss(blocks, len(rows), head, loss)
        small = (part for block in real.blocks() for part in row_blocks(*block, num_classes=real.num_classes))
        return summed_clp_loss(small, len(real.labels), head, loss)

    return objective
