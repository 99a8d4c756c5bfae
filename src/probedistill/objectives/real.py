"""The fixed real side of an objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..features.classes import means_of_sums, summed_by_class
from ..methods import Normalization

_BLOCK = 16_384  # rows per block of features in memory

FreshFeatures = Callable[[int, int], tuple[Tensor, Tensor]]
"""(step, count) → features (n, d) and labels (n,) of a fresh batch of real images, each in a fresh crop."""


class FeatureBlocks(Protocol):
    """Features too large for memory, such as a `FeatureBank` in files: read in blocks, or by row.

    Attributes:
        dim: Number of features d.
        dtype: Type of the features that ``blocks`` yields.
    """

    @property
    def dim(self) -> int: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over all features (n, d) and labels (n,), in blocks of any size."""

    def take(self, rows: Tensor) -> Tensor:
        """Features (n, d) of some rows."""


@dataclass(frozen=True)
class _TensorBlocks:
    """Features (N, d) and labels (N,) in memory, in blocks so that (n, C) matrices stay small."""

    features: Tensor
    labels: Tensor

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.features.dtype

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.features.split(_BLOCK), self.labels.split(_BLOCK), strict=True)

    def take(self, rows: Tensor) -> Tensor:
        return self.features[rows.to(self.features.device)]


class RealFeatures:
    """The fixed real side of an objective: normalised features (N, d), labels (N,), C classes.

    The features are a tensor in memory, or `FeatureBlocks` that are read again at each pass. Objectives use `blocks`
    and `take` and need not know which.

    Args:
        features: (N, d), any float dtype, kept in float32 (or float64); or where to read them.
        labels: (N,) integers, every class present.
        num_classes: C.
        normalization: none; center: subtract the mean; center_l2: also scale to unit length. The mean is that of the
            class means, so that a large class does not dominate it.
        device: Where to keep them, or to process their blocks.
        fresh: Where fresh batches come from; ``None`` if there are none.

    Attributes:
        counts: (C,) number of features of each class.
        dim: d.
        dtype: float64 if the given features have it, else float32.
    """

    def __init__(
        self,
        features: Tensor | FeatureBlocks,
        labels: Tensor,
        num_classes: int,
        normalization: Normalization = "none",
        device: torch.device | str = "cpu",
        fresh: FreshFeatures | None = None,
    ) -> None:
        if normalization not in ("none", "center", "center_l2"):
            raise UserError(f"normalize {normalization!r} must be one of none, center, center_l2")
        self.device = torch.device(device)
        self.labels = labels.to(self.device)
        self.num_classes = num_classes
        self.normalization = normalization
        self._given, self._fresh = features, fresh
        self.counts = torch.bincount(self.labels, minlength=num_classes)
        if bool((self.counts == 0).any()):
            empty = int((self.counts == 0).nonzero()[0])
            raise UserError(f"class number {empty} has no real features; every class needs at least one")
        self.dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        self._normalised = isinstance(features, Tensor)
        if isinstance(features, Tensor):
            self.dim = features.shape[1]
            normalised = self.normalize(features.to(self.device, self.dtype))
            self._source: FeatureBlocks = _TensorBlocks(normalised, self.labels)
        else:
            self.dim, self._source = features.dim, features

    def normalized(self, normalization: Normalization) -> RealFeatures:
        """The features under another normalisation."""
        if normalization == self.normalization:
            return self
        return RealFeatures(self._given, self.labels, self.num_classes, normalization, self.device, self._fresh)

    @cached_property
    def _raw_sums(self) -> tuple[Tensor, Tensor]:
        return summed_by_class(self._raw_blocks(), self.num_classes, self.dim)

    @cached_property
    def mean(self) -> Tensor:
        """(d,) mean of the class means, which ``center`` and ``center_l2`` take from every feature."""
        return means_of_sums(*self._raw_sums).mean(dim=0).to(self.device, self.dtype)

    @cached_property
    def spread(self) -> Tensor:
        """Mean squared distance of a real feature from `mean`, each class with the same weight; a scalar."""
        of_classes = torch.zeros(self.num_classes, dtype=torch.float64)
        for features, labels in self._raw_blocks():
            squares = (features.detach().to(self.mean) - self.mean).square().sum(dim=1)
            of_classes.index_add_(0, labels.cpu(), squares.cpu().double())
        return (of_classes / self.counts.cpu()).mean().to(self.device, self.dtype)

    def _raw_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the features (n, d) before normalisation, with their labels (n,)."""
        given = self._given
        return (_TensorBlocks(given, self.labels) if isinstance(given, Tensor) else given).blocks()

    def class_sums(self) -> tuple[Tensor, Tensor]:
        """Sums (C, d) and counts (C, 1) of the normalised features, in one pass, in float64 if the device has it."""
        if self.normalization == "none":
            return self._raw_sums
        if self.normalization == "center":
            sums, counts = self._raw_sums
            return sums - counts * self.mean.to(sums), counts
        return summed_by_class(self.blocks(), self.num_classes, self.dim)

    def class_means(self) -> Tensor:
        """(C, d) mean of each class's normalised features."""
        return means_of_sums(*self.class_sums()).to(self.device, self.dtype)

    @property
    def features(self) -> Tensor:
        """(N, d) normalised, all in memory."""
        return self.take(torch.arange(len(self.labels)))

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over normalised features (n, d) and labels (n,), on the device."""
        for features, labels in self._source.blocks():
            yield self._prepared(features), labels.to(self.device)

    def take(self, rows: Tensor) -> Tensor:
        """Normalised features (n, d) of some rows, on the device."""
        return self._prepared(self._source.take(rows))

    def fresh_batch(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Normalised features (n, d) and labels (n,) of ``count`` real images in fresh crops, drawn for this step.

        Raises:
            UserError: There are no real images behind these features.
        """
        if self._fresh is None:
            raise UserError("a fresh batch needs the real images; distil from images, or leave lgm.fresh out")
        features, labels = self._fresh(step, count)
        return self.normalize(features.to(self.device, self.dtype)), labels.to(self.device)

    def _prepared(self, features: Tensor) -> Tensor:
        return features if self._normalised else self.normalize(features.to(self.device, self.dtype))

    def normalize(self, features: Tensor) -> Tensor:
        """Apply the same normalisation to synthetic features (n, d); differentiable."""
        if self.normalization == "none":
            return features
        features = features - self.mean
        return F.normalize(features, dim=1) if self.normalization == "center_l2" else features


Objective = Callable[[Tensor, Tensor, int], Tensor]
"""(features (n, d), labels (n,), step) → scalar loss. Whatever an objective draws is seeded by the step."""
