"""Real features computed once, kept in shards, reused when their manifest matches."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import AugmentConfig
from ..errors import UserError, unknown_name
from ..images.decode import UnreadableImageError
from ..machine.processes import ALONE, Processes
from ..machine.progress import ProgressBar
from ..seeds import Stream, seed_of
from ..store.files import remove_leftovers, write_json
from ..store.tensors import TornFileError, load_tensors, save_tensors
from .bank import FeatureBank, Held, Shard, bytes_of, comfortable_bytes
from .views import apply_views, draw_views

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..images.labelled import LabelledImages


_FORMAT = 1
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_SHRINK_ABOVE = 2  # times the input size: larger photos are shrunk once, before their views are cut


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
    hold = bytes_of(len(images), views, encoder.dim) <= (comfortable_bytes() if max_memory is None else max_memory)
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

    features: Held | Shard
    indices: Tensor
    skipped: list[str]

    @classmethod
    def of(cls, path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any], *, hold: bool) -> _ShardContent:
        indices = tensors["indices"]
        features: Held | Shard = Shard(path, len(indices))
        if hold:
            features = Held(tensors["centre"].float(), tensors["augmented"].float())
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
                augmented_views(image, encoder.input_size, views, augment, seed_of(seed, Stream.REAL_VIEWS, index))
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
