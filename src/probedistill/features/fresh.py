"""A fresh batch of real images at every step, each in a fresh crop: what LGM's authors do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import AugmentConfig
from ..encoders.encoder import Encoder
from ..images.labelled import LabelledImages
from ..machine.processes import ALONE, Processes
from ..seeds import Stream, seed_of
from .encode import augmented_views, encode, prefetched


@dataclass(frozen=True)
class FreshBatches:
    """Real features that are computed on request, from new crops.

    Attributes:
        encoder: The frozen encoder.
        images: The real images.
        indices: (N,) those that can be read.
        augment: How crops are drawn.
        seed: The user's seed; a step's batch depends only on it and the step.
        team: Processes that share the work: each encodes its part of a batch and gets the rest from the others.
    """

    encoder: Encoder
    images: LabelledImages
    indices: Tensor
    augment: AugmentConfig
    seed: int = 0
    team: Processes = ALONE

    def __call__(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Features (n, d) and labels (n,) of ``count`` images, without replacement; all of them if there are fewer."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, Stream.FRESH_BATCH, step))
        chosen = self.indices[torch.randperm(len(self.indices), generator=generator)[:count]]

        def load(place: int) -> Tensor:
            image = self.images.load(int(chosen[place]))
            key = seed_of(self.seed, Stream.FRESH_VIEWS, step, place)
            return augmented_views(image, self.encoder.input_size, 1, self.augment, key)

        own = self.team.share(len(chosen))
        # One batch in memory at a time, as with the views of synthetic images.
        parts = [encode(self.encoder, torch.cat(loaded)) for loaded in prefetched(load, range(own.start, own.stop), 64)]
        features = torch.cat(parts) if parts else torch.empty(0, self.encoder.dim)
        sizes = [share.stop - share.start for share in self.team.shares(len(chosen))]
        labels = torch.as_tensor(self.images.labels)[chosen]
        return self.team.gather(features, sizes), labels
