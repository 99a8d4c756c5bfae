"""Real images to show next to the distilled ones in a report: the nearest, in the features of the run's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import ImageOps
from torch import Tensor

from ..config import ImagesConfig
from ..encoders.encoder import Encoder
from ..encoders.load import load_encoder
from ..encoders.named import check_made_with, encoder_config
from ..encoders.trust import check_file_options, read_yaml
from ..errors import UserError, explained, option
from ..features.bank import FeatureBank
from ..features.classes import neighbours
from ..features.encode import encode, load_again
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages
from ..images.splits import load_splits
from ..store.distilled import DistilledSet
from ..store.layout import CONFIG
from .gather import RealImage, ShownRun

NEIGHBOURS = 3
"""Number of real images shown next to a distilled one."""

REAL_PIXELS = 160
"""Side in pixels of a real image."""


def with_real_images(runs: Sequence[ShownRun], store: FeatureStore) -> list[ShownRun]:
    """Return the runs; finished ones have the nearest real training images of the same class for each image.

    Images and encoder are opened as each run's config.yaml names them; ``store`` provides their features.

    Raises:
        UserError: No config.yaml, images or an encoder other than the run's, or an unreadable image.
    """
    return [replace(run, near=_nearest(run.folder, store)) if run.finished else run for run in runs]


def _nearest(folder: Path, store: FeatureStore) -> tuple[tuple[RealImage, ...], ...]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} has no {CONFIG} that names its images; leave {option('real_images', True)} out"
        )
    distilled, images = DistilledSet.load(folder), _images_config(path)
    train, _ = load_splits(images, progress=store.progress)
    encoder = load_encoder(encoder_config(str(path)))
    _check_same(distilled, train, encoder, path)
    config = distilled.run.config
    bank = replace(store, strict=images.strict).of(  # with the run's options, so that its features are in the cache
        encoder, train, views=config.real_view_count, augment=config.augment, seed=config.seed
    )
    rows = _rows(bank, encode(encoder, distilled.images), distilled.labels)
    return tuple(tuple(_real_image(train, int(bank.indices[row])) for row in line) for line in rows.tolist())


def _check_same(distilled: DistilledSet, train: LabelledImages, encoder: Encoder, path: Path) -> None:
    images, source, way_out = distilled.run.images, distilled.run.source, f"leave {option('real_images', True)} out"
    if images is None or images.fingerprint != train.fingerprint:
        raise UserError(
            f"the images that {str(path)!r} names are not the ones the run was made with; restore them or {way_out}"
        )
    check_made_with(
        encoder, source.fingerprint if source else None, called=f"run {str(path.parent)!r}",
        way_out=f"restore the file or {way_out}",
    )  # fmt: skip


def _rows(bank: FeatureBank, features: Tensor, labels: Tensor) -> Tensor:
    """Rows of the nearest real images of the same class for each of m features, int64 (m, `NEIGHBOURS` or fewer).

    `neighbours` uses no real image twice, so repeating an image three times gives its three nearest. Images of the same
    class are passed in separate calls, so that they may share a neighbour.
    """
    rows = torch.empty(len(labels), min(NEIGHBOURS, int(torch.bincount(bank.labels).min())), dtype=torch.int64)
    turn = _occurrence(labels)
    for t in turn.unique().tolist():
        here = (turn == t).nonzero().squeeze(1)
        repeated = here.repeat_interleave(rows.shape[1])
        rows[here] = neighbours(bank, features[repeated], labels[repeated]).view(len(here), -1)
    return rows


def _real_image(train: LabelledImages, index: int) -> RealImage:
    return RealImage(train.names[index], ImageOps.fit(load_again(train, index), (REAL_PIXELS, REAL_PIXELS)))


def _images_config(path: Path) -> ImagesConfig:
    called = f"config {str(path)!r}"
    known = {k: v for k, v in read_yaml(path, called).items() if k in ImagesConfig.__dataclass_fields__}
    check_file_options(known, called)
    if "data_dir" in known:
        known["data_dir"] = Path(str(known["data_dir"]))
    hint = f"leave {option('real_images', True)} out"
    if "images" not in known:
        raise UserError(f"{called} names no images: the run was made from statistics or from other sets; {hint}")
    with explained(f"{called} does not say which images the run used", TypeError, ValueError, hint=hint):
        return ImagesConfig(**known)


def _occurrence(labels: Tensor) -> Tensor:
    """For each label, how many equal labels come before it, int64 (m,)."""
    seen: dict[int, int] = {}
    turns = []
    for label in labels.tolist():
        turns.append(seen.get(label, 0))
        seen[label] = turns[-1] + 1
    return torch.tensor(turns)
