"""The fixed real side of an objective if there are only statistics of the real features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features.gaussians import gaussian_features
from ..features.statistics import ClassStatistics
from ..methods import Normalization
from .real import RealFeatures

_MOST_DRAWS, _LEAST_DRAWS, _ALL_DRAWS = 256, 64, 2**16
"""Most and fewest draws per class, and most draws of all classes together."""


class Draws:
    """Features drawn from the Gaussians of statistics when they are first needed; `FeatureBlocks` for `RealFeatures`.

    Args:
        statistics: Every class has images.
        seed: The user's seed.
        dtype: Type of the features that objectives get.

    Attributes:
        per_class: Draws of each class.
        labels: (n,) int64.
    """

    def __init__(self, statistics: ClassStatistics, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.statistics, self.seed, self.dim, self.dtype = statistics, seed, statistics.dim, dtype
        classes = statistics.num_classes
        self.per_class = min(_MOST_DRAWS, max(_LEAST_DRAWS, _ALL_DRAWS // classes))
        self.labels = torch.arange(classes).repeat_interleave(self.per_class)

    @cached_property
    def features(self) -> Tensor:
        """(n, d)."""
        return gaussian_features(self.statistics, self.per_class, seed=self.seed)[0].to(self.dtype)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over all features (n, d) and labels (n,)."""
        yield self.features, self.labels

    def take(self, rows: Tensor) -> Tensor:
        """Features (n, d) of some rows."""
        return self.features[rows.cpu()]


class RealMoments(RealFeatures):
    """Class statistics with the interface of `RealFeatures`.

    Means and `spread` are exact: `class_sums`, `class_means` and the mean that centring subtracts are those of the
    pooled features, so `sfm` with ``normalize`` none or center is the same as on the features. Everything that depends
    on single features (`blocks`, `take`, and means of features of unit length) uses draws from one Gaussian per class,
    equally many for each class; `counts` and `labels` are those of the draws.

    Args:
        draws: Source of the draws, which are made when an objective first needs them.
        normalization: As for `RealFeatures`.
        device: Device of the objectives.
    """

    def __init__(self, draws: Draws, normalization: Normalization = "none", device: torch.device | str = "cpu") -> None:
        self.draws, self.statistics = draws, draws.statistics
        super().__init__(draws, draws.labels, draws.statistics.num_classes, normalization, device)

    def normalized(self, normalization: Normalization) -> RealFeatures:
        """The features under another normalisation."""
        return self if normalization == self.normalization else RealMoments(self.draws, normalization, self.device)

    @cached_property
    def _raw_sums(self) -> tuple[Tensor, Tensor]:
        return self.statistics.sums, self.statistics.weights()[:, None]

    @cached_property
    def spread(self) -> Tensor:
        """Mean squared distance of a real feature from `mean`, each class with the same weight; exact."""
        return torch.tensor(self.statistics.spread(), device=self.device, dtype=self.dtype)

    def class_sums(self) -> tuple[Tensor, Tensor]:
        """Sums (C, d) and counts (C, 1) of the normalised features; of unit length, by the draws' means."""
        (sums, counts), weights = super().class_sums(), self.statistics.weights()[:, None]
        return sums * (weights / counts), weights

    def normalize(self, features: Tensor) -> Tensor:
        """Apply the same normalisation to synthetic features (n, d); private sums are of features of length 1."""
        return super().normalize(F.normalize(features, dim=1) if self.statistics.private else features)
