"""Features drawn from statistics: one Gaussian per class."""

from __future__ import annotations

import torch
from torch import Tensor

from ..seeds import Stream, seed_of
from .statistics import ClassStatistics

_PRIOR = 10.0
"""Weight of all classes' variance relative to a class's own, in images: two images hardly have a variance."""


def gaussian_features(statistics: ClassStatistics, per_class: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw features (C · n, d) float64 and labels (C · n,) from one Gaussian per class.

    A class has its own mean and variances, and the correlations of all classes together (as in GH-OFL, arXiv
    2602.01186, whose heads learn from such draws). The mean of a class's draws is exactly the class mean.

    Args:
        statistics: With second moments, and with images of every class.
        per_class: n.
        seed: The user's seed.

    Raises:
        UserError: The statistics have no second moments.
    """
    covariance, means = statistics.covariance(), statistics.means()
    deviation = covariance.diagonal().sqrt()
    scale = torch.where(deviation > 0, 1 / deviation, 0)
    values, vectors = torch.linalg.eigh(covariance * scale * scale[:, None])
    factor = vectors * values.clamp(min=0).sqrt()  # correlations = factor @ factorᵀ, even if they are singular
    spread = class_deviations(statistics)
    features = []
    for label in range(statistics.num_classes):
        generator = torch.Generator().manual_seed(seed_of(seed, Stream.GAUSSIANS, label))
        noise = torch.randn(per_class, statistics.dim, generator=generator, dtype=torch.float64)
        drawn = (noise @ factor.T) * spread[label]
        features.append(means[label] + drawn - drawn.mean(dim=0))
    return torch.cat(features), torch.arange(statistics.num_classes).repeat_interleave(per_class)


def class_deviations(statistics: ClassStatistics) -> Tensor:
    """(C, d) standard deviations of the features of each class, shrunk towards those of all classes together."""
    counts = statistics.counts[:, None]
    shared = statistics.covariance().diagonal().clamp(min=0) * statistics.total
    shared = shared / max(statistics.total - statistics.num_classes, 1.0)
    return ((counts * statistics.variances() + _PRIOR * shared) / (counts - 1 + _PRIOR)).sqrt()
