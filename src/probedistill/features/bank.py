"""The feature bank: real features in memory or in files, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..config import AugmentConfig
from ..errors import UserError
from ..machine.launch import processes_here
from ..machine.memory import total_memory
from ..store.tensors import TornFileError, map_tensors
from ..text import counted
from .notes import EncoderNote, ImagesNote

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..images.labelled import LabelledImages


BLOCK = 16_384
"""Rows of features per block."""


@dataclass(frozen=True)
class BankManifest:
    """Everything that the features of a bank depend on.

    Attributes:
        format: Version of the files.
        encoder: The encoder.
        precision: Arithmetic inside the encoder.
        images: The images.
        count: Number of images, unreadable ones included.
        views: Augmented views of each image.
        augment: How they were drawn; ``None`` without views.
        seed: Seed of the views; ``None`` without views.
        dtype: Type of the stored numbers.
        shard_size: Images per file.
        class_names: C names.
        skipped: Why images were left out, one line each.
    """

    format: int
    encoder: EncoderNote
    precision: str
    images: ImagesNote
    count: int
    views: int
    augment: AugmentConfig | None
    seed: int | None
    dtype: Literal["float32", "float16"]
    shard_size: int
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """Features of some images in memory: centre (n, d), augmented (V, n, d)."""

    centre: Tensor
    augmented: Tensor

    def __len__(self) -> int:
        return len(self.centre)

    def read(self) -> tuple[Tensor, Tensor]:
        """Features of the centre crops and of the views."""
        return self.centre, self.augmented


@dataclass(frozen=True)
class Shard:
    """Features of ``count`` images in a file, mapped again at each use: one shard at a time is in memory."""

    path: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def read(self) -> tuple[Tensor, Tensor]:
        """Features of the centre crops and of the views."""
        try:
            centre, augmented = map_tensors(self.path, ("centre", "augmented"))
        except TornFileError as error:
            raise UserError(f"cached features were lost while in use: {error}; run it again") from error
        return centre, augmented


class FeatureBank:
    """Features of real images: the centre crop and any number of augmented views.

    A bank is in memory or, if it is too large, in files that are read block by block; `blocks` and `take` work for
    both with bounded memory. `centre`, `augmented` and `all_views` read everything.

    Args:
        centre: (N, d) float, features of the centre crop.
        augmented: (V, N, d) float, features of V augmented views (V may be 0).
        labels: (N,) int64.
        indices: (N,) int64, which images of the source these are (unreadable ones are left out).
        class_names: C names.
        manifest: What the features depend on; ``None`` for features of unknown origin.

    Attributes:
        labels, indices, class_names, manifest: See above.
        num_views: V.
        dim: d.
        dtype: Type of the features as they are given out, float32 unless float64 was given.
    """

    def __init__(
        self,
        centre: Tensor,
        augmented: Tensor,
        labels: Tensor,
        indices: Tensor,
        class_names: tuple[str, ...],
        manifest: BankManifest | None = None,
    ) -> None:
        self._parts: Sequence[Held | Shard] = (Held(centre, augmented),)
        self.num_views, self.dim = len(augmented), centre.shape[1]
        self.dtype = _at_least_float32(centre[:0]).dtype
        self.labels, self.indices, self.class_names, self.manifest = labels, indices, class_names, manifest

    @classmethod
    def of_parts(
        cls,
        parts: Sequence[Held | Shard],
        num_views: int,
        dim: int,
        labels: Tensor,
        indices: Tensor,
        class_names: tuple[str, ...],
        manifest: BankManifest | None,
    ) -> FeatureBank:
        """Join consecutive parts into one bank; either all are in memory or all in files."""
        bank = cls(torch.empty(0, dim), torch.empty(num_views, 0, dim), labels, indices, class_names, manifest)
        bank._parts = tuple(part for part in parts if len(part))
        if bank.in_memory:
            bank._parts = (bank._whole,)
        return bank

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        where = "in memory" if self.in_memory else "in files"
        return f"FeatureBank({counted(len(self), 'image')}, {counted(self.num_views, 'view')}, d = {self.dim}, {where})"

    @property
    def in_memory(self) -> bool:
        """Whether the features are held in memory."""
        return all(isinstance(part, Held) for part in self._parts)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def num_bytes(self) -> int:
        """Size of the features in memory, in float32: (1 + V) · N · d · 4 bytes."""
        return bytes_of(len(self), self.num_views, self.dim)

    @property
    def skipped(self) -> list[str]:
        """Why images were left out, one line each."""
        return list(self.manifest.skipped) if self.manifest is not None else []

    @property
    def augment(self) -> AugmentConfig | None:
        """How the views were drawn; ``None`` without views, or if it is unknown."""
        return self.manifest.augment if self.manifest is not None else None

    @property
    def centre(self) -> Tensor:
        """(N, d) float32, features of the centre crop, all in memory."""
        return self._whole.centre

    @property
    def augmented(self) -> Tensor:
        """(V, N, d) float32, features of the augmented views, all in memory."""
        return self._whole.augmented

    @cached_property
    def _whole(self) -> Held:
        if len(self._parts) == 1 and isinstance(self._parts[0], Held):
            return self._parts[0]
        centre, augmented = torch.empty(len(self), self.dim), torch.empty(self.num_views, len(self), self.dim)
        start = 0
        for part in self._parts:
            end = start + len(part)
            centre[start:end], augmented[:, start:end] = part.read()
            start = end
        return Held(centre, augmented)

    def all_labels(self) -> Tensor:
        """Labels (n,) of `all_views`."""
        return self.labels.repeat(self.num_views) if self.num_views > 1 else self.labels

    def all_views(self) -> tuple[Tensor, Tensor]:
        """Features (n, d) and labels (n,) of the augmented views, or of the centre crops if there are none."""
        return (self.augmented.flatten(0, 1) if self.num_views else self.centre), self.all_labels()

    def blocks(self, *, views: Literal["all", "centre"] = "all", size: int = BLOCK) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over features (n, d) float32 and labels (n,), n ≤ ``size``, in bounded memory.

        Args:
            views: ``"all"`` gives the rows of `all_views`, file by file; ``"centre"`` the centre crops, in order.
            size: Largest block.
        """
        start = 0
        for part in self._parts:
            labels = self.labels[start : start + len(part)]
            start += len(part)
            centre, augmented = part.read()
            for features in augmented if views == "all" and self.num_views else (centre,):
                for block, block_labels in zip(features.split(size), labels.split(size), strict=True):
                    yield _at_least_float32(block), block_labels

    def take(self, rows: Tensor, *, views: Literal["all", "centre"] = "all") -> Tensor:
        """Features (n, d) float32 of some rows of `all_views`, or of ``centre``; reads only these."""
        rows, augmented_ones = rows.cpu(), views == "all" and self.num_views > 0
        if "_whole" in self.__dict__ or self.in_memory:
            whole = self.augmented.flatten(0, 1) if augmented_ones else self.centre
            return _at_least_float32(whole[rows])
        view, image = rows // len(self), rows % len(self)
        ends = torch.tensor([len(part) for part in self._parts]).cumsum(0)
        place = torch.searchsorted(ends, image, right=True)  # the part that holds each row
        features = torch.empty(len(rows), self.dim)
        order = place.argsort(stable=True)
        for wanted in order.split(torch.bincount(place, minlength=len(ends)).tolist()):
            if len(wanted):
                p = int(place[wanted[0]])
                centre, augmented = self._parts[p].read()
                within = image[wanted] - (ends[p] - len(self._parts[p]))
                chosen = augmented[view[wanted], within] if augmented_ones else centre[within]
                features[wanted] = chosen.float()
        return features

    def select(self, rows: Tensor) -> FeatureBank:
        """Return a bank of some of the images, in memory."""
        rows = torch.arange(len(self))[rows]
        every = (torch.arange(self.num_views)[:, None] * len(self) + rows).flatten()
        augmented = self.take(every) if len(every) else torch.empty(0, self.dim)
        return FeatureBank(
            self.take(rows, views="centre"), augmented.view(self.num_views, len(rows), self.dim),
            self.labels[rows], self.indices[rows], self.class_names, self.manifest,
        )  # fmt: skip

    def labelled(self, images: LabelledImages) -> FeatureBank:
        """Return the bank with the classes and labels of ``images``: the same images, with classes in another order."""
        labels = torch.as_tensor(images.labels)[self.indices]
        return FeatureBank.of_parts(
            self._parts, self.num_views, self.dim, labels, self.indices, images.class_names, self.manifest
        )

    def columns(self, start: int, stop: int) -> FeatureColumns:
        """Return some columns of the features of every image, read from the same place."""
        return FeatureColumns(self, slice(start, stop))

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise `UserError` unless ``encoder`` made these features."""
        made_by = self.manifest.encoder if self.manifest is not None else EncoderNote("?", "", self.dim)
        if made_by.fingerprint != encoder.fingerprint:
            raise UserError(
                f"the features are of encoder {made_by.name!r} ({made_by.fingerprint[:12]}), not of {encoder.name!r} "
                f"({encoder.fingerprint[:12]}); extract them with this encoder"
            )


@dataclass(frozen=True)
class FeatureColumns:
    """Some of the d features of every image of a bank.

    Attributes:
        bank: The bank.
        which: Their columns.
    """

    bank: FeatureBank
    which: slice

    @property
    def dim(self) -> int:
        """Number of columns."""
        return len(range(*self.which.indices(self.bank.dim)))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features as they are given out."""
        return self.bank.dtype

    def all_views(self) -> Tensor:
        """Features (n, dim) as `FeatureBank.all_views`, all in memory."""
        return self.bank.all_views()[0][:, self.which].contiguous()

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over features (n, dim) and labels (n,), in bounded memory."""
        return ((features[:, self.which], labels) for features, labels in self.bank.blocks())

    def take(self, rows: Tensor) -> Tensor:
        """Features (n, dim) of some rows of `FeatureBank.all_views`."""
        return self.bank.take(rows)[:, self.which]


def _at_least_float32(features: Tensor) -> Tensor:
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def bytes_of(count: int, views: int, dim: int) -> int:
    """Bytes of a bank's features in float32."""
    return (1 + views) * count * dim * 4


def comfortable_bytes(device: torch.device | str = "cpu") -> int:
    """How many bytes to keep on a device: a quarter of its total memory, so that a resumed run decides the same."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return total_memory() // 4 // processes_here()
