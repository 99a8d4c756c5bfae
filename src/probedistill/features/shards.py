"""Where the cache keeps a bank of features: a folder of shards, each of them complete or absent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor

from ..config import AugmentConfig
from ..encoders.encoder import Encoder
from ..images.labelled import LabelledImages
from ..machine.places import cache_folder
from ..store.records import as_plain, from_plain
from ..store.tensors import TornFileError, load_tensors, save_tensors
from .bank import BankManifest, Held, Shard
from .notes import EncoderNote, ImagesNote

_FORMAT = 2
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def bank_files(
    encoder: Encoder,
    images: LabelledImages,
    views: int,
    augment: AugmentConfig | None,
    seed: int,
    cache: Path | str | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    shard_size: int = 512,
) -> BankFiles:
    """Where the cache keeps, or will keep, a bank; arguments as for `extract_features`."""
    manifest = BankManifest(
        format=_FORMAT,
        encoder=EncoderNote.of(encoder),
        precision=encoder.precision,
        images=ImagesNote(images.spec, images.split, images.fingerprint),
        count=len(images),
        views=views,
        augment=(augment or AugmentConfig()).settled(transformer=encoder.is_transformer) if views else None,
        seed=seed if views else None,
        dtype=dtype,
        shard_size=shard_size,
    )
    return BankFiles(manifest, cache_folder(cache))


def key_of(record: object) -> str:
    """The key of features in the cache: a digest of everything that they depend on."""
    return hashlib.sha256(json.dumps(as_plain(record), sort_keys=True).encode()).hexdigest()[:16]


def plain_name(name: str) -> str:
    """A name as a part of a file's name."""
    return "".join(c if c.isalnum() or c in "._" else "_" for c in name)[:60]


@dataclass(frozen=True)
class ShardRecord:
    """Which features a file contains.

    Attributes:
        bank: The bank's key.
        first: Number of the first image.
        skipped: Why images were left out, a line each.
    """

    bank: str
    first: int
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardContent:
    """A shard that has been made or checked."""

    features: Held | Shard
    indices: Tensor
    skipped: tuple[str, ...]

    def held(self) -> ShardContent:
        """The shard in memory, in float32."""
        centre, augmented = self.features.read()
        return replace(self, features=Held(centre.float(), augmented.float()))

    def first_features(self, dim: int) -> ShardContent:
        """The shard with only the first ``dim`` features of each view."""
        centre, augmented = self.features.read()
        return replace(self, features=Held(centre[:, :dim].contiguous(), augmented[..., :dim].contiguous()))

    def in_file(self, path: Path) -> ShardContent:
        """The shard as a file that is read when it is needed."""
        return replace(self, features=Shard(path, len(self.indices)))


class BankFiles:
    """The shards of one bank in the cache.

    Args:
        manifest: What the features depend on.
        cache: The cache's folder.
    """

    def __init__(self, manifest: BankManifest, cache: Path) -> None:
        self.manifest, self.key = manifest, key_of(manifest)
        name = f"{plain_name(manifest.encoder.name)}-{plain_name(manifest.images.split)}-{self.key}"
        self.folder, self._cache = cache / "features" / name, cache
        self._starts = range(0, manifest.count, manifest.shard_size)

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self._starts)

    def rows(self, number: int) -> range:
        """Which images a shard is for."""
        return range(self._starts[number], min(self._starts[number] + self.manifest.shard_size, self.manifest.count))

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{number:05d}.safetensors"

    def write(self, number: int, content: ShardContent) -> None:
        """Write a shard, whole or not at all."""
        centre, augmented = content.features.read()
        record = ShardRecord(self.key, self.rows(number).start, content.skipped)
        tensors = {"centre": centre, "augmented": augmented, "indices": content.indices}
        save_tensors(self.path(number), tensors, as_plain(record))

    def read(self, number: int) -> ShardContent:
        """Read a shard.

        Raises:
            TornFileError: The file is damaged, or of another bank.
        """
        path, rows = self.path(number), self.rows(number)
        tensors, metadata = load_tensors(path)
        try:
            record = from_plain(metadata, ShardRecord)
            centre, augmented, indices = (tensors[name] for name in ("centre", "augmented", "indices"))
        except (msgspec.ValidationError, KeyError) as error:
            raise TornFileError(f"{path} is not a file of features") from error
        dim, dtype = self.manifest.encoder.dim, DTYPES[self.manifest.dtype]
        shapes = centre.shape == (len(indices), dim) and augmented.shape == (self.manifest.views, len(indices), dim)
        inside = not len(indices) or (int(indices.min()) >= rows.start and int(indices.max()) < rows.stop)
        same = record.bank == self.key and record.first == rows.start
        if not (same and shapes and inside and centre.dtype == augmented.dtype == dtype):
            raise TornFileError(f"{path} has the features of different images")
        return ShardContent(Held(centre, augmented), indices, record.skipped)

    @property
    def passes(self) -> int:
        """About how many images must go through the encoder before the bank is whole."""
        missing = [number for number in range(self.count) if not self.path(number).exists()]
        centres = self.centres()
        fresh = [number for number in missing if not (self.manifest.views and centres.path(number).exists())]
        return sum(len(self.rows(n)) for n in missing) * self.manifest.views + sum(len(self.rows(n)) for n in fresh)

    def of_encoder(self, encoder: Encoder) -> BankFiles:
        """The bank of another encoder's features of the same images."""
        return BankFiles(replace(self.manifest, encoder=EncoderNote.of(encoder)), self._cache)

    def centres(self) -> BankFiles:
        """The bank of the same images without views."""
        return BankFiles(replace(self.manifest, views=0, augment=None, seed=None), self._cache)
