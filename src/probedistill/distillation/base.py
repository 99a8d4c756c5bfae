"""A run that continues from a finished set: some images are fixed, others are optimised together with them.

The engine holds only the images that change. Fixed images take part in every step through the features of their views,
which are computed once, so a step costs only what the changing images cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import DistillConfig
from ..encoders.encoder import Encoder
from ..features.store import FeatureStore
from ..objectives.real import Objective
from ..seeds import Stream, seed_of
from ..store.card import Licence
from ..store.run_record import BaseRecord

POOL = 20
"""Views of each fixed image from which steps choose; as many as an evaluation uses to fit a probe."""


@dataclass(frozen=True, eq=False)
class Base:
    """The finished set that a run continues from.

    Attributes:
        name: Name of that set in records.
        fixed: (f, 3, S, S) images that are not changed.
        fixed_labels: (f,) their classes.
        labels: (m,) classes of the images that are optimised.
        start: (m, 3, S, S) what these start from; a row of NaN starts from noise.
        refined: How many of these start from an image of the set.
        dropped: How many images of the set are replaced.
        forgotten: Classes that were removed from it.
        renamed: Former and present names of its classes.
        begun_from: What its images started from, and new ones start from: ``"noise"``, ``"average"``, ``"blend"`` or
            ``"real"``.
        held_out: Names of the images that were held out of it, or of the new ones.
        licence: Licence of the new set; ``None`` if it is unknown.
    """

    name: str
    fixed: Tensor
    fixed_labels: Tensor
    labels: Tensor
    start: Tensor
    refined: int = 0
    dropped: int = 0
    forgotten: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    begun_from: str = "noise"
    held_out: Sequence[str] = ()
    licence: Licence | None = None
    _pools: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def record(self) -> BaseRecord:
        """Return the base's entry in the run's record."""
        digest = hashlib.sha256()
        for part in (self.fixed, self.fixed_labels, self.labels, self.start):
            digest.update(f"{tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes())
        return BaseRecord(
            name=self.name, fingerprint=digest.hexdigest(), fixed=len(self.fixed), refined=self.refined,
            dropped=self.dropped,
        )  # fmt: skip

    def prepare(self, encoders: Sequence[Encoder], features: FeatureStore, config: DistillConfig) -> None:
        """Compute the features of the fixed images' views, once for each encoder."""
        if len(self.fixed):
            for encoder in encoders:
                self._pools[encoder.fingerprint] = features.synthetic_views(
                    encoder, self.fixed, views=POOL, augment=config.augment, seed=config.seed,
                    stream=Stream.FIXED_VIEWS,
                )  # fmt: skip

    def beside_fixed(self, objective: Objective, encoder: Encoder, number: int, config: DistillConfig) -> Objective:
        """Return the objective of all images as a function of the features of those that change.

        Args:
            objective: The objective of all images.
            encoder: Its encoder, for which `prepare` was called.
            number: Index of the tower.
            config: Gives the number of views per step, and the seed for choosing among the fixed images' views.
        """
        if not len(self.fixed):
            return objective
        views = config.views
        assert views != "auto", "a resolved config"
        pool = self._pools[encoder.fingerprint].to(encoder.device)
        labels = self.fixed_labels.repeat(views).to(encoder.device)

        def of_changing(features: Tensor, changing: Tensor, step: int) -> Tensor:
            key = seed_of(config.seed, Stream.FIXED_VIEWS, step, number)
            chosen = torch.randint(POOL, (views,), generator=torch.Generator().manual_seed(key))
            fixed = pool[chosen.to(pool.device)].flatten(0, 1).to(features)
            return objective(torch.cat([fixed, features]), torch.cat([labels, changing]), step)

        return of_changing

    def with_fixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return all images and their classes, in the order of the classes, given the changed images."""
        both = torch.cat([self.fixed_labels, labels.cpu()])
        order = both.argsort(stable=True)
        return torch.cat([self.fixed, images.cpu()])[order], both[order]
