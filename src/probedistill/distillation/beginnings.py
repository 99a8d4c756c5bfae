"""What synthetic images start from: photos, blends or averages of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import DistillConfig
from ..encoders.encoder import Encoder
from ..features.bank import FeatureBank
from ..features.classes import clusters, k_medoids, nearest_to_centres
from ..features.encode import load_again, prefetched
from ..images.labelled import LabelledImages
from ..machine.progress import ProgressBar

_BLEND_CONTRAST = 2.0
_AVERAGED = 100  # photos: more would hardly change the average, and each must be read
_AVERAGE_SIDE = 32  # pixels


def starting_images(
    config: DistillConfig,
    encoders: Sequence[Encoder],
    bank: FeatureBank,
    train: LabelledImages,
    size: int,
    own: slice = slice(None),
    *,
    progress: bool = False,
) -> Tensor:
    """Return what synthetic images start from: photos, blends or averages of photos, according to ``canvas.init``.

    Args:
        config: Resolved.
        encoders: The run's encoders; the one with the largest input crops the photos.
        bank: Features of the first encoder, which choose the photos.
        train: The photos.
        size: Side S of the canvas.
        own: Which of the m images.
        progress: Show a progress bar while photos are read.

    Returns:
        (m, 3, S, S) in [0, 1].

    Raises:
        UserError: A photo can no longer be read, or a class has too few.
    """
    sharpest = max(encoders, key=lambda encoder: encoder.input_size)
    together = average_of if config.canvas.init == "average" else blend_of

    def cut(index: int) -> Tensor:
        return sharpest.centre_view(load_again(train, index), size)

    photos_of, found = _photos_to_start_from(config, bank)[own], []
    with ProgressBar("photos to start from", sum(map(len, photos_of)), enabled=progress) as bar:
        for photos in photos_of:
            (cuts,) = prefetched(cut, photos, len(photos))
            found.append(together(cuts))
            bar.advance(len(photos))
    return torch.stack(found)


def _photos_to_start_from(config: DistillConfig, bank: FeatureBank) -> list[list[int]]:
    """Indices of the real images that each synthetic image starts from."""
    if config.canvas.init == "real":
        rows = list(k_medoids(bank, config.images_per_class, seed=config.seed)[:, None])
    elif config.canvas.init == "average":
        least = config.canvas.blend
        rows = clusters(bank, config.images_per_class, least=least, most=_AVERAGED, seed=config.seed)
    else:
        rows = nearest_to_centres(bank, config.images_per_class, config.canvas.blend, seed=config.seed)
    return [bank.indices[some].tolist() for some in rows]


def blend_of(photos: Sequence[Tensor]) -> Tensor:
    """The mean (3, S, S) of several images; one image stays as it is."""
    return photos[0] if len(photos) == 1 else _with_contrast(torch.stack(list(photos)).mean(dim=0))


def average_of(photos: Sequence[Tensor]) -> Tensor:
    """The mean (3, S, S) of images at low resolution; of many images, it shows only what they have in common."""
    size = photos[0].shape[-1]
    coarse = [F.adaptive_avg_pool2d(photo, min(size, _AVERAGE_SIDE)) for photo in photos]
    mean = _with_contrast(torch.stack(coarse).mean(dim=0))
    return F.interpolate(mean[None], size=size, mode="bilinear", align_corners=False)[0]


def _with_contrast(mean: Tensor) -> Tensor:
    # A mean of photos has about half the contrast of a photo; encoders were trained on few images as flat as that.
    middle = mean.mean(dim=(1, 2), keepdim=True)
    return (middle + _BLEND_CONTRAST * (mean - middle)).clamp(0, 1)
