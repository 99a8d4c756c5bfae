"""What probes are trained on: synthetic images, real images in their place, and all the real features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..config import DEFAULT_BASELINES, AugmentConfig, EvaluateConfig
from ..encoders.encoder import Encoder
from ..errors import UserError, by_caller
from ..features.bank import FeatureBank
from ..features.classes import means_of_sums, neighbours, summed_by_class
from ..features.encode import encode
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages
from ..store.distilled import DistilledSet
from ..text import counted
from .real_sets import CHOICES
from .result import BASELINE_ROWS, FULL_REAL


@dataclass(frozen=True)
class TrainingSet:
    """What a row is trained on.

    Attributes:
        name: Name of the row.
        soft: (n, C) soft labels, if any: then there is a row for the hard ones, too.
        epochs: Passes over the images, if not the config's.
        has_images: Whether it has images, which another encoder can see. If not, each probe that needs images is
            replaced (`Kind.on_features`).
        fixed: Whether it is the same for every seed, so that a deterministic probe is fitted once.
    """

    name: str
    soft: Tensor | None = None
    epochs: int | None = None
    has_images: bool = True
    fixed: bool = False

    def features(self, encoder: Encoder, seed: int, views: int | None) -> Tensor:
        """Features (V, n, d) of V augmented views; (1, n, d) of the centre view for V = 0 or ``None``.

        Stored features of real data are given as they are, unless V is ``None``.
        """
        raise NotImplementedError

    def labels(self, seed: int) -> Tensor:
        """Class indices (n,)."""
        raise NotImplementedError

    def passes(self, encoder: Encoder, seed: int, views: int | None) -> int:
        """How many images go through the encoder before `features` is there."""
        return 0


@dataclass(frozen=True, kw_only=True)
class SyntheticImages(TrainingSet):
    """Views of images (m, 3, S, S) with labels (m,)."""

    images: Tensor
    labels_of_images: Tensor
    augment: AugmentConfig
    store: FeatureStore

    def features(self, encoder: Encoder, seed: int, views: int | None) -> Tensor:
        """See `TrainingSet`."""
        return self.store.synthetic_views(encoder, self.images, views=views or 0, augment=self.augment, seed=seed)

    def labels(self, seed: int) -> Tensor:
        """See `TrainingSet`."""
        return self.labels_of_images

    def passes(self, encoder: Encoder, seed: int, views: int | None) -> int:
        """See `TrainingSet`."""
        return self.store.passes_of_synthetic_views(
            encoder, self.images, views=views or 0, augment=self.augment, seed=seed
        )


@dataclass(frozen=True, kw_only=True)
class RealImages(TrainingSet):
    """Views of the real images in rows ``rows(seed)`` of a bank of ``source``."""

    bank: FeatureBank
    source: LabelledImages
    rows: Callable[[int], Tensor]
    augment: AugmentConfig
    store: FeatureStore

    def features(self, encoder: Encoder, seed: int, views: int | None) -> Tensor:
        """See `TrainingSet`."""
        chosen = self.rows(seed)
        made_by = self.bank.manifest.encoder.fingerprint if self.bank.manifest is not None else None
        if not views and made_by == encoder.fingerprint:
            return self.bank.take(chosen, views="centre")[None]
        indices = self.bank.indices[chosen].tolist()
        return self.store.real_views(encoder, self.source, indices, views=views or 0, augment=self.augment, seed=seed)

    def labels(self, seed: int) -> Tensor:
        """See `TrainingSet`."""
        return self.bank.labels[self.rows(seed)]

    def passes(self, encoder: Encoder, seed: int, views: int | None) -> int:
        """See `TrainingSet`."""
        indices = self.bank.indices[self.rows(seed)].tolist()
        return self.store.passes_of_real_views(
            encoder, self.source, indices, views=views or 0, augment=self.augment, seed=seed
        )


@dataclass(frozen=True, kw_only=True)
class StoredFeatures(TrainingSet):
    """Features that exist already, whatever the number of views."""

    centre: Tensor
    augmented: Tensor
    labels_of_features: Tensor

    def features(self, encoder: Encoder, seed: int, views: int | None) -> Tensor:
        """See `TrainingSet`."""
        centre = self.centre[None]
        return centre if views is None or not len(self.augmented) else torch.cat([centre, self.augmented])

    def labels(self, seed: int) -> Tensor:
        """See `TrainingSet`."""
        return self.labels_of_features


@dataclass(frozen=True)
class Baselines:
    """Real images to compare with a synthetic set.

    Attributes:
        encoder: The encoder that scores them.
        train: All real training images.
        choosing: Bank of the encoder that chooses among them, centre crops.
        images_per_class: Size of the small sets.
        store: Where features come from.
        augment: How views are drawn.
        config: The protocol.
    """

    encoder: Encoder
    train: LabelledImages
    choosing: FeatureBank
    images_per_class: int
    store: FeatureStore
    augment: AugmentConfig
    config: EvaluateConfig

    def sets(self, chooser: Encoder, distilled: DistilledSet | None) -> list[TrainingSet]:
        """The rows that the config names, in its order.

        Args:
            chooser: The encoder of ``choosing``.
            distilled: The synthetic set, for its neighbours.
        """
        makers: dict[str, Callable[[], TrainingSet | None]] = {
            **{name: partial(self._chosen, name) for name in CHOICES},
            "neighbours": lambda: self._neighbours(chooser, distilled),
            "means": self._means,
            "full": self._full,
        }
        wanted = list(self.config.baselines)
        if self.images_per_class == 1 and wanted in DEFAULT_BASELINES:
            wanted.remove("herding")  # herding one image per class chooses the medoid
        if distilled is not None:
            counts = torch.bincount(self.choosing.labels, minlength=self.choosing.num_classes).tolist()
            check_enough(self.choosing.class_names, counts, self.images_per_class, wanted)
        made = [makers[name]() for name in wanted]
        return [one for one in made if one is not None]

    def _chosen(self, name: str) -> TrainingSet:
        """Images chosen by one of `CHOICES`: for seed 0, except random images, which differ for each seed."""

        def rows(seed: int) -> Tensor:
            return CHOICES[name](self.choosing, self.images_per_class, seed)

        return self._images(BASELINE_ROWS[name], rows if name == "random" else always(rows(0)))

    def _images(self, name: str, rows: Callable[[int], Tensor]) -> TrainingSet:
        return RealImages(
            name, bank=self.choosing, source=self.train, rows=rows, augment=self.augment, store=self.store
        )

    def _neighbours(self, chooser: Encoder, distilled: DistilledSet | None) -> TrainingSet | None:
        if distilled is None:
            return None
        nearest = neighbours(self.choosing, encode(chooser, distilled.images), distilled.labels)
        return self._images("neighbours", always(nearest))

    def _means(self) -> TrainingSet:
        bank = self.store.of(self.encoder, self.train)
        sums, counts = summed_by_class(bank.blocks(views="centre"), bank.num_classes, bank.dim)
        classes = counts.squeeze(1).nonzero().squeeze(1)  # classes with images
        means = means_of_sums(sums, counts)[classes].to(bank.dtype)
        return StoredFeatures(
            "class-mean features", None, None, False, True,
            centre=means, augmented=means.new_empty(0, *means.shape), labels_of_features=classes,
        )  # fmt: skip

    def _full(self) -> TrainingSet:
        bank = self.store.of(self.encoder, self.train, views=self.config.full_views, augment=self.augment)
        return StoredFeatures(
            FULL_REAL, None, self.config.full_epochs, False, True,
            centre=bank.centre, augmented=bank.augmented, labels_of_features=bank.labels,
        )  # fmt: skip


def always(rows: Tensor) -> Callable[[int], Tensor]:
    """The same rows for every seed."""
    return lambda seed: rows


def check_enough(names: Sequence[str], counts: Sequence[int], per_class: int, baselines: Sequence[str]) -> None:
    """Raise `UserError` if a class has fewer real images than the baselines of a set need.

    Args:
        names: The classes.
        counts: Number of real images of each.
        per_class: Number of images of each class in the set.
        baselines: The requested rows.
    """
    small = [name for name in baselines if name not in ("full", "means")]
    name, count = min(zip(names, counts, strict=True), key=lambda one: one[1])
    if small and count < per_class:
        way_out = by_caller(command="--baselines full", python="baselines=['full']")
        raise UserError(
            f"baselines {', '.join(small)} need {counted(per_class, 'image')} per class, as many as the set has, but "
            f"class {name!r} has {counted(count, 'real image')}; leave them out with {way_out}"
        )
