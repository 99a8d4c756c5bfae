"""The command that adds soft labels and the source encoder's head to a finished run: label."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..config import EncoderConfig, ImagesConfig
from ..errors import UserError
from ..store.layout import CONFIG
from ..store.named import check_own, run_folder
from ..text import counted
from .app import Cache, EncoderOptions, Folder, Images, Progress, command, show

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..store.run_record import RunRecord


@command(ImagesConfig, EncoderConfig)
def label(
    folder: Folder,
    images: Images,
    encoder: EncoderOptions,
    *,
    soft_labels: Literal["none", "source", "learned"] = "none",
    keep_head: bool = False,
    seed: int = 0,
    cache: Cache = None,
    progress: Progress = True,
) -> None:
    """Add soft labels to a finished run, the head of its encoder (for classifier inheritance), or both.

    Example: probedistill label runs/photos --config runs/photos/config.yaml --soft-labels learned --keep-head

    They are stored in tensors.safetensors with the images, and evaluate uses them from then on. Earlier soft labels or
    an earlier head are replaced only by a new one of the same kind.

    Parameters
    ----------
    soft_labels:
        source: predictions for the synthetic images by the encoder's head trained on real data. learned: labels
        optimised so that a ridge probe trained on them is best on the real images; other probes are much worse with
        them.
    keep_head:
        Store the head trained on all real features of the encoder: (features + 1) × classes × 4 bytes.
    seed:
        Seed of the views of the synthetic images that soft labels are computed from.
    """
    from ..encoders.load import load_encoder
    from ..features.extract import extract_features
    from ..images.labelled import of_classes
    from ..images.splits import load_splits
    from ..ship.labels import with_extras
    from ..store.distilled import DistilledSet
    from ..store.files import check_writable
    from ..store.locks import claimed

    if soft_labels == "none" and not keep_head:
        raise UserError("nothing to add; give --soft-labels source, --soft-labels learned or --keep-head")
    folder = run_folder(folder)
    check_own(folder)
    name = f"run {str(folder)!r}"
    if not folder.is_dir():
        raise UserError(f"no such folder {str(folder)!r}; give the folder of a finished run")
    with claimed(folder, called="run"):  # prevents others from replacing the run meanwhile
        distilled = DistilledSet.load(folder)
        check_writable(folder)
        if distilled.run.privacy is not None:
            raise UserError(
                f"{name} is {distilled.run.privacy}, and labels or a head from the photos would break that promise; "
                "leave it as it is"
            )
        train, _ = load_splits(images, progress=progress)
        train = of_classes(train, distilled.class_names, name)
        model = load_encoder(encoder)
        _check_made_with(model, distilled.run, folder)
        before = distilled.run.images
        if not distilled.run.made_elsewhere and before.fingerprint != train.fingerprint:
            warnings.warn(
                f"{str(folder)!r} was made from other images: {before.spec} with {counted(before.count, 'image')}, now "
                f"{train.spec} with {len(train):,}; if that is the same place, files have come, gone or changed",
                stacklevel=2,
            )
        # The run's own features, so that they are found in the cache.
        settings = distilled.run.config
        bank = extract_features(
            model, train, views=settings.real_view_count, augment=settings.augment, seed=settings.seed,
            cache=cache, strict=images.strict, progress=progress,
        )  # fmt: skip
        labelled = with_extras(
            distilled, model, bank, soft_labels=soft_labels, keep_head=keep_head, seed=seed, progress=progress
        )
        labelled.save_extras(folder)
    added = [f"soft labels ({soft_labels})"] * (soft_labels != "none") + ["the head of its encoder"] * keep_head
    show(f"{' and '.join(added)} → {folder}")


def _check_made_with(model: Encoder, run: RunRecord, folder: Path) -> None:
    """Refuse an encoder other than the run's own, because labels and head belong to that encoder."""
    source = run.source
    if source is None:
        raise UserError(
            f"run {str(folder)!r} does not say which encoder it was made with, and labels and head belong to that "
            "encoder; evaluate it with --probes ridge, or import it again with --encoder"
        )
    if source.fingerprint != model.fingerprint:
        own = folder / CONFIG
        raise UserError(
            f"{str(folder)!r} was made with encoder {source}, not with {model.name!r} at {model.input_size} px; "
            "give its own: " + (f"--config {own}" if own.is_file() else f"--encoder {source.name}")
        )
