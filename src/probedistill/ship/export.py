"""A distilled set as small files: in a given format, quality and size, or the best within a byte budget.

The search within a budget tries formats and sizes. For each, it finds by bisection the highest quality whose files fit,
and keeps the candidate nearest to the original images: in the encoder's features if there is an encoder, else in
pixels. It uses no labels and no real images.

Not supported: palettes (a PNG of 256 colours takes 1.5 times the bytes of a WebP that is nearer to the image) and AVIF
(torchvision's ImageFolder ignores such files).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..config import AugmentConfig
from ..encoders.encoder import Encoder
from ..errors import UserError, option, unknown_name
from ..features.encode import encode, view_features
from ..machine.progress import ProgressBar
from ..machine.threads import Workers
from ..machine.torch_state import own_torch_state
from ..methods import plain
from ..seeds import Stream
from ..store.card import Licence, held_out_in, licence_of
from ..store.distilled import DistilledSet, Encoded, as_set
from ..store.files import check_writable, is_empty, remove_leftovers
from ..store.layout import CONFIG, EVALUATIONS, HELD_OUT
from ..store.locks import claimed
from ..store.named import run_folder
from ..store.pixels import decode_files, to_8_bits
from ..store.records import from_plain
from ..store.run_record import ExportRecord, read_run

LOSSY = ("webp", "jpeg")
FORMATS = (*LOSSY, "png")
QUALITIES = range(1, 101)
# A fifth of PNG's bytes for at most a point of accuracy: benchmarks/export_loss.py.
DEFAULT_FORMAT, DEFAULT_QUALITY = "webp", 90

_SIZE_STEP = 0.8  # ratio of an image size to the previous one in the search
_VIEWS = 4  # augmented views, next to the centre view, on which features are compared
_COMPARED = 100  # number of evenly spaced images on which candidates are compared


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        folder: The export's folder, a distilled set of its own.
        format: png, webp or jpeg.
        quality: Quality of WebP or JPEG, 1 to 100; ``None`` for PNG.
        image_size: Side of the images in pixels.
        images: Number of images.
        bytes: Size of the image files together.
        total_bytes: Size of the image files, ``metadata.parquet`` and ``tensors.safetensors``.
        pixel_error: Root of the mean squared difference from the original images, in 8-bit levels (0 to 255).
        feature_distance: See `feature_distance`; ``None`` without an encoder.
    """

    folder: Path
    format: str
    quality: int | None
    image_size: int
    images: int
    bytes: int
    total_bytes: int
    pixel_error: float
    feature_distance: float | None

    def __str__(self) -> str:
        how = self.format + (f", quality {self.quality}" if self.quality is not None else "")
        text = f"{self.images} images as {how}, {self.image_size} px: {self.bytes:,} bytes"
        text += f" ({self.total_bytes:,} with metadata, labels and any head), pixel error {self.pixel_error:.1f} of 255"
        return text + ("" if self.feature_distance is None else f", feature distance {self.feature_distance:.3f}")


