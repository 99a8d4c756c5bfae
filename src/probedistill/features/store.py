"""Where features come from: a cache on disk, shared by everything in one command and by later ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config import AugmentConfig
from ..encoders.encoder import Encoder
from ..images.labelled import LabelledImages, digest_of
from ..machine.places import cache_folder, checked_cache
from ..machine.processes import ALONE, Processes
from ..seeds import Stream
from ..store.files import remove_leftovers
from ..store.layout import check_beside_images
from ..store.tensors import TornFileError, check_tensors, load_tensors, map_tensors, save_tensors
from .bank import FeatureBank
from .encode import encode, real_view_features, view_features
from .extract import extract_features
from .shards import bank_files, key_of, plain_name

_LARGEST_FILE = 2**31
"""Most bytes of views in a cached file; larger ones are computed again when they are needed."""


@dataclass(frozen=True)
class ViewsNote:
    """What features of augmented views depend on.

    Attributes:
        encoder: Fingerprint of the encoder.
        precision: Its arithmetic.
        images: Digest of the pixels of synthetic images, or fingerprint of real ones.
        real: Whether they are real.
        views: Number of views of each image; 0 for the centre view.
        augment: How they were drawn; ``None`` without views.
        seed: Seed of the views; ``None`` without views.
        stream: What they were drawn for.
    """

    encoder: str
    precision: str
    images: str
    real: bool
    views: int
    augment: AugmentConfig | None
    seed: int | None
    stream: int


@dataclass
class FeatureStore:
    """Features of images, computed once and kept.

    A store is created once for a command, or for a call from Python, and passed on instead of its fields.

    >>> bank = FeatureStore(cache="features").of(encoder, images, views=2)  # doctest: +SKIP

    Attributes:
        cache: Folder of features; default ``$PROBEDISTILL_CACHE`` or ``~/.cache/probedistill``.
        strict: Raise on an unreadable image instead of leaving it out with a warning.
        progress: Show progress bars.
        team: Processes that share the work.
    """

    cache: Path | str | None = None
    strict: bool = False
    progress: bool = True
    team: Processes = ALONE
    _found: dict[tuple[object, ...], FeatureBank] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the folder before any work.

        Raises:
            UserError: It is a file, or is among the images of a run.
        """
        check_beside_images(checked_cache(self.cache), "cache ")

    def quiet(self) -> FeatureStore:
        """The same store without progress bars; the two share their banks."""
        other = replace(self, progress=False)
        other._found = self._found
        return other

    def of(
        self,
        encoder: Encoder,
        images: LabelledImages,
        *,
        views: int = 0,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ) -> FeatureBank:
        """Features of the centre crops of ``images``, and of ``views`` augmented views of each.

        A bank that this store has given before is given again, without a look at the disk.

        Raises:
            UserError: As for `extract_features`.
        """
        how = (repr(augment), seed) if views else ()
        key = (encoder.fingerprint, encoder.precision, images.fingerprint, images.class_names, views, *how)
        if key not in self._found:
            self._found[key] = extract_features(
                encoder, images, views=views, augment=augment, seed=seed,
                cache=self.cache, strict=self.strict, progress=self.progress, processes=self.team,
            )  # fmt: skip
        return self._found[key]

    def release(self, encoder: Encoder) -> None:
        """Drop the banks of an encoder that is done; its features are read from the disk if they are needed again."""
        for key in [key for key in self._found if key[0] == encoder.fingerprint]:
            del self._found[key]

    def synthetic_views(
        self,
        encoder: Encoder,
        images: Tensor,
        *,
        views: int,
        augment: AugmentConfig,
        seed: int,
        stream: Stream = Stream.PROBE_VIEWS,
    ) -> Tensor:
        """Features (V, m, d) of V augmented views of images (m, 3, S, S), or (1, m, d) of the images for V = 0."""
        note = _note(encoder, _digest(images), False, views, augment, seed, stream)
        kept = self._read(encoder, note, len(images))
        if kept is not None:
            return kept["features"]
        checked_cache(self.cache, writes=True)
        features = (
            view_features(encoder, images, augment, views, seed=seed, stream=stream)
            if views
            else encode(encoder, images)[None]
        )
        self._keep(encoder, note, {"features": features})
        return features

    def real_views(
        self,
        encoder: Encoder,
        images: LabelledImages,
        indices: Sequence[int],
        *,
        views: int,
        augment: AugmentConfig,
        seed: int,
    ) -> Tensor:
        """Features (V, n, d) of V augmented views of some real images, or (1, n, d) of centre crops for V = 0.

        An image that was requested before, even together with other images, is not encoded again.

        Raises:
            UserError: An image cannot be read.
        """
        note = _note(encoder, images.fingerprint, True, views, augment, seed, Stream.PROBE_VIEWS)
        kept = self._read(encoder, note) or {
            "indices": torch.empty(0, dtype=torch.int64),
            "features": torch.empty(max(views, 1), 0, encoder.dim),
        }
        known = set(kept["indices"].tolist())
        missing = [index for index in dict.fromkeys(indices) if index not in known]
        if missing:
            checked_cache(self.cache, writes=True)
            fresh = real_view_features(encoder, images, missing, augment, views, seed=seed)
            kept = {
                "indices": torch.cat([kept["indices"], torch.tensor(missing)]),
                "features": torch.cat([kept["features"], fresh], dim=1),
            }
            self._keep(encoder, note, kept)
        place = {index: number for number, index in enumerate(kept["indices"].tolist())}
        return kept["features"][:, [place[index] for index in indices]]

    # ---- how many images must go through the encoder first

    def passes_of(self, encoder: Encoder, images: LabelledImages) -> int:
        """For `of` without views."""
        return bank_files(encoder, images, 0, None, 0, self.cache).passes

    def passes_of_synthetic_views(
        self, encoder: Encoder, images: Tensor, *, views: int, augment: AugmentConfig, seed: int
    ) -> int:
        """For `synthetic_views`."""
        note = _note(encoder, _digest(images), False, views, augment, seed, Stream.PROBE_VIEWS)
        return 0 if self._path(encoder, note).exists() else len(images) * max(views, 1)

    def passes_of_real_views(
        self,
        encoder: Encoder,
        images: LabelledImages,
        indices: Sequence[int],
        *,
        views: int,
        augment: AugmentConfig,
        seed: int,
    ) -> int:
        """For `real_views`."""
        note = _note(encoder, images.fingerprint, True, views, augment, seed, Stream.PROBE_VIEWS)
        known: set[int] = set()
        with suppress(TornFileError):
            known = set(map_tensors(self._path(encoder, note), ["indices"])[0].tolist())
        return len(set(indices) - known) * max(views, 1)

    # ---- files

    def _path(self, encoder: Encoder, note: ViewsNote) -> Path:
        return cache_folder(self.cache) / "views" / f"{plain_name(encoder.name)}-{key_of(note)}.safetensors"

    def _read(self, encoder: Encoder, note: ViewsNote, count: int | None = None) -> dict[str, Tensor] | None:
        """What `_keep` wrote; ``count`` images, or as many as there are ``indices``."""
        path = self._path(encoder, note)
        if not path.exists():
            return None
        try:
            tensors, metadata = load_tensors(path)
            if count is None:
                count = tensors["indices"].numel() if "indices" in tensors else 0
                check_tensors(path, tensors, {"indices": (count,)})
            check_tensors(path, tensors, {"features": (max(note.views, 1), count, encoder.dim)})
        except TornFileError as error:
            warnings.warn(f"{error}; computing it again", stacklevel=3)
            return None
        return tensors if metadata == {"views": key_of(note)} else None

    def _keep(self, encoder: Encoder, note: ViewsNote, tensors: dict[str, Tensor]) -> None:
        if sum(part.numel() * part.element_size() for part in tensors.values()) <= _LARGEST_FILE:
            path = self._path(encoder, note)
            remove_leftovers(path.parent, older_than=3600)  # younger files may belong to a running process
            save_tensors(path, tensors, {"views": key_of(note)})


def _note(
    encoder: Encoder, images: str, real: bool, views: int, augment: AugmentConfig, seed: int, stream: Stream
) -> ViewsNote:
    return ViewsNote(
        encoder=encoder.fingerprint,
        precision=encoder.precision,
        images=images,
        real=real,
        views=views,
        augment=augment if views else None,
        seed=seed if views else None,
        stream=int(stream),
    )


def _digest(images: Tensor) -> str:
    return digest_of(images.contiguous().numpy().tobytes())
