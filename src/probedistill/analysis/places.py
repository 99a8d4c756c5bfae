"""Where points lie among the real features of their class; pure functions of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..features.classes import class_means
from ..images.labelled import rows_of_labels
from ..store.records import Share
from .base import Array
from .copies import share_below

_BLOCK = 512  # rows of a distance matrix per block


@dataclass(frozen=True)
class Place:
    """Where an image lies among the real images of its class, or the mean over some images.

    Distances are Euclidean, as in the PCA plane and in "periphery". The angle is between centred features,
    1 − cos(x − mean of all, class mean − mean of all): it distinguishes an image that is far out in another direction
    from one that exaggerates its class. A real image is compared with the mean and the images of its class without
    itself (leave-one-out), so that the quantiles of a class's real images are 0.5 on average by construction.

    Attributes:
        distance_quantile: Share of the class's real images that are nearer to the class mean: 0 for the most
            central, 1 for one that is farther out than every real one. Ties count half.
        angle_quantile: Share of the class's real images at a smaller angle to the class mean.
        margin_quantile: Share of the class's real images with a smaller margin; a support vector has a small margin.
        margin: Distance to the nearest other class mean − distance to its own.
        relative_margin: The margin, divided by the median distance of the class's real images to their mean; ``None``
            if that is 0, because most of them are the same.
        distance_ratio: Distance to the class mean, divided by that median; ``None`` likewise.
        norm_ratio: Norm of the features, divided by the mean norm of the class's real images.
        own_neighbours: Share of its k nearest real images that are of its own class.
    """

    distance_quantile: Share
    angle_quantile: Share
    margin_quantile: Share
    margin: float
    relative_margin: float | None
    distance_ratio: float | None
    norm_ratio: float
    own_neighbours: Share


class RealReference:
    """Real features (N, d) with labels (N,) of C classes, as what points are placed among.

    Args:
        features: (N, d) float.
        labels: (N,) int64; every class has at least two images.
        num_classes: C.

    Raises:
        ValueError: A class has fewer than two images.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        self.counts = torch.bincount(labels, minlength=num_classes)
        if len(self.counts) != num_classes or int(self.counts.min()) < 2:
            raise ValueError(f"every one of the {num_classes} classes needs at least 2 real images")
        self.labels, self.num_classes = labels, num_classes
        self.mean = features.double().mean(dim=0)
        self.features = features - self.mean.to(features)  # short vectors lose fewer digits in distances
        self.means = class_means(self.features.double(), labels, num_classes)
        self._own = self._distances(self.features, labels, left_out=True)
        self._norms = class_means(self._norm(self.features)[:, None], labels, num_classes)[:, 0]

    def place(self, points: Tensor, labels: Tensor, *, rows: Tensor | None = None) -> dict[str, Array]:
        """Every measure of `Place` but ``own_neighbours``, each (m,).

        Args:
            points: (m, d) features.
            labels: (m,) int64, their classes.
            rows: (m,) which real images they are, for real ones.
        """
        points = points - self.mean.to(points)
        raw = [own[rows] for own in self._own] if rows is not None else self._distances(points, labels)
        distance, _, margin = raw
        of_class = [torch.from_numpy(rows) for rows in rows_of_labels(self.labels.numpy(), self.num_classes)]
        typical = torch.stack([self._own[0][of].median() for of in of_class])[labels]
        typical[typical == 0] = math.nan  # most images of the class are equal, so it has no unit of length
        result = {"margin": margin, "relative_margin": margin / typical, "distance_ratio": distance / typical}
        result["norm_ratio"] = self._norm(points) / self._norms[labels]
        names = ("distance_quantile", "angle_quantile", "margin_quantile")
        for name, values, own in zip(names, raw, self._own, strict=True):
            quantile = torch.empty(len(points), dtype=torch.float64)
            for c in labels.unique().tolist():
                mine = labels == c
                quantile[mine] = share_below(values[mine], own[of_class[c]], left_out=int(rows is not None))
            result[name] = quantile
        return {name: values.numpy() for name, values in result.items()}

    def own_neighbours(self, points: Tensor, labels: Tensor, k: int, *, rows: Tensor | None = None) -> Array:
        """Share (m,) of the k nearest real images (Euclidean) that have the point's own label, itself excluded.

        Args:
            points: (m, d) features.
            labels: (m,) int64.
            k: 1 ≤ k < N.
            rows: As for `place`.

        Raises:
            UserError: k is out of range.
        """
        if not 1 <= k < len(self.labels):
            raise UserError(f"k {k} must be at least 1 and less than the number of real images ({len(self.labels)})")
        points = (points - self.mean.to(points)).to(self.features)
        shares = []
        for start in range(0, len(points), _BLOCK):
            part = slice(start, start + _BLOCK)
            distance = torch.cdist(points[part], self.features)
            if rows is not None:
                distance[torch.arange(len(distance)), rows[part]] = torch.inf
            near = self.labels[distance.topk(k, largest=False).indices]
            shares.append((near == labels[part, None]).double().mean(dim=1))
        return torch.cat(shares).numpy()

    def _norm(self, centred: Tensor) -> Tensor:
        return (centred.double() + self.mean).norm(dim=1)

    def _distances(self, points: Tensor, labels: Tensor, *, left_out: bool = False) -> list[Tensor]:
        """Distance, angle and margin, (m,) float64 each; ``left_out`` takes each point out of its class mean."""
        parts = []
        for start in range(0, len(points), _BLOCK):
            part = slice(start, start + _BLOCK)
            x, y = points[part].double(), labels[part]
            own = self.means[y]
            if left_out:
                count = self.counts[y, None]
                own = (count * own - x) / (count - 1)
            distance = (x - own).norm(dim=1)
            angle = 1 - torch.cosine_similarity(x, own)
            other = torch.cdist(x, self.means).scatter(1, y[:, None], torch.inf).amin(dim=1)
            parts.append((distance, angle, other - distance))
        return [torch.cat(column) for column in zip(*parts, strict=True)]
