"""Real images of a baseline as a set like any other, so that they can be evaluated, transferred and exported."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._version import __version__
from ..config import CanvasConfig, DistillConfig
from ..encoders.encoder import Encoder
from ..features.bank import FeatureBank
from ..features.classes import herding, k_medoids, medoids, random_images
from ..features.store import FeatureStore
from ..images.duplicates import check_not_one_picture, digest_of_pictures
from ..images.labelled import LabelledImages
from ..methods import check_name, check_number
from ..store.distilled import DistilledSet
from ..store.run_record import EncoderRecord, ImagesRecord, RunRecord

CHOICES: dict[str, Callable[[FeatureBank, int, int], Tensor]] = {
    "random": lambda bank, count, seed: random_images(bank, count, seed=seed),
    "centroids": lambda bank, count, seed: medoids(bank, count),
    "herding": lambda bank, count, seed: herding(bank, count),
    "kmedoids": lambda bank, count, seed: k_medoids(bank, count, seed=seed),
}
"""Name of a baseline → a function for the rows of a bank that it chooses, a number per class."""


def real_set(
    choice: str,
    encoder: Encoder,
    train: LabelledImages,
    *,
    images_per_class: int = 1,
    seed: int = 0,
    test: LabelledImages | None = None,
    features: FeatureStore | None = None,
) -> DistilledSet:
    """Choose real images that represent their classes, cropped to the encoder's input.

    Args:
        choice: One of `CHOICES`.
        encoder: The encoder that chooses them.
        train: The real images.
        images_per_class: Number of images for each class.
        seed: Seed for the choice.
        test: Real images that were held out, to be named in the record.
        features: Where features come from.

    Raises:
        UserError: Unknown choice, or a class has too few images.
    """
    check_name("baseline to save", choice, CHOICES)
    check_number("images_per_class", images_per_class, least=1, whole=True)
    check_not_one_picture(train)
    bank = (features or FeatureStore()).of(encoder, train)
    rows = CHOICES[choice](bank, images_per_class, seed)
    images = [encoder.centre_view(train.load(index)) for index in bank.indices[rows].tolist()]
    run = RunRecord(
        finished=True,
        config=DistillConfig(
            method=choice, steps=0, images_per_class=images_per_class, seed=seed, canvas=CanvasConfig(init="real")
        ),
        encoders=(EncoderRecord.of(encoder),),
        images=ImagesRecord.of(train),
        class_names=train.class_names,
        versions={"probedistill": __version__},
        device=str(encoder.device),
        test=ImagesRecord.of(test) if test is not None else None,
        skipped=tuple(bank.skipped),
        begun_from="real",
        pictures=digest_of_pictures(train),
    )
    return DistilledSet(torch.stack(images), bank.labels[rows], train.class_names, run)
