"""Features of synthetic images: as they are, and of augmented views."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import AugmentConfig
from ..encoders.encoder import Encoder
from ..seeds import Stream, seed_of
from .views import apply_views, draw_views

BATCH = 64


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor) -> Tensor:
    """Features (n, d), on the CPU, of images (n, 3, S, S) as they are."""
    return torch.cat([encoder(part.to(encoder.device)).cpu() for part in images.split(BATCH)])


def view_features(
    encoder: Encoder,
    images: Tensor,
    augment: AugmentConfig,
    views: int,
    *,
    seed: int,
    stream: Stream = Stream.PROBE_VIEWS,
) -> Tensor:
    """Features (V, m, d) of V augmented views of images (m, 3, S, S); the same seed gives the same views."""
    drawn = draw_views(augment, views * len(images), seed=seed_of(seed, stream))
    which = torch.arange(len(drawn)) % len(images)
    features = torch.empty(0)
    for start in range(0, len(drawn), BATCH):
        part = slice(start, start + BATCH)
        found = encode(encoder, apply_views(images[which[part]], drawn[part], encoder.input_size))
        if not start:  # all of them at once: a list of parts would be in memory twice in the end
            features = found.new_empty(len(drawn), found.shape[1])
        features[part] = found
    return features.view(views, len(images), -1)
