"""Real features, computed once, kept in shards, and reused if everything that they depend on is the same."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..config import AugmentConfig, check_config
from ..encoders.encoder import Encoder, check_encoder
from ..errors import UserError, explained, option
from ..images.decode import UnreadableImageError
from ..images.labelled import LabelledImages, check_labelled
from ..images.sources import check_outside
from ..machine.places import cache_folder, checked_cache
from ..machine.processes import ALONE, Processes
from ..machine.progress import ProgressBar
from ..machine.torch_state import own_torch_state
from ..methods import MOST_VIEWS, check_name, check_number
from ..seeds import Stream, seed_of
from ..store.files import remove_leftovers
from ..store.layout import check_beside_images
from ..store.records import write_record
from ..store.tensors import TornFileError
from ..text import and_more, counted, one_line
from .bank import FeatureBank, Held, bytes_of, comfortable_bytes
from .encode import augmented_views, features_of, prefetched
from .shards import DTYPES, BankFiles, ShardContent, bank_files

_log = logging.getLogger(__name__)


@own_torch_state()
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
    """Compute the features of labelled images, or read them from the cache.

    The cache has one folder per (encoder, images, views, augmentation, seed); any change to these uses another folder,
    so a stale bank is never used. Centre crops in a bank without views are not encoded again. Finished shards survive
    an interruption.

    Args:
        encoder: The frozen encoder.
        images: Labelled images.
        views: Number V of augmented views per image, in addition to the centre crop.
        augment: How the views are drawn.
        seed: Seed of the views; the views of image i do not depend on the other images.
        cache: Folder of feature banks; default ``$PROBEDISTILL_CACHE`` or ``~/.cache/probedistill``.
        batch_size: Images per forward pass.
        shard_size: Images per file.
        dtype: How features are stored; ``"float16"`` halves the files and keeps eleven significant bits.
        max_memory: Largest size in bytes (in float32) of a bank that is held in memory; a larger one stays in its
            files and is read in blocks. Default: `comfortable_bytes`, a quarter of this machine's memory.
        strict: Raise on an unreadable image instead of leaving it out with a warning.
        progress: Show a progress bar.
        processes: Processes that share the work, shard by shard. Each reads the others' shards from the cache, which
            all must be able to see.

    Raises:
        UserError: No images, an unreadable one with ``strict``, a class whose images are all unreadable,
            features that are not finite or too large for ``dtype``, or processes that do not share the cache.
    """
    check_encoder(encoder)
    check_labelled(images)
    check_config("augment", augment, AugmentConfig)
    augment = augment or AugmentConfig()
    check_number("views", views, most=MOST_VIEWS, whole=True)
    check_number("seed", seed, whole=True)
    check_number("batch_size", batch_size, least=1, whole=True)
    check_number("shard_size", shard_size, least=1, whole=True)
    if max_memory is not None:
        check_number("max_memory", max_memory)
    check_name("dtype", dtype, DTYPES)
    augment.check()
    if not len(images):
        raise UserError(f"images {images.spec!r} ({images.split}) have no images to encode; give some")
    files = bank_files(encoder, images, views, augment, seed, cache, dtype, shard_size)
    place = checked_cache(cache, writes=files.passes > 0)
    if files.passes:
        check_beside_images(place, "cache ")
        check_outside(place / "features", images, called="cache")
    remove_leftovers(files.folder, older_than=3600)  # younger files may belong to a running process
    own = _own_shards(files, processes)
    hold = bytes_of(len(images), views, encoder.dim) <= (comfortable_bytes() if max_memory is None else max_memory)
    shards: dict[int, ShardContent] = {}
    work = _Work(encoder, images, files, batch_size, own)
    with ProgressBar(f"features {encoder.name} · {images.split}", work.total, enabled=progress) as bar:
        for number in own:
            content = work.shard(number, bar)
            if strict and content.skipped:
                raise UserError(f"{content.skipped[0]}; fix or remove the file, or leave {option('strict', True)} out")
            shards[number] = content.held() if hold else content.in_file(files.path(number))
    for number, content in _shards_of_others(files, shards, processes, cache):
        shards[number] = content.held() if hold else content.in_file(files.path(number))
    parts = [shards[number] for number in range(files.count)]
    skipped = tuple(reason for part in parts for reason in part.skipped)
    manifest = replace(files.manifest, class_names=images.class_names, skipped=skipped)
    if processes.is_first and not (files.folder / "manifest.json").exists():
        write_record(files.folder / "manifest.json", manifest, kind="features")
    indices = torch.cat([part.indices for part in parts])
    labels = torch.as_tensor(images.labels)[indices]
    bank = FeatureBank.of_parts(
        [part.features for part in parts], views, encoder.dim, labels, indices, images.class_names, manifest
    )
    if skipped:
        if processes.is_first:
            _log.warning("%s", _skipped_in_words(images, bank))
        _check_each_class(images, bank)
    return bank


def _own_shards(files: BankFiles, processes: Processes) -> list[int]:
    """The shards that this process makes, followed by the shards that it checks."""
    missing = [number for number in range(files.count) if not files.path(number).exists()]
    processes.wait()  # all processes must have looked before any of them writes
    there = sorted(set(range(files.count)) - set(missing))
    return [*missing[processes.rank :: processes.count], *there[processes.rank :: processes.count]]


def _shards_of_others(
    files: BankFiles, own: Collection[int], processes: Processes, cache: Path | str | None
) -> Iterator[tuple[int, ShardContent]]:
    """Read from the cache the shards that other processes have made or checked."""
    processes.wait()
    if processes.largest(int(not all(files.path(number).exists() for number in range(files.count)))):
        raise UserError(
            f"cache {str(cache_folder(cache))!r} is not the same folder for all processes; set {option('cache')} or "
            "PROBEDISTILL_CACHE to one that every machine sees"
        )
    for number in sorted(set(range(files.count)) - set(own)):
        with explained("cached features of another process were lost", TornFileError, hint="run it again"):
            content = files.read(number)
        yield number, content


def _check_each_class(images: LabelledImages, bank: FeatureBank) -> None:
    """Raise `UserError` if a class has no readable image; for test images, if there is no readable image at all."""
    if images.for_testing and len(bank):
        return
    had = np.bincount(images.labels, minlength=len(images.class_names))
    left = torch.bincount(bank.labels, minlength=bank.num_classes).numpy()
    for label, name in enumerate(images.class_names):
        if had[label] and not left[label]:
            first = _left_out(images, bank).get(int(np.flatnonzero(images.labels == label)[0]), bank.skipped[0])
            raise UserError(
                f"class {name!r} ({images.split}) has {counted(had[label], 'image')}, none of which can be read; "
                f"repair them or leave the class out with {option('classes')}; first: {first}"
            )


def _skipped_in_words(images: LabelledImages, bank: FeatureBank) -> str:
    """One line about the images that a bank leaves out: for each reason, how many and the first one."""
    of_reason: dict[str, list[str]] = {}
    for number, line in _left_out(images, bank).items():
        name = one_line(images.names[number])
        of_reason.setdefault(line.removeprefix(f"{name}: "), []).append(name)
    groups = sorted(of_reason.items(), key=lambda group: -len(group[1]))
    said = [f"{names[0]}{and_more(len(names))} ({why})" for why, names in groups[:_MOST_REASONS]]
    rest = sum(len(names) for _, names in groups[_MOST_REASONS:])
    said += [f"{rest} for other reasons"] if rest else []
    of = counted(len(images), "image")
    return f"skipped {len(bank.skipped)} unreadable of {of} ({images.split}): {', '.join(said)}"


_MOST_REASONS = 3  # in one line


def _left_out(images: LabelledImages, bank: FeatureBank) -> dict[int, str]:
    """Index of each image that is left out → its name and the reason."""
    return dict(zip(sorted(set(range(len(images))) - set(bank.indices.tolist())), bank.skipped, strict=False))


# ---------------------------------------------------------------------------------------------------
# Work


@dataclass(frozen=True)
class _Work:
    """Computes the shards of one bank."""

    encoder: Encoder
    images: LabelledImages
    files: BankFiles
    batch_size: int
    own: list[int]

    @property
    def total(self) -> int:
        """Number of images in this process's shards."""
        return sum(len(self.files.rows(number)) for number in self.own)

    def shard(self, number: int, bar: ProgressBar) -> ShardContent:
        """Read a shard from its file or, if there is no valid one, compute and write it."""
        rows = self.files.rows(number)
        content = _read_if_whole(self.files, number)
        if content is not None and not self._some_are_readable_now(rows, content):
            bar.advance(len(rows))
            return content
        content = self._extract(number, bar)
        self.files.write(number, content)
        self._write_plain(number, content)
        return content

    def _write_plain(self, number: int, content: ShardContent) -> None:
        """Also keep the features without inner layers, which the same pass has computed."""
        if self.encoder.plain is self.encoder:
            return
        files = self.files.of_encoder(self.encoder.plain)
        if not files.path(number).exists():
            files.write(number, content.first_features(self.encoder.plain.dim))

    def _some_are_readable_now(self, rows: range, content: ShardContent) -> bool:
        """Whether an image that a stored shard has left out is readable now; it may have been locked before."""
        for index in sorted(set(rows) - set(content.indices.tolist())) if content.skipped else ():
            try:
                self.images.load(index)
            except UnreadableImageError:
                continue
            return True
        return False

    def _extract(self, number: int, bar: ProgressBar) -> ShardContent:
        """Encode the images of a shard."""
        views, dim = self.files.manifest.views, self.encoder.dim
        known = self._known_centres(number)
        reasons: list[str] = []
        indices: list[int] = []
        features: list[Tensor] = []
        per_batch = max(1, self.batch_size // (1 + views))
        for inputs in prefetched(self._loader(set(known)), self.files.rows(number), per_batch):
            readable = [(index, cut) for index, cut in inputs if isinstance(cut, Tensor)]
            reasons += [str(error) for _, error in inputs if not isinstance(error, Tensor)]
            if readable:
                batch = torch.cat([cut for _, cut in readable])
                with torch.no_grad():
                    parts = (part.to(self.encoder.device) for part in batch.split(self.batch_size))
                    found = [features_of(self.encoder, part).cpu() for part in parts]
                of_each = torch.cat(found).split([len(cut) for _, cut in readable])
                for (index, _), rows in zip(readable, of_each):
                    indices.append(index)
                    features.append(torch.cat([known[index][None], rows]) if index in known else rows)
            bar.advance(len(inputs))
        stacked = torch.stack(features) if features else torch.zeros(0, 1 + views, dim)
        stored = self._checked(stacked, indices)
        held = Held(stored[:, 0].contiguous(), stored[:, 1:].transpose(0, 1).contiguous())
        return ShardContent(held, torch.tensor(indices, dtype=torch.int64), tuple(reasons))

    def _loader(self, known: set[int]) -> Callable[[int], tuple[int, Tensor | UnreadableImageError]]:
        """A function that cuts an image's views: the centre crop, unless its features are known, and augmented ones."""
        manifest, encoder = self.files.manifest, self.encoder

        def load(index: int) -> tuple[int, Tensor | UnreadableImageError]:
            try:
                image = self.images.load(index)
            except UnreadableImageError as error:
                return index, error
            cut = [] if index in known else [encoder.centre_view(image)[None]]
            if manifest.augment is not None:
                key = seed_of(manifest.seed or 0, Stream.REAL_VIEWS, index)
                cut.append(augmented_views(image, encoder.input_size, manifest.views, manifest.augment, key))
            return index, torch.cat(cut)

        return load

    def _known_centres(self, number: int) -> dict[int, Tensor]:
        """Features of centre crops from a bank without views."""
        centres = self.files.centres()
        if not self.files.manifest.views or not centres.path(number).exists():
            return {}
        content = _read_if_whole(centres, number)
        return {} if content is None else dict(zip(content.indices.tolist(), content.held().features.read()[0]))

    def _checked(self, features: Tensor, indices: list[int]) -> Tensor:
        """Convert features (n, 1 + V, d) to the stored dtype; they must be finite."""
        if not bool(features.isfinite().all()):
            first = self.images.names[indices[int((~features.isfinite()).any(dim=2).any(dim=1).nonzero()[0])]]
            way_out = "check its weights" if self.encoder.precision == "fp32" else f"try {option('precision', 'fp32')}"
            raise UserError(
                f"encoder {self.encoder.name!r} returns features that are not finite in {self.encoder.precision}, "
                f"first for {first!r}; {way_out}, or leave the image out"
            )
        stored = features.to(DTYPES[self.files.manifest.dtype])
        if bool(stored.isinf().any()):
            raise UserError(
                f"dtype 'float16' cannot hold features as large as {float(features.abs().max()):.3g} "
                f"(of {self.images.names[indices[0]]!r} or an image soon after it); use 'float32'"
            )
        return stored


def _read_if_whole(files: BankFiles, number: int) -> ShardContent | None:
    if not files.path(number).exists():
        return None
    try:
        return files.read(number)
    except TornFileError as error:
        warnings.warn(f"{error}; computing it again", stacklevel=3)
        return None
