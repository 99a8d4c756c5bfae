"""The ridge head of all real features, computed only from their statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from ..features.statistics import ClassStatistics


def ridge_head(statistics: ClassStatistics) -> tuple[Tensor, Tensor]:
    """The head (C, d) and its bias (C,), float64, that `LinearProbe("ridge")` learns from all features.

    Ridge regression needs only sums and products: with x̄ the mean of all N features, S = Σ x xᵀ − N x̄ x̄ᵀ and
    R_c = Σ_{y = c} x − N_c x̄ it is W = R (S + λI)⁻¹, λ = tr S / N (`fit_ridge`). Equal to the probe's up
    to rounding.

    Args:
        statistics: With second moments.

    Raises:
        UserError: The statistics have no second moments.
    """
    _, products = statistics.second_moments()
    total = statistics.total
    mean = statistics.sums.sum(dim=0) / total
    scatter = products - total * mean.outer(mean)
    right = statistics.sums - statistics.counts[:, None] * mean
    penalty = float(scatter.diagonal().sum()) / total or 1.0  # constant features: any penalty gives W = 0
    system = scatter + penalty * torch.eye(statistics.dim, dtype=torch.float64)
    weight = torch.linalg.solve(system, right.T).T
    return weight, statistics.counts / total - weight @ mean
