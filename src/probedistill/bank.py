"""The feature bank: real features computed once, kept in shards, reused when their manifest matches."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ._memory import total_memory
from ._progress import ProgressBar
from .augment import apply_views, derive_seed, draw_views
from .config import AugmentConfig
from .errors import UserError, unknown_name
from .files import TornFileError, load_tensors, map_tensors, remove_leftovers, save_tensors, write_json
from .images import UnreadableImageError
from .parallel import ALONE, Processes

if TYPE_CHECKING:
    from .encoders import Encoder
    from .images import LabelledImages

BLOCK = 16_384
"""Rows of features that are worked on at a time."""

_FORMAT = 1
_SEED_STREAM = 3
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_SHRINK_ABOVE = 2  # times the input size: larger photos are shrunk once, before their views are cut


@dataclass(frozen=True)
class _Held:
    """Features of some images in memory: centre (n, d), augmented (V, n, d)."""

    centre: Tensor
    augmented: Tensor

    def __len__(self) -> int:
        return len(self.centre)

    def read(self) -> tuple[Tensor, Tensor]:
        return self.centre, self.augmented


@dataclass(frozen=True)
class _Shard:
    """Features of ``count`` images in a file, mapped anew at each use so that memory holds one shard at a time."""

    path: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def read(self) -> tuple[Tensor, Tensor]:
        try:
            centre, augmented = map_tensors(self.path, ("centre", "augmented"))
        except TornFileError as error:
            raise UserError(f"cached features were lost while in use: {error}; run it again") from error
        return centre, augmented


class FeatureBank:
    """Features of real images: the centre crop and any number of augmented views.

    A bank is in memory or, where that would be too much, in files that are read block by block; `blocks` and
    `take` work for both in bounded memory. `centre`, `augmented` and `all_views` read everything.

    Args:
        centre: (N, d) float, features of the centre crop.
        augmented: (V, N, d) float, features of V augmented views (V may be 0).
        labels: (N,) int64.
        indices: (N,) int64, which images of the source these are (unreadable ones are left out).
        class_names: C names.
        manifest: What the features were made of and with.

    Attributes:
        labels, indices, class_names, manifest: See above.
        num_views: V.
        dim: d.
        dtype: Of the features as they are given out, float32 unless float64 was given.
    """

    def __init__(
        self,
        centre: Tensor,
        augmented: Tensor,
        labels: Tensor,
        indices: Tensor,
        class_names: tuple[str, ...],
        manifest: dict[str, Any],
    ) -> None:
        self._parts: Sequence[_Held | _Shard] = (_Held(centre, augmented),)
        self.num_views, self.dim = len(augmented), centre.shape[1]
        self.dtype = _at_least_float32(centre[:0]).dtype
        self.labels, self.indices, self.class_names, self.manifest = labels, indices, class_names, manifest

    @classmethod
    def _of_parts(
        cls,
        parts: Sequence[_Held | _Shard],
        num_views: int,
        dim: int,
        labels: Tensor,
        indices: Tensor,
        class_names: tuple[str, ...],
        manifest: dict[str, Any],
    ) -> FeatureBank:
        """A bank of parts that follow each other: all held, which become one, or all in files."""
        bank = cls(torch.empty(0, dim), torch.empty(num_views, 0, dim), labels, indices, class_names, manifest)
        bank._parts = tuple(part for part in parts if len(part))
        if bank.in_memory:
            bank._parts = (bank._whole,)
        return bank

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        where = "in memory" if self.in_memory else "in files"
        return f"FeatureBank({len(self)} images, {self.num_views} views, d = {self.dim}, {where})"

    @property
    def in_memory(self) -> bool:
        """Whether the features are held in memory."""
        return all(isinstance(part, _Held) for part in self._parts)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def num_bytes(self) -> int:
        """What the features take in memory, in float32: (1 + V) · N · d · 4."""
        return _bytes(len(self), self.num_views, self.dim)

    @property
    def skipped(self) -> list[str]:
        """Why images were left out, a line each."""
        return list(self.manifest["skipped"])

    @property
    def centre(self) -> Tensor:
        """(N, d) float32, features of the centre crop, all in memory."""
        return self._whole.centre

    @property
    def augmented(self) -> Tensor:
        """(V, N, d) float32, features of the augmented views, all in memory."""
        return self._whole.augmented

    @cached_property
    def _whole(self) -> _Held:
        if len(self._parts) == 1 and isinstance(self._parts[0], _Held):
            return self._parts[0]
        centre, augmented = torch.empty(len(self), self.dim), torch.empty(self.num_views, len(self), self.dim)
        start = 0
        for part in self._parts:
            end = start + len(part)
            centre[start:end], augmented[:, start:end] = part.read()
            start = end
        return _Held(centre, augmented)

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
        """Features (n, d) float32 of some rows of `all_views`, or of ``centre``; reads no others."""
        rows, augmented_ones = rows.cpu(), views == "all" and self.num_views > 0
        if "_whole" in self.__dict__ or self.in_memory:
            whole = self.augmented.flatten(0, 1) if augmented_ones else self.centre
            return _at_least_float32(whole[rows])
        view, image = rows // len(self), rows % len(self)
        ends = torch.tensor([len(part) for part in self._parts]).cumsum(0)
        place = torch.searchsorted(ends, image, right=True)  # which part
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
        """The bank of some of its images, in memory."""
        rows = torch.arange(len(self))[rows]
        every = (torch.arange(self.num_views)[:, None] * len(self) + rows).flatten()
        augmented = self.take(every) if len(every) else torch.empty(0, self.dim)
        return FeatureBank(
            self.take(rows, views="centre"), augmented.view(self.num_views, len(rows), self.dim),
            self.labels[rows], self.indices[rows], self.class_names, self.manifest,
        )  # fmt: skip

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise `UserError` unless these features are of ``encoder``."""
        if self.manifest["encoder"]["fingerprint"] != encoder.fingerprint:
            raise UserError(
                f"the features are of encoder {self.manifest['encoder']['name']!r} "
                f"({self.manifest['encoder']['fingerprint'][:12]}), not of {encoder.name!r} "
                f"({encoder.fingerprint[:12]}); extract them with this encoder"
            )


