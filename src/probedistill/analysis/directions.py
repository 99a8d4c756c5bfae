"""What backgrounds and objects do to features, and what images resemble: pure functions of feature arrays."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from ..features.classes import class_means
from ..store.records import Meta

Cosine = Annotated[float, Meta(ge=-1 - 1e-9, le=1 + 1e-9)]
ROUNDING = 1e-9  # smaller cosines count as 0: otherwise rounding errors would give a share of 0 or 1


@dataclass(frozen=True)
class Directions:
    """What backgrounds and objects do to the features of real images.

    With μ(c, b) the mean feature of class c on background b, u(c) the usual background of class c, and every mean
    below one over the means μ (so that rare groups count as much as common ones):

    * background direction of c: mean over classes k of [μ(k, u(c)) − mean over b ≠ u(c) of μ(k, b)]
    * object direction of c: mean over backgrounds b of [μ(c, b) − mean over k ≠ c of μ(k, b)]

    For two classes on two backgrounds these are ± (nature − built) and ± (bird − mammal).

    Attributes:
        mean: (d,) float64, mean of all μ.
        background: (C, d) float64, towards the usual background of each class.
        object: (C, d) float64, towards each class.
        usual: (C,) int64, the usual background of each class.
    """

    mean: Tensor
    background: Tensor
    object: Tensor
    usual: Tensor

    @property
    def overlap(self) -> float:
        """Mean over classes of the cosine between the two directions: 0 if they are entirely separable."""
        return float(F.cosine_similarity(self.background, self.object).mean())


@dataclass(frozen=True)
class Resemblance:
    """How far images of each class resemble their usual background and their object; cosines, in [-1, 1].

    Attributes:
        background: (C,) cosine of (image − mean) with the background direction: > 0 leans on the usual background.
        object: (C,) cosine of (image − mean) with the object direction.
    """

    background: tuple[Cosine, ...]
    object: tuple[Cosine, ...]

    def __post_init__(self) -> None:
        if not self.background or len(self.background) != len(self.object):
            raise ValueError("background and object differ in number")

    @property
    def shares(self) -> tuple[float | None, ...]:
        """(C,) background / (background + object), in [0, 1], where a cosine below 0 counts as 0.

        ``None`` if neither is above 0: such images resemble neither. An image of the wrong object has a negative cosine
        with its class's object, so its share is 1 (or ``None``).
        """
        return tuple(_share(*pair) for pair in zip(self.background, self.object, strict=True))

    @property
    def mean_background(self) -> float:
        """Mean over classes of the cosines with the background directions."""
        return statistics.fmean(self.background)

    @property
    def mean_object(self) -> float:
        """Mean over classes of the cosines with the object directions."""
        return statistics.fmean(self.object)

    @property
    def share(self) -> float | None:
        """The share of the mean cosines, as in `shares`."""
        return _share(self.mean_background, self.mean_object)


def _share(background: float, thing: float) -> float | None:
    background, thing = (value if value > ROUNDING else 0.0 for value in (background, thing))
    return background / (background + thing) if background or thing else None


def usual_backgrounds(labels: Tensor, backgrounds: Tensor, num_classes: int, num_backgrounds: int) -> Tensor:
    """(C,) int64: the background whose share among a class's images exceeds its share among all images the most.

    Args:
        labels: (n,) int64 classes.
        backgrounds: (n,) int64 backgrounds.
        num_classes, num_backgrounds: C and B.
    """
    counts = _group_counts(labels, backgrounds, num_classes, num_backgrounds)
    # difference of shares × images of the class × all images: whole numbers, so that ties are exact
    return (counts * counts.sum() - counts.sum(1, keepdim=True) * counts.sum(0)).argmax(1)


def group_directions(
    features: Tensor, labels: Tensor, backgrounds: Tensor, num_classes: int, num_backgrounds: int
) -> Directions | None:
    """The directions of real images with known groups; ``None`` when a group (class × background) has no image.

    Args:
        features: (n, d) float.
        labels, backgrounds: (n,) int64.
        num_classes, num_backgrounds: C ≥ 2 and B ≥ 2.
    """
    if int(_group_counts(labels, backgrounds, num_classes, num_backgrounds).min()) == 0:
        return None
    groups = labels * num_backgrounds + backgrounds
    means = class_means(features.double(), groups, num_classes * num_backgrounds)
    means = means.view(num_classes, num_backgrounds, -1)
    usual = usual_backgrounds(labels, backgrounds, num_classes, num_backgrounds)
    by_background, by_class = means.mean(0), means.mean(1)
    return Directions(
        mean=means.mean((0, 1)),
        background=_against_the_others(by_background)[usual],
        object=_against_the_others(by_class),
        usual=usual,
    )


def resemblance(directions: Directions, features: Tensor, labels: Tensor) -> Resemblance:
    """Cosine similarities of images to the directions of their class, averaged over the images of a class.

    Args:
        directions: From real features of the encoder that made ``features``.
        features: (m, d) float, at least one image of each class.
        labels: (m,) int64.
    """
    centred = features.double() - directions.mean
    towards = [
        class_means(F.cosine_similarity(centred, of[labels])[:, None], labels, len(of)).flatten().tolist()
        for of in (directions.background, directions.object)
    ]
    return Resemblance(tuple(towards[0]), tuple(towards[1]))


def _group_counts(labels: Tensor, backgrounds: Tensor, num_classes: int, num_backgrounds: int) -> Tensor:
    groups = labels * num_backgrounds + backgrounds
    return torch.bincount(groups, minlength=num_classes * num_backgrounds).view(num_classes, num_backgrounds)


def _against_the_others(means: Tensor) -> Tensor:
    """Each row (k, d) minus the mean of the other rows."""
    return (means - means.mean(0)) * len(means) / (len(means) - 1)
