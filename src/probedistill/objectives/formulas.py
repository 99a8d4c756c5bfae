"""What synthetic features should do: LGM, CLP-DD and SFM as pure functions of features.

Nothing here sees an image, a view, a micro-batch or a process. An objective is called with all
synthetic features of a step and returns a scalar; the engine turns its feature gradient into an
image gradient. Symbols: Z (n, d) synthetic features with labels t (n,), Φ (N, d) real features
with labels y (N,), C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..features.classes import class_sums

_LOGITS = 2**24  # in a block of rows: at most 64 MB


def flows_of_sums(sums: Tensor, counts: Tensor, *, others: Literal["samples", "centres"] = "samples") -> Tensor:
    """Class flows (C, d) from `class_sums`.

    Args:
        sums: (C, d).
        counts: (C, 1).
        others: The end of a flow: the mean of all other samples, or the mean of the other classes' centres. They are
            equal if all classes have the same number of samples.
    """
    if others == "centres":
        # Each class counts once: the same formula, with one sample per class, its centre.
        sums, counts = sums / counts, torch.ones_like(counts)
    return (sums.sum(dim=0) - sums) / (counts.sum() - counts) - sums / counts


def class_flows(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Flow of each class, from its centre to that of all other samples, (C, d) (SFM, arXiv 2602.05391).

    F_c = mean(features | y ≠ c) − mean(features | y = c).
    """
    return flows_of_sums(*class_sums(features, labels, num_classes))


def sample_weights(counts: Tensor, *, balanced: bool) -> Tensor:
    """Weight (C,) of one sample of each class in a mean over samples, or over the classes that occur."""
    if balanced:
        return 1 / (counts * (counts > 0).sum())  # infinite, but unused, for a class that does not occur
    return torch.ones_like(counts) / counts.sum()


def head_gradient(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    balanced: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Gradient of mean cross-entropy with respect to a linear head [W, b], in closed form (LGM).

    G(Z, t; W) = (softmax(Z Wᵀ + b) − onehot(t))ᵀ [Z, 1] / n, so no double backward is needed.

    Args:
        features: (n, d).
        labels: (n,) integers in [0, C).
        weight: (C, d).
        bias: (C,) or ``None`` for zero.
        balanced: Weigh samples so that every class that occurs counts the same.
        weights: (C,) weight of a sample of each class, instead of 1/n or what ``balanced`` gives. With
            the `sample_weights` of all samples the gradients of blocks add up to that of all of them.

    Returns:
        (C, d + 1); the last column is the gradient with respect to the bias.
    """
    if weights is None:
        counts = torch.bincount(labels, minlength=len(weight)).to(features)
        weights = sample_weights(counts, balanced=balanced)

    def of_rows(rows: Tensor, row_labels: Tensor) -> Tensor:
        probabilities = torch.softmax(F.linear(rows, weight, bias), dim=1)
        ones = torch.ones_like(probabilities[:, :1])
        residual = probabilities.scatter_add(1, row_labels[:, None], -ones) * weights[row_labels][:, None]
        return torch.cat([residual.T @ rows, residual.sum(dim=0)[:, None]], dim=1)

    blocks = list(row_blocks(features, labels, num_classes=len(weight)))
    if len(blocks) == 1:
        return of_rows(features, labels)
    # Only one block's logits exist at a time; the backward pass computes them again.
    total = torch.zeros(len(weight), weight.shape[1] + 1, dtype=features.dtype, device=features.device)
    for rows, row_labels in blocks:
        total = total + checkpoint(of_rows, rows, row_labels, use_reentrant=False)
    return total


def lgm_loss(synthetic_gradient: Tensor, real_gradient: Tensor) -> Tensor:
    """1 − cos(vec G(Φ, y; W), vec G(Z, t; W)) (LGM, arXiv 2511.16674)."""
    return 1 - F.cosine_similarity(synthetic_gradient.flatten(), real_gradient.flatten(), dim=0)


def sfm_loss(synthetic_flows: Tensor, real_flows: Tensor, *, cosine: Literal["classes", "all"] = "classes") -> Tensor:
    """mean_c (1 − cos(F_c(Z, t), F*_c)) (SFM, arXiv 2602.05391), or 1 − cos(vec F(Z, t), vec F*) with ``"all"``."""
    if cosine == "all":
        return 1 - F.cosine_similarity(synthetic_flows.flatten(), real_flows.flatten(), dim=0)
    return (1 - F.cosine_similarity(synthetic_flows, real_flows, dim=1)).mean()


def row_blocks(features: Tensor, labels: Tensor, *, num_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their labels in blocks whose logits for all classes stay small."""
    size = rows_of_a_block(num_classes)
    return zip(features.split(size), labels.split(size), strict=True)


def rows_of_a_block(num_classes: int) -> int:
    """Rows whose logits for all classes stay small."""
    return max(1, _LOGITS // num_classes)


def closed_form_head(
    features: Tensor, targets: Tensor, ridge: float | Tensor, *, num_classes: int | None = None
) -> Tensor:
    """The ridge probe that a set induces, W(Z) = Zᵀ (Z Zᵀ + λI)⁻¹ T (CLP-DD, arXiv 2605.07194).

    Solved in sample space (n × n) or, when n > d, in the equal feature space form
    (Zᵀ Z + λI)⁻¹ Zᵀ T.

    Args:
        features: (n, d).
        targets: (n, C), or labels (n,) for one-hot targets of ``num_classes`` classes.
        ridge: λ > 0, absolute.
        num_classes: C, with labels.

    Returns:
        (d, C).
    """
    n, d = features.shape
    assert (targets.ndim == 1) == (num_classes is not None), "labels come with num_classes, rows of targets without"
    if n <= d:
        if num_classes is not None:
            targets = features.new_zeros(n, num_classes).scatter_(1, targets[:, None], 1.0)
        return features.T @ _solve_spd(features @ features.T, ridge, targets)
    # With hard labels, Zᵀ T is the class sums, which need no (n, C) matrix.
    products = features.T @ targets if num_classes is None else class_sums(features, targets, num_classes)[0].T
    return _solve_spd(features.T @ features, ridge, products)


def clp_loss(
    head: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    outer: Literal["ce", "mse"] = "ce",
    normalize_head: bool = True,
) -> Tensor:
    """Loss of the induced head on real features: CE(Φ W(Z) / τ, y), or the MSE option (CLP-DD).

    Args:
        head: (d, C) from `closed_form_head`.
        features: Real features (N, d).
        labels: (N,).
        temperature: τ.
        outer: ``"ce"``, or ``"mse"`` against one-hot targets, which the paper shows to be worse.
        normalize_head: Scale each class's column to unit length first, so that the loss cannot be
            lowered by mere size. Not applied to MSE, whose targets fix the scale.
    """
    if outer == "mse":
        return F.mse_loss(features @ head, F.one_hot(labels, head.shape[1]).to(features))
    if normalize_head:
        head = F.normalize(head, dim=0)
    return F.cross_entropy(features @ head / temperature, labels)


def _solve_spd(matrix: Tensor, ridge: float | Tensor, rhs: Tensor) -> Tensor:
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(matrix + ridge * eye)
    # NaN if the factorisation failed: the engine then stops with a clear line, and no device waits for a check here.
    return torch.cholesky_solve(rhs, factor.masked_fill(failed != 0, float("nan")))