def _at_least_float32(features: Tensor) -> Tensor:
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def _bytes(count: int, views: int, dim: int) -> int:
    return (1 + views) * count * dim * 4


def comfortable_bytes(device: torch.device | str = "cpu") -> int:
    """How much may be held on a device: a quarter of all its memory, so that a run decides alike when resumed."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return total_memory() // 4 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def extract_features(
    encoder: Encoder,
    images: LabelledImages,
    *,
    views: int = 0,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    cache: Path | str | None = None,
    batch_size: int = 64,
    shard_size: int = 512,
    dtype: Literal["float32", "float16"] = "float32",
    max_memory: int | None = None,
    strict: bool = False,
    progress: bool = True,
    processes: Processes = ALONE,
) -> FeatureBank:
    """Compute, or find in the cache, the features of labelled images.

    The cache holds a folder per (encoder, images, views, augmentation, seed); anything else about them
    makes another folder, so a stale bank is never used. Finished shards survive an interruption.

    Args:
        encoder: The frozen encoder.
        images: Labelled images.
        views: Number V of augmented views per image, beside the centre crop.
        augment: How those views are drawn.
        seed: Seeds the views; image i's views do not depend on the other images.
        cache: Folder of feature banks; default ``$PROBEDISTILL_CACHE`` or ``~/.cache/probedistill``.
        batch_size: Images per forward pass.
        shard_size: Images per file.
        dtype: How features are stored; ``"float16"`` halves the files and keeps eleven significant bits.
        max_memory: Bytes of features (in float32) that are held in memory; a larger bank stays in its files and
            is read in blocks. Default: `comfortable_bytes`, a quarter of this machine's memory.
        strict: Raise on an unreadable image instead of leaving it out with a warning.
        progress: Show a progress bar.
        processes: Processes that share the work, shard by shard; each reads the others' shards from the
            cache, which they must all see.

    Raises:
        UserError: No images, an unreadable one with ``strict``, a class that none of its images is readable of,
            features that are not finite or too large for ``dtype``, or processes that do not share the cache.
    """
    augment = augment or AugmentConfig()
    if views < 0:
        raise UserError(f"views {views} must be 0 or more")
    if dtype not in _DTYPES:
        raise unknown_name("dtype", dtype, _DTYPES)
    augment.check()
    if not len(images):
        raise UserError(f"images {images.spec!r} ({images.split}) have no images to take features of; give some")
    wanted = {
        "format": _FORMAT,
        "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim},
        "precision": encoder.precision,
        "images": {"spec": images.spec, "split": images.split, "fingerprint": images.fingerprint},
        "count": len(images),
        "views": views,
        "augment": asdict(augment) if views else None,
        "seed": seed if views else None,
        "dtype": dtype,
        "shard_size": shard_size,
    }
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    folder = cache_folder(cache) / "features" / f"{_plain(encoder.name)}-{_plain(images.split)}-{key[:16]}"

    starts = range(0, len(images), shard_size)
    paths = [folder / f"shard-{number:05d}.safetensors" for number in range(len(starts))]
    remove_leftovers(folder, older_than=3600)  # younger ones may be another process's at work
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    processes.wait()  # everyone has looked before anyone writes
    there = sorted(set(range(len(paths))) - set(missing))
    own = [*missing[processes.rank :: processes.count], *there[processes.rank :: processes.count]]
    total = sum(min(shard_size, len(images) - starts[number]) for number in own)
    hold = _bytes(len(images), views, encoder.dim) <= (comfortable_bytes() if max_memory is None else max_memory)
    shards: dict[int, _ShardContent] = {}
    with ProgressBar(f"features {encoder.name} · {images.split}", total, enabled=progress) as bar:
        for number in own:
            rows = range(starts[number], min(starts[number] + shard_size, len(images)))
            whole = _read_shard(paths[number])
            if whole is None or _some_read_by_now(images, rows, *whole):
                whole = _extract_shard(encoder, images, rows, views, augment, seed, batch_size, _DTYPES[dtype], bar)
                save_tensors(paths[number], *whole)
            else:
                bar.advance(len(rows))
            if strict and whole[1]["skipped"]:
                raise UserError(f"{whole[1]['skipped'][0]}; mend or remove the file, or leave --strict out")
            shards[number] = _ShardContent.of(paths[number], *whole, hold=hold)
    processes.wait()  # for the other ranks' shards
    if processes.largest(int(not all(path.exists() for path in paths))):
        raise UserError(
            f"cache {str(cache_folder(cache))!r} is not the same folder for all processes; name one that every machine "
            "sees with --cache or PROBEDISTILL_CACHE"
        )
    for number, path in enumerate(paths):
        if number not in shards:
            shards[number] = _ShardContent.of(path, *load_tensors(path), hold=hold)
    parts = [shards.pop(number) for number in range(len(paths))]
    skipped = [reason for part in parts for reason in part.skipped]
    manifest = {**wanted, "class_names": list(images.class_names), "skipped": skipped}
    if processes.is_first and not (folder / "manifest.json").exists():
        write_json(folder / "manifest.json", manifest)
    indices = torch.cat([part.indices for part in parts])
    labels = torch.as_tensor(np.asarray(images.labels))[indices]
    bank = FeatureBank._of_parts(
        [part.features for part in parts], views, encoder.dim, labels, indices, tuple(images.class_names), manifest
    )
    if skipped:
        if processes.is_first:
            more = " …" if len(skipped) > 1 else ""
            print(
                f"warning: left out {len(skipped)} unreadable of {len(images)} images ({skipped[0]}{more})",
                file=sys.stderr,
            )
        had = np.bincount(images.labels, minlength=len(images.class_names))
        left = torch.bincount(bank.labels, minlength=bank.num_classes).numpy()
        for name, before, after in zip(images.class_names, had, left, strict=True):
            if before and not after:
                raise UserError(f"none of the {before} images of class {name!r} can be read; first: {skipped[0]}")
    return bank


@dataclass(frozen=True)
class _ShardContent:
    """What is remembered of a shard that has been made or checked."""

    features: _Held | _Shard
    indices: Tensor
    skipped: list[str]

    @classmethod
    def of(cls, path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any], *, hold: bool) -> _ShardContent:
        indices = tensors["indices"]
        features: _Held | _Shard = _Shard(path, len(indices))
        if hold:
            features = _Held(tensors["centre"].float(), tensors["augmented"].float())
        return cls(features, indices, metadata["skipped"])


def cache_folder(cache: Path | str | None = None) -> Path:
    """The folder for things that can be computed again."""
    return Path(cache or os.environ.get("PROBEDISTILL_CACHE") or Path.home() / ".cache" / "probedistill")


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "_" for c in name)[:60]


def _extract_shard(
    encoder: Encoder,
    images: LabelledImages,
    rows: range,
    views: int,
    augment: AugmentConfig,
    seed: int,
    batch_size: int,
    dtype: torch.dtype,
    bar: ProgressBar,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (centre, augmented, indices) and metadata (skipped) of some images."""
    reasons: list[str] = []
    indices: list[int] = []
    features: list[Tensor] = []
    for inputs in _batches(encoder, images, rows, views, augment, seed, batch_size):
        readable = [(index, views_of) for index, views_of in inputs if isinstance(views_of, Tensor)]
        reasons += [str(error) for _, error in inputs if not isinstance(error, Tensor)]
        if readable:
            batch = torch.cat([views_of for _, views_of in readable])  # (n · (1 + V), 3, S, S)
            indices += [index for index, _ in readable]
            with torch.no_grad():
                parts = [encoder(part.to(encoder.device)).cpu() for part in batch.split(batch_size)]
            features.append(torch.cat(parts).view(len(readable), 1 + views, encoder.dim))
        bar.advance(len(inputs))
    stacked = torch.cat(features) if features else torch.zeros(0, 1 + views, encoder.dim)
    if not bool(stacked.isfinite().all()):
        first = images.names[indices[int((~stacked.isfinite()).any(dim=2).any(dim=1).nonzero()[0])]]
        mend = "check its weights" if encoder.precision == "fp32" else "try --precision fp32"
        raise UserError(
            f"encoder {encoder.name!r} gives features that are not finite in {encoder.precision}, first for {first!r}; "
            f"{mend}, or leave the image out"
        )
    stored = stacked.to(dtype)
    if bool(stored.isinf().any()):
        raise UserError(
            f"dtype 'float16' cannot hold features as large as {float(stacked.abs().max()):.3g} "
            f"(of {images.names[rows[0]]!r} or an image soon after it); use 'float32'"
        )
    return {
        "centre": stored[:, 0].contiguous(),
        "augmented": stored[:, 1:].transpose(0, 1).contiguous(),
        "indices": torch.tensor(indices, dtype=torch.int64),
    }, {"skipped": reasons}


