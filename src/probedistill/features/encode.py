"""Features of images: synthetic or real, unaugmented or augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..config import AugmentConfig
from ..encoders.encoder import Encoder
from ..errors import UserError, explained, option
from ..images.decode import UnreadableImageError
from ..images.labelled import LabelledImages
from ..machine.progress import ProgressBar
from ..machine.threads import Workers
from ..seeds import Stream, seed_of
from ..text import counted
from .views import apply_views, draw_views, random_squares

BATCH = 64
_SHRINK_ABOVE = 2  # times the input size: larger photos are shrunk once before their views are cut

Result = TypeVar("Result")


def features_of(encoder: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Features of a batch by an encoder, whose checks have seen no more than a few images at a time.

    Raises:
        UserError: The encoder fails with this many images.
    """
    name, count = getattr(encoder, "name", "of one's own"), len(images)
    way_out = f"try {option('micro_batch', BATCH)}" if count > BATCH else f"let it take {BATCH} at a time"
    with explained(f"encoder {name!r} fails with {counted(count, 'image')} at a time", Exception, hint=way_out):
        return encoder(images)


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor) -> Tensor:
    """Features (n, d), on the CPU, of images (n, 3, S, S) as they are.

    Raises:
        UserError: They are not finite.
    """
    features = torch.cat([features_of(encoder, part.to(encoder.device)).cpu() for part in images.split(BATCH)])
    if not bool(features.isfinite().all()):
        count = int((~features.isfinite()).any(dim=1).sum())
        way_out = "check its weights" if encoder.precision == "fp32" else f"try {option('precision', 'fp32')}"
        raise UserError(
            f"encoder {encoder.name!r} returns features that are not finite in {encoder.precision} for "
            f"{count} of {counted(len(images), 'image or view', 'images or views')}; {way_out}"
        )
    return features


def view_features(
    encoder: Encoder,
    images: Tensor,
    augment: AugmentConfig,
    views: int,
    *,
    seed: int,
    stream: Stream = Stream.PROBE_VIEWS,
    progress: bool = False,
) -> Tensor:
    """Features (V, m, d) of V augmented views of images (m, 3, S, S); the same seed gives the same views."""
    drawn = draw_views(augment, views * len(images), seed=seed_of(seed, stream))
    which = torch.arange(len(drawn)) % len(images)
    features = torch.empty(0)
    with ProgressBar("views of the images", len(drawn), enabled=progress) as bar:
        for start in range(0, len(drawn), BATCH):
            part = slice(start, start + BATCH)
            found = encode(encoder, apply_views(images[which[part]], drawn[part], encoder.input_size))
            if not start:  # allocated as a whole: concatenating parts would need twice the memory
                features = found.new_empty(len(drawn), found.shape[1])
            features[part] = found
            bar.advance(len(found))
    return features.view(views, len(images), -1)


def real_view_features(
    encoder: Encoder,
    images: LabelledImages,
    indices: Sequence[int],
    augment: AugmentConfig,
    views: int,
    *,
    seed: int,
) -> Tensor:
    """Features (V, n, d) of V augmented views of some real images, or (1, n, d) of their centre crops for V = 0.

    The views of an image depend only on the seed and the image. Images are decoded and cropped in threads while the
    encoder works, and encoded in batches that span images.

    Raises:
        UserError: An image cannot be read.
    """

    def load(index: int) -> Tensor:
        image = load_again(images, index)
        if not views:
            return encoder.centre_view(image)[None]
        keys = {start: seed_of(seed, Stream.PROBE_VIEWS, index, start) for start in range(0, views, BATCH)}
        size = encoder.input_size
        parts = [augmented_views(image, size, min(BATCH, views - start), augment, key) for start, key in keys.items()]
        return torch.cat(parts)

    batches = prefetched(load, indices, max(1, BATCH // max(views, 1)))
    found = [encode(encoder, torch.cat(loaded)) for loaded in batches]
    features = torch.cat(found) if found else torch.empty(0, encoder.dim)
    return features.view(len(indices), max(views, 1), encoder.dim).transpose(0, 1).contiguous()


def load_again(images: LabelledImages, index: int) -> Image.Image:
    """Decode an image whose features are known.

    Raises:
        UserError: It cannot be read any more.
    """
    try:
        return images.load(index)
    except UnreadableImageError as error:
        raise UserError(f"{error}; it could be read when its features were computed: restore it") from error


def augmented_views(image: Image.Image, size: int, count: int, augment: AugmentConfig, seed: int) -> Tensor:
    """Views (count, 3, size, size) of one real image, by the same rule as the synthetic images' views."""
    from torchvision.transforms.v2 import functional as tv

    if augment.real_crop:
        # As LGM's authors do: each view is cut from its own random square.
        key = seed_of(seed, Stream.REAL_VIEWS)
        squares = random_squares(image, augment.real_crop, count, seed=key)
        return apply_views(squares, draw_views(augment, count, seed=seed), size)
    limit = _SHRINK_ABOVE * size
    if min(image.size) > limit:
        scale = limit / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    pixels = tv.to_dtype(tv.pil_to_tensor(image), torch.float32, scale=True)
    views = draw_views(augment, count, seed=seed, aspect=image.width / image.height)
    return apply_views(pixels.expand(count, -1, -1, -1), views, size)


def prefetched(load: Callable[[int], Result], indices: Sequence[int], per_batch: int) -> Iterator[list[Result]]:
    """Load in threads, two batches ahead of their use; batches and their entries keep their order."""
    with Workers() as workers:
        loaded = workers.map(load, indices, ahead=2 * per_batch)
        while batch := list(islice(loaded, per_batch)):
            yield batch
