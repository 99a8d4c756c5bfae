"""What probes are trained on: synthetic images and real baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..config import AugmentConfig, EvaluateConfig
from ..encoders.encoder import Encoder
from ..features.bank import FeatureBank
from ..features.classes import class_means, medoids, neighbours, random_images
from ..features.encode import encode, real_view_features, view_features
from ..images.labelled import LabelledImages
from ..store.distilled import DistilledSet
from .result import FULL_REAL, RANDOM_REAL


@dataclass(frozen=True)
class TrainingSet:
    """What a row is trained on.

    Attributes:
        name: Of the row.
        features: (encoder, seed, number of views V) → (V, n, d); with V = 0 or ``None`` of the centre view, (1, n, d).
            Stored features of real data are given as they are, unless V is ``None``.
        labels: seed → (n,).
        soft: (n, C) soft labels, if any: then there is a row for the hard ones, too.
        epochs: Of sgd, where they are not the config's.
        inherits: Whether a projector may be fitted on it: its images can be encoded by the source. Where not, ridge
            is fitted in place of the inherited probe.
        fixed: Whether it is the same for every seed, so that one answer of ridge or logistic is that of all.
    """

    name: str
    features: Callable[[Encoder, int, int | None], Tensor]
    labels: Callable[[int], Tensor]
    soft: Tensor | None = None
    epochs: int | None = None
    inherits: bool = True
    fixed: bool = False


def of_images(
    own: Encoder, augment: AugmentConfig, name: str, images: Tensor, labels: Tensor, soft: Tensor | None
) -> TrainingSet:
    """Augmented views of images (m, 3, S, S)."""

    def features(encoder: Encoder, seed: int, views: int | None) -> Tensor:
        if not views:
            return encode(encoder, images)[None]
        return view_features(encoder, images, augment, views, seed=seed)

    return TrainingSet(name, features, always(labels), soft)


def of_real(
    own: Encoder,
    augment: AugmentConfig,
    name: str,
    bank: FeatureBank,
    images: LabelledImages,
    rows: Callable[[int], Tensor],
) -> TrainingSet:
    """Augmented views of the real images in ``rows(seed)`` of the bank."""

    def features(encoder: Encoder, seed: int, views: int | None) -> Tensor:
        chosen = rows(seed)
        if not views and encoder is own:
            return bank.centre[chosen][None]
        indices = bank.indices[chosen].tolist()
        return real_view_features(encoder, images, indices, augment, views or 0, seed=seed)

    return TrainingSet(name, features, lambda seed: bank.labels[rows(seed)])


def baseline_sets(
    own: Encoder,
    augment: AugmentConfig,
    bank: FeatureBank,
    train: LabelledImages,
    distilled: DistilledSet | None,
    ipc: int,
    config: EvaluateConfig,
) -> list[TrainingSet]:
    """The real-image rows that the config names, in its order."""
    sets = []
    for name in config.baselines:
        if name == "random":
            rows = partial(_drawn, bank, ipc)
            sets.append(of_real(own, augment, RANDOM_REAL, bank, train, rows))
        elif name == "centroids":
            sets.append(of_real(own, augment, "centroids", bank, train, always(medoids(bank, ipc))))
        elif name == "neighbours" and distilled is not None:
            nearest = neighbours(bank, encode(own, distilled.images), distilled.labels)
            sets.append(of_real(own, augment, "neighbours", bank, train, always(nearest)))
        elif name == "means":
            means = class_means(bank.centre, bank.labels, bank.num_classes)
            classes = torch.arange(bank.num_classes)
            each, labels = always(means[None]), always(classes)
            sets.append(TrainingSet("class-mean features", each, labels, inherits=False, fixed=True))
        elif name == "full":
            stored, labels, epochs = partial(_stored, bank), always(bank.labels), config.full_epochs
            sets.append(TrainingSet(FULL_REAL, stored, labels, epochs=epochs, inherits=False, fixed=True))
    return sets


def _drawn(bank: FeatureBank, ipc: int, seed: int) -> Tensor:
    return random_images(bank, ipc, seed=seed)


def _stored(bank: FeatureBank, encoder: Encoder, seed: int, views: int | None) -> Tensor:
    """All features of the bank, whatever the number of views; for ``None`` those of its centre crops."""
    centre = bank.centre[None]
    return centre if views is None or not bank.num_views else torch.cat([centre, bank.augmented])


def always(value: Tensor) -> Callable[..., Tensor]:
    """The same for every seed."""
    return lambda *_: value