def _read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not path.exists():
        return None
    try:
        return load_tensors(path)
    except TornFileError as error:
        warnings.warn(f"{error}; computing it again", stacklevel=3)
        return None


def _some_read_by_now(
    images: LabelledImages, rows: range, tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> bool:
    """Whether an image that a stored shard has left out can be read: it was locked or out of reach then."""
    for index in sorted(set(rows) - set(tensors["indices"].tolist())) if metadata["skipped"] else ():
        try:
            images.load(index)
        except UnreadableImageError:
            continue
        return True
    return False


def _batches(
    encoder: Encoder,
    images: LabelledImages,
    rows: range,
    views: int,
    augment: AugmentConfig,
    seed: int,
    batch_size: int,
) -> Iterator[list[tuple[int, Tensor | UnreadableImageError]]]:
    """Decode and augment in threads, two batches ahead of the encoder."""

    def load(index: int) -> tuple[int, Tensor | UnreadableImageError]:
        try:
            image = images.load(index)
        except UnreadableImageError as error:
            return index, error
        inputs = [encoder.centre_view(image)[None]]
        if views:
            inputs.append(
                augmented_views(image, encoder.input_size, views, augment, derive_seed(seed, _SEED_STREAM, index))
            )
        return index, torch.cat(inputs)

    per_batch = max(1, batch_size // (1 + views))
    chunks = [rows[i : i + per_batch] for i in range(0, len(rows), per_batch)]
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1)) as pool:
        pending = []
        try:
            for chunk in chunks:
                pending.append([pool.submit(load, index) for index in chunk])
                if len(pending) > 2:
                    yield [future.result() for future in pending.pop(0)]
            for futures in pending:
                yield [future.result() for future in futures]
        finally:
            for futures in pending:
                for future in futures:
                    future.cancel()


def augmented_views(image: Image.Image, size: int, count: int, augment: AugmentConfig, seed: int) -> Tensor:
    """Views (count, 3, size, size) of one real image, by the same rule as the synthetic images' views."""
    from torchvision.transforms.v2 import functional as tv

    limit = _SHRINK_ABOVE * size
    if min(image.size) > limit:
        scale = limit / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    pixels = tv.to_dtype(tv.pil_to_tensor(image), torch.float32, scale=True)
    views = draw_views(augment, count, seed=seed, aspect=image.width / image.height)
    return apply_views(pixels.expand(count, -1, -1, -1), views, size)


__all__ = ["BLOCK", "FeatureBank", "augmented_views", "cache_folder", "comfortable_bytes", "extract_features"]