@own_torch_state()
def export(
    distilled: DistilledSet | Path | str,
    folder: Path | str,
    *,
    format: str | None = None,
    quality: int | None = None,
    image_size: int | None = None,
    max_bytes: int | None = None,
    encoder: Encoder | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Write a distilled set with small image files, and without the float images.

    The folder is a distilled set of its own, which ``DistilledSet.load``, ``evaluate`` and every tool for run folders
    accept. Labels, soft labels and head are copied unchanged. If the set is given by its folder or name, so are the
    licence on its card and the names of held-out images.

    Args:
        distilled: The set, or the folder or name of its run.
        folder: Folder to write: a new or empty one, or with ``overwrite`` an earlier export.
        format: png (lossless), webp or jpeg. Default: webp; with ``max_bytes``, the best of the three.
        quality: Quality of webp and jpeg, 1 to 100. Default: 90.
        image_size: Side of the images in pixels. Default: unchanged; with ``max_bytes``, the best size.
        max_bytes: Budget for all image files together; formats, sizes and qualities are searched.
        encoder: Encoder whose features compare the candidates; without one, pixels do.
        overwrite: Replace the export in ``folder``.
        progress: Show a progress bar of the search.

    Raises:
        UserError: A value is out of range, the budget is below the smallest files, the folder contains something else,
            or the set's record of its augmentation, which an encoder's views need, is damaged.
    """
    source = None if isinstance(distilled, DistilledSet) else run_folder(distilled)
    distilled = as_set(distilled if source is None else source)
    folder = Path(folder)
    quality, image_size, max_bytes = plain((quality, image_size, max_bytes))
    _check(distilled, format, quality, image_size, max_bytes)
    with claimed(folder):
        _check_folder(folder, overwrite)
        pixels, side = to_8_bits(distilled.float_images), distilled.float_images.shape[-1]
        compared = list(range(0, len(pixels), -(-len(pixels) // _COMPARED)))
        original = distilled.images[compared]
        distance = None
        if encoder is not None:
            views = distilled.run.config.augment.for_probes(transformer=encoder.is_transformer)
            distance = _distance_from(original, encoder, views)
        if max_bytes is None:
            format = format or DEFAULT_FORMAT
            quality = DEFAULT_QUALITY if quality is None and format in LOSSY else quality
            best = _encoded(pixels, format, quality, image_size or side, progress)
        else:
            error = distance or partial(pixel_error, original)
            best = _search(
                pixels, max_bytes, (format,) if format else FORMATS, [image_size] if image_size else _sizes(side),
                lambda made: error(decode_files([made.files[i] for i in compared], made.about.image_size)),
                progress,
            )  # fmt: skip
        remove_leftovers(folder)
        for stale in (*folder.glob(EVALUATIONS), folder / HELD_OUT, folder / CONFIG):  # from the replaced export
            stale.unlink(missing_ok=True)
        licence, held_out = (Licence(), []) if source is None else (licence_of(source), held_out_in(source))
        distilled.save(folder, best, licence=licence, held_out=held_out)
        written = DistilledSet.load(folder)
        return ExportReport(
            folder=folder,
            images=len(written),
            **asdict(written.run.export or best.about),
            pixel_error=pixel_error(distilled.images, written.images),
            feature_distance=None if distance is None else distance(written.images[compared]),
        )


def encode_image(pixels: NDArray[np.uint8], format: str, quality: int | None, image_size: int) -> bytes:
    """One image (S, S, 3) as a file."""
    image = Image.fromarray(pixels).resize((image_size, image_size), Image.Resampling.LANCZOS)
    options: dict[str, dict[str, Any]] = {
        "png": {"optimize": True},
        "webp": {"quality": quality, "method": 6},
        # Full colour resolution (4:4:4): synthetic images are colourful, and halving it costs more than it saves.
        "jpeg": {"quality": quality, "subsampling": 0, "optimize": True},
    }
    file = io.BytesIO()
    image.save(file, format=format, **options[format])
    return file.getvalue()


def pixel_error(images: Tensor, others: Tensor) -> float:
    """Root of the mean squared difference of images in [0, 1], in 8-bit levels (0 to 255).

    Args:
        images: (m, 3, S, S).
        others: (m, 3, T, T); resized to S × S (bicubic) first.
    """
    if others.shape[-1] != images.shape[-1]:
        size = images.shape[-2:]
        others = F.interpolate(others, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return 255 * float((images - others).square().mean().sqrt())


def feature_distance(features: Tensor, others: Tensor) -> float:
    """Mean of 1 − cos(z − z̄, z′ − z̄) over rows, z̄ the mean of ``features``: 0 for the same, about 1 for unrelated ones.

    The features are centred because all features of an encoder point in similar directions, while a probe needs their
    differences.

    Args:
        features: (n, d) features of the original images.
        others: (n, d) features of the compared images, in the same order.
    """
    mean = features.mean(dim=0)
    return float((1 - F.cosine_similarity(features - mean, others - mean)).clamp(min=0).mean())


def _encoded(pixels: Tensor, format: str, quality: int | None, image_size: int, progress: bool = False) -> Encoded:
    """Encode 8-bit images (m, 3, S, S) as files; codecs release the GIL, so threads share the work."""
    encode = partial(encode_image, format=format, quality=quality, image_size=image_size)
    files = []
    with Workers() as workers, ProgressBar("encode", len(pixels), enabled=progress) as bar:
        for file in workers.map(encode, pixels.permute(0, 2, 3, 1).numpy()):
            files.append(file)
            bar.advance()
    about = {"format": format, "quality": quality, "image_size": image_size, "bytes": sum(map(len, files))}
    return Encoded(files, from_plain(about, ExportRecord))


def _search(
    pixels: Tensor,
    budget: int,
    formats: Sequence[str],
    sizes: Sequence[int],
    error: Callable[[Encoded], float],
    progress: bool,
) -> Encoded:
    """The candidate with the least error whose files take at most ``budget`` bytes.

    Args:
        pixels: (m, 3, S, S) uint8.
        budget: In bytes.
        formats: To choose from.
        sizes: To choose from, in falling order.
        error: Error of a candidate; called once for each format and size that fits.
        progress: Show a progress bar.
    """
    best, least, smallest = None, float("inf"), None
    with ProgressBar("search", len(formats) * len(sizes), enabled=progress) as bar:
        for format in formats:
            for i, size in enumerate(sizes):
                candidate = _encoded(pixels, format, _qualities(format)[0], size)
                smallest = min(smallest or candidate.about.bytes, candidate.about.bytes)
                if candidate.about.bytes <= budget:
                    candidate = _best_quality(pixels, budget, candidate)
                    its_error = error(candidate)
                    if math.isnan(its_error):  # NaN from an encoder counts as worst
                        its_error = math.inf
                    if best is None or its_error < least:
                        best, least = candidate, its_error
                note = f"{best.about.format} {best.about.image_size} px" if best else ""
                if candidate.about.bytes <= budget and candidate.about.quality == _qualities(format)[-1]:
                    bar.advance(len(sizes) - i, note)  # the budget cost nothing, so a smaller size can only be worse
                    break
                bar.advance(note=note)
    if best is None:
        raise UserError(
            f"bytes {budget} is too small for {len(pixels)} images, whose smallest files take {smallest}; give more"
        )
    return best


def _best_quality(pixels: Tensor, budget: int, lowest: Encoded) -> Encoded:
    """Find the highest quality whose files fit, by bisection; the files of the lowest quality must fit."""
    qualities, best = _qualities(lowest.about.format), lowest
    low, high = 0, len(qualities)  # low fits, high does not
    middle = high - 1  # try the highest first: if it fits, the search ends
    while high - low > 1:
        candidate = _encoded(pixels, lowest.about.format, qualities[middle], lowest.about.image_size)
        if candidate.about.bytes <= budget:
            best, low = candidate, middle
        else:
            high = middle
        middle = (low + high) // 2
    return best


def _qualities(format: str) -> Sequence[int | None]:
    return QUALITIES if format in LOSSY else (None,)


def _sizes(side: int) -> list[int]:
    """Sizes to try: from ``side`` down to one pixel, each four fifths of the previous one."""
    sizes = [side]
    while sizes[-1] > 1:
        sizes.append(int(sizes[-1] * _SIZE_STEP))
    return sizes


def _distance_from(original: Tensor, encoder: Encoder, augment: AugmentConfig) -> Callable[[Tensor], float]:
    """A function for the feature distance of images (m, 3, T, T) from the originals, over centre and other views."""

    def features(images: Tensor) -> Tensor:
        views = view_features(encoder, images, augment, _VIEWS, seed=0, stream=Stream.EXPORT_VIEWS)
        return torch.cat([encode(encoder, images), views.flatten(0, 1)])

    of_original = features(original)
    return lambda images: feature_distance(of_original, features(images))


def _check(
    distilled: DistilledSet, format: str | None, quality: int | None, image_size: int | None, max_bytes: int | None
) -> None:
    if format is not None and format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if quality is not None:
        if format == "png":
            raise UserError(f"quality {quality} is for webp and jpeg; png is lossless: leave it out")
        if max_bytes is not None:
            raise UserError(
                f"quality {quality} cannot be combined with bytes {max_bytes}, which sets the quality; "
                "leave one of them out"
            )
        if quality not in QUALITIES:
            raise UserError(f"quality {quality} must be from {QUALITIES[0]} to {QUALITIES[-1]}")
    height, width = distilled.float_images.shape[-2:]
    if height != width:
        raise UserError(f"the images have {width} × {height} pixels; only square images can be exported")
    if image_size is not None and not 1 <= image_size <= width:
        raise UserError(f"image_size {image_size} must be from 1 to the images' own {width} pixels")


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Raise `UserError` for a folder that cannot be written or contains anything but an export; change nothing."""
    check_writable(folder)
    if not folder.exists() or is_empty(folder, claimed=True):
        return
    run = None
    with suppress(UserError):
        run = read_run(folder)
    if run is None or run.export is None:
        what = "a run" if run else "something else"
        raise UserError(f"out {str(folder)!r} is not empty and holds {what}; choose another folder")
    if not overwrite and run.finished:  # an unfinished one is left over from a killed export
        raise UserError(
            f"out {str(folder)!r} holds an export; choose another folder or add {option('overwrite', True)}"
        )
