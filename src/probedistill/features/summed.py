"""Class statistics of images, computed: their features are summed, with noise if they are to be private."""

from __future__ import annotations

import secrets
from pathlib import Path

from .._version import __version__
from ..config import AugmentConfig
from ..encoders.encoder import Encoder, check_encoder
from ..images.labelled import LabelledImages, check_class_names, check_labelled
from ..machine.torch_state import own_torch_state
from ..store.run_record import EncoderRecord, PartRecord, StatisticsRecord
from .bank import FeatureBank
from .privacy import unit_sums, with_noise
from .statistics import ClassStatistics
from .store import FeatureStore

_MADE_BY = f"probedistill {__version__}"


@own_torch_state()
def class_statistics(
    encoder: Encoder,
    images: LabelledImages,
    *,
    name: str = "images",
    views: int = 0,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    second_moments: bool = True,
    epsilon: float | None = None,
    delta: float = 1e-5,
    insecure_noise_seed: int | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
    features: FeatureStore | None = None,
) -> ClassStatistics:
    """Compute class sums of the features of images; no image can be recovered from sums over many.

    The sum over a class with one image is that image's feature. Sums alone are no protection; ``epsilon`` adds it. Two
    calls for the same images are two releases, whose ε and δ add up.

    Args:
        encoder: The frozen encoder.
        images: Labelled images.
        name: Name of the images, which others see.
        views: Augmented views of each image; 0: the centre crop alone.
        augment: How views are drawn.
        seed: Seed of the views.
        second_moments: Also sum the squares and products of features: `clp`, `lgm` and LDA need them, `sfm` does not.
            They are left out with ``epsilon``.
        epsilon: ε of (ε, δ)-differential privacy for every image, achieved with noise in the counts and in the sums of
            features of length 1 (`with_noise`). Class names are assumed to be public. Default: no noise.
        delta: δ; choose it far below one over the number of images.
        insecure_noise_seed: Draw the noise from this seed, for tests; the result is marked as not private.
        cache: Folder of feature banks; default ``$PROBEDISTILL_CACHE`` or ``~/.cache/probedistill``.
        strict: Raise on an unreadable image instead of leaving it out with a warning.
        progress: Show progress bars.
        features: Where features come from, instead of ``cache``, ``strict`` and ``progress``.

    Raises:
        UserError: As for `extract_features` and `with_noise`.
    """
    check_encoder(encoder)
    check_labelled(images)
    check_class_names(images.class_names, f"images {images.spec!r}")
    store = features or FeatureStore(cache, strict, progress)
    bank = store.of(encoder, images, views=views, augment=augment or AugmentConfig(), seed=seed)
    if epsilon is not None:
        return private_statistics(
            bank, EncoderRecord.of(encoder), name, epsilon=epsilon, delta=delta,
            insecure_noise_seed=insecure_noise_seed, progress=store.progress,
        )  # fmt: skip
    part = PartRecord(name, images.fingerprint, len(bank), _MADE_BY)
    return ClassStatistics.of_bank(
        bank, EncoderRecord.of(encoder), part, second_moments=second_moments, progress=store.progress
    )


def private_statistics(
    bank: FeatureBank,
    encoder: EncoderRecord,
    name: str,
    *,
    epsilon: float,
    delta: float = 1e-5,
    insecure_noise_seed: int | None = None,
    progress: bool = False,
) -> ClassStatistics:
    """Statistics of a bank that are (ε, δ)-differentially private; arguments as for `class_statistics`.

    Only the noisy counts and sums depend on the images: the part has a random identifier instead of the images'
    fingerprint, and the number of images is that of the noisy counts.
    """
    counts, sums, promise = with_noise(
        *unit_sums(bank), epsilon=epsilon, delta=delta, insecure_seed=insecure_noise_seed, progress=progress
    )
    part = PartRecord(name, secrets.token_hex(32), max(0, round(float(counts.sum()))), _MADE_BY)
    about = StatisticsRecord(
        encoder=encoder, views=bank.num_views, augment=bank.augment, class_names=bank.class_names, parts=(part,),
        privacy=promise,
    )  # fmt: skip
    return ClassStatistics(about, counts, sums)
