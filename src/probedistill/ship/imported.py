"""Other people's sets: tensors of PyTorch, safetensors, image folders and Parquet → a `DistilledSet`.

No code in a file is run: PyTorch files are read with ``weights_only=True``, and from a Parquet file only the bytes of
images are read, never a path. ``data.pth`` of the LGM authors (arXiv 2511.16674) is ``{"images": (n, 3, S, S) in
[0, 1], "labels": (n,)}``; other common names are known, too.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..encoders.encoder import Encoder
from ..encoders.weights import load_tensor_file
from ..errors import UserError, explained, option
from ..images.decode import UnreadableImageError, decode_image
from ..images.labelled import LabelledImages, check_classes_of_images
from ..images.sources import check_range
from ..images.splits import load_images
from ..store.card import published
from ..store.distilled import DistilledSet
from ..store.layout import METADATA, RUN
from ..store.run_record import EncoderRecord, ImagesRecord, unrecorded
from ..store.sums import digest
from ..store.table import values_of
from ..text import counted

IMAGE_NAMES = ("images", "image", "syn_images", "image_syn", "data", "x", "pixel_values")
LABEL_NAMES = ("labels", "label", "syn_labels", "label_syn", "targets", "target", "y")
"""Names under which tensors are looked for, in this order."""
CLASS_NAMES = ("class_names", "classes")
"""Names under which class names may be next to them. They are not read: they may be those of the images."""

_MOST_BYTES = 4 * 2**30
_MOST_IMAGES = 200_000
_MOST_REPEATED = 2**20  # values; grey images may be expanded to three channels, but a few bytes to gigabytes may not
_LARGEST_SIDE = 1024
_KINDS = "a .pth, .pt or .safetensors file of tensors, a .parquet file, or a folder with a folder of images per class"


def read_set(
    place: Path | str,
    *,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    image_column: str = "image",
    label_column: str = "label",
    encoder: Encoder | None = None,
    progress: bool = True,
) -> DistilledSet:
    """Read a set made by another program.

    Args:
        place: A ``.pth``, ``.pt`` or ``.safetensors`` file of tensors, a ``.parquet`` file, or an image folder.
        classes: Names of the classes, in the order of the labels; for an image folder, the classes to read; if labels
            are already names, their order. Default: the names in the file, else the numbers.
        image_size: Side in pixels. Images of other sizes are centre-cropped to a square and resized. Default: the size
            of the images if all are equal, else the most frequent short side.
        image_column: Column of a Parquet file with the images.
        label_column: Column of a Parquet file with the labels.
        encoder: The encoder that the set was made with, if known; the files do not say it.
        progress: Show progress bars.

    Raises:
        UserError: The place does not exist, contains something else, or is too large.
    """
    place = Path(place)
    if image_size is not None and not 1 <= image_size <= _LARGEST_SIDE:
        raise UserError(f"image_size {image_size} must be from 1 to {_LARGEST_SIDE}")
    called = f"set {str(place)!r}"
    suffix = place.suffix.lower()
    for name, column, default in (("image_column", image_column, "image"), ("label_column", label_column, "label")):
        if column != default and suffix != ".parquet":
            raise UserError(f"{name} {column!r} is for .parquet files, and {called} is not one; leave it out")
    if (place / RUN).is_file():
        raise UserError(f"{called} is already a run of probedistill; give it to the other commands directly")
    if place.is_dir():
        made = _of_folder(place, called, classes, image_size, progress)
    elif not place.is_file():
        raise UserError(f"{called} is not there; give {_KINDS}")
    elif _content_bytes(place) > _MOST_BYTES:
        raise UserError(f"{called} is larger than {_MOST_BYTES // 2**30} GiB; that is more than a distilled set has")
    elif suffix in (".pth", ".pt", ".safetensors"):
        hint = "only tensors in lists and dictionaries are read; no code is run"
        content = load_tensor_file(place, f"{called} cannot be read", hint)
        made = _of_tensors(content, called, classes, image_size)
    elif suffix == ".parquet":
        made = _of_parquet(place, called, classes, image_size, image_column, label_column)
    else:
        raise UserError(f"{called} is of an unknown kind; give {_KINDS}")
    return _recorded(made, place, encoder)


def _content_bytes(place: Path) -> int:
    """Size of a file's content: PyTorch's files are archives, which may be compressed."""
    if not zipfile.is_zipfile(place):
        return place.stat().st_size
    with explained(f"set {str(place)!r} cannot be read", Exception, hint="make it again or restore it"):
        return sum(member.file_size for member in zipfile.ZipFile(place).infolist())


def _recorded(made: DistilledSet, place: Path, encoder: Encoder | None) -> DistilledSet:
    """Return the set with a record of its source and of the encoder that the user says it was made with."""
    fingerprint = digest(made.images.numpy().tobytes() + made.labels.numpy().tobytes())
    images = ImagesRecord(published(f"folder:{place.resolve().name}"), "imported", len(made), fingerprint)
    counts = torch.bincount(made.labels, minlength=len(made.class_names))
    run = unrecorded()
    # Without views, labels or a head are made from the features of unaugmented real images.
    config = replace(run.config, method=run.method, real_views=0, images_per_class=max(1, int(counts.max())))
    encoders = () if encoder is None else (EncoderRecord.of(encoder),)
    record = replace(run, images=images, class_names=made.class_names, config=config, encoders=encoders)
    return replace(made, run=record)


# ---------------------------------------------------------------------------------------------------
# Tensors


def _of_tensors(content: Any, called: str, classes: Sequence[str] | None, image_size: int | None) -> DistilledSet:
    images, labels = _found(content, called)
    for one in (images, labels):
        if one is not None and (one.layout != torch.strided or one.is_meta):
            raise UserError(f"{called} has a sparse tensor or one without values; give plain tensors")
        if one is not None and one.numel() > max(_MOST_REPEATED, 3 * one.untyped_storage().nbytes() // one.itemsize):
            raise UserError(
                f"{called} has a tensor of shape {tuple(one.shape)} that stores far fewer values and repeats them; "
                "save copies (.contiguous())"
            )
    images = _as_images(images, called)
    labels = _counted(len(images), classes, called) if labels is None else labels
    soft = labels.float() if labels.ndim == 2 and labels.shape[0] == len(images) and labels.shape[1] > 1 else None
    labels = labels.reshape(-1) if soft is None else soft.argmax(dim=1)
    if len(labels) != len(images):
        raise UserError(f"{called} has {counted(len(images), 'image')} and {counted(len(labels), 'label')}")
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        raise UserError(f"{called} has labels that are not whole numbers; give a class number for each image")
    labels = labels.long()
    if int(labels.min()) < 0:
        raise UserError(f"{called} has the label {int(labels.min())}; classes are numbered from 0")
    if int(labels.min()) > 0 and soft is None:
        warnings.warn(f"{called} has no image of class 0; if its labels count from 1, subtract 1", stacklevel=4)
    count = soft.shape[1] if soft is not None else int(labels.max()) + 1
    if count > _MOST_IMAGES:
        raise UserError(f"{called} has the label {count - 1}; that is more classes than a set can have")
    names = _named([str(number) for number in range(count)], classes, called)
    unread = next((name for name in CLASS_NAMES if isinstance(content, Mapping) and name in content), None)
    if classes is None and unread is not None:
        warnings.warn(
            f"{called} has {unread!r}, which is not read, so its classes are called 0, 1 …; name them in the order of "
            f"the labels with {option('classes')}",
            stacklevel=4,
        )
    if soft is not None and (float(soft.min()) < 0 or not bool(((soft.sum(dim=1) - 1).abs() < 1e-3).all())):
        raise UserError(f"{called} has soft labels that are not probabilities; give rows that sum to 1")
    if soft is not None and len(names) != count:
        raise UserError(f"{called} has soft labels of {count} classes, not of {len(names)}")
    return DistilledSet(_resized(images, image_size), labels, tuple(names), soft_labels=soft)


def _found(content: Any, called: str) -> tuple[Tensor, Tensor | None]:
    """Find the images and the labels in the content of a file."""
    if isinstance(content, Tensor):
        return content, None
    if isinstance(content, (list, tuple)) and len(content) == 2 and all(isinstance(one, Tensor) for one in content):
        return content[0], content[1]
    if not isinstance(content, Mapping):
        raise UserError(f"{called} holds a {type(content).__name__}; give a dictionary with 'images' and 'labels'")
    images, labels = (
        next((content[name] for name in names if name in content), None) for names in (IMAGE_NAMES, LABEL_NAMES)
    )
    if isinstance(images, (list, tuple)) and images:
        if not all(isinstance(one, Tensor) and one.ndim == 3 for one in images):
            return _found(images[-1], called)  # the files of DC have one [images, labels] for each experiment
        if len({one.shape for one in images}) == 1:
            images = torch.stack(list(images))
    if isinstance(labels, (list, tuple)) and all(isinstance(one, int) for one in labels):
        labels = torch.tensor(labels)
    if not isinstance(images, Tensor) or not isinstance(labels, (Tensor, NoneType)):
        names = ", ".join(sorted(map(str, content))[:8])
        raise UserError(f"{called} has no tensor of images ({names}); call them 'images' and 'labels'")
    return images, labels


def _as_images(images: Tensor, called: str) -> Tensor:
    shape = tuple(images.shape)
    if images.ndim != 4 or not len(images) or 3 not in (shape[1], shape[3]):
        raise UserError(f"{called} has images of shape {shape}; give (n, 3, S, S) in [0, 1]")
    if images.numel() * 4 > _MOST_BYTES or len(images) > _MOST_IMAGES:
        raise UserError(f"{called} has {len(images):,} images, {shape}; that is more than a distilled set has")
    if max(shape[1:]) > _LARGEST_SIDE:
        raise UserError(f"{called} has images of shape {shape}; the largest side is {_LARGEST_SIDE}")
    if shape[1] != 3:
        images = images.permute(0, 3, 1, 2)
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise UserError(f"{called} has images of {images.dtype}; give floats in [0, 1], or uint8")
    images = images.detach().float()
    if not bool(images.isfinite().all()):
        raise UserError(f"{called} has images with values that are not finite")
    check_range(images, f"{called} has images with")
    return images.clamp(0, 1)


def _counted(count: int, classes: Sequence[str] | None, called: str) -> Tensor:
    """Labels for images without labels: equally many for each class, class after class."""
    number = len(classes) if classes is not None else count
    if not number or count % number:
        shared = f"{counted(count, 'image')} for {counted(number, 'class', 'classes')}"
        raise UserError(f"{called} has no labels, and {shared}; give labels")
    each = f"{count // number} of each of {number} classes, class after class"
    warnings.warn(f"{called} has no labels; assuming {each}", stacklevel=5)
    return torch.arange(number).repeat_interleave(count // number)


def _named(found: Sequence[str], classes: Sequence[str] | None, called: str) -> list[str]:
    """The names of the classes; some may have no images."""
    if classes is None:
        return list(found)
    names = list(classes)
    if len(names) < len(found):
        raise UserError(
            f"{called} has {counted(len(found), 'class', 'classes')}, but {option('classes')} names {len(names)}; "
            "name every class"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{option('classes')} names a class twice; name each once")
    return names


def _by_number(label: Any) -> tuple[bool, Any, Any]:
    """Sort key: numbers by value, even those written as text, before names."""
    return (False, int(label), str(label)) if re.fullmatch(r"-?[0-9]{1,18}", str(label)) else (True, str(label), "")


def _in_order(
    found: Sequence[str], labels: Tensor, classes: Sequence[str] | None, called: str, *, numbered: bool = False
) -> tuple[list[str], Tensor]:
    """Return names and labels (n,) with the classes in the requested order.

    ``classes`` gives names to numbered classes, such as "0" and "1" or, if the file has no names, all of them. Other
    class names in the file are put in that order, but never replaced.
    """
    names = _named(found, classes, called)
    are_numbers = all(name.lstrip("-").isdigit() for name in found)
    if classes is None or numbered or (are_numbers and not set(found) <= set(names)):
        return names, labels
    absent = next((name for name in found if name not in names), None)
    if absent is not None:
        raise UserError(f"{called} has the class {absent!r}, which {option('classes')} does not name; name every class")
    return names, torch.tensor([names.index(name) for name in found])[labels]


# ---------------------------------------------------------------------------------------------------
# Images


def _of_folder(
    place: Path, called: str, classes: Sequence[str] | None, image_size: int | None, progress: bool
) -> DistilledSet:
    if (place / METADATA).is_file():
        found = _named_by_table(load_images(f"folder:{place}", progress=progress), place / METADATA)
        found = found if classes is None else found.with_classes(classes)
    else:
        found = load_images(f"folder:{place}", classes=classes, progress=progress)
    images = _stacked(lambda: map(found.load, range(len(found))), len(found), image_size, called)
    return DistilledSet(images, torch.from_numpy(found.labels), found.class_names)


def _named_by_table(found: LabelledImages, table: Path) -> LabelledImages:
    """Return a folder's images with the classes in the table of a set's ``images/``, whose folders may be escaped.

    Only the classes are read from the table; the files are those in the folder.
    """
    import pyarrow.parquet as parquet

    with explained(f"{str(table)!r} cannot be read", Exception, hint="restore it, or take it out of the folder"):
        file = parquet.ParquetFile(table)
        names = _names_in(file.schema_arrow, "label")
        files, of_file = set(found.names), dict[str, Any]()
        if {"file_name", "label"} <= set(file.schema_arrow.names):
            pairs = zip(values_of(file, "file_name"), values_of(file, "label"), strict=True)
            of_file = {name: label for name, label in pairs if name in files}
    labels = [label for name in found.names if isinstance(label := of_file.get(name), int)]
    if names is None or len(labels) < len(found) or not all(0 <= label < len(names) for label in labels):
        return found  # not the table of a set
    return LabelledImages(
        class_names=names, labels=labels, names=found.names, load=found.load, spec=found.spec, split=found.split,
        fingerprint=found.fingerprint,
    )  # fmt: skip


def _of_parquet(
    place: Path,
    called: str,
    classes: Sequence[str] | None,
    image_size: int | None,
    image_column: str,
    label_column: str,
) -> DistilledSet:
    import pyarrow.parquet as parquet  # imported late: it takes 0.1 s that most commands can save

    with explained(f"{called} cannot be read", Exception, hint="give a Parquet file of images"):
        file = parquet.ParquetFile(place)
        if file.metadata.num_rows > _MOST_IMAGES:
            raise UserError(f"{called} has {file.metadata.num_rows:,} rows; that is more than a distilled set has")
        for argument, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in file.schema_arrow.names:
                known = ", ".join(file.schema_arrow.names)
                raise UserError(f"{called} has no column {column!r} ({known}); name one: {option(argument)}")
        names = _names_in(file.schema_arrow, label_column)
        values = list(_read(file, label_column, called))
    if any(not isinstance(value, (str, int, float)) or value != value for value in values):
        raise UserError(f"{called} has rows without a class in column {label_column!r}")
    if all(isinstance(value, float) and value.is_integer() for value in values):  # as from a table that had gaps
        values = [int(value) for value in values]
    labels, numbered = values, names is None and all(isinstance(value, int) for value in values)
    if names is None:
        names = [str(value) for value in sorted(set(values), key=_by_number)]
        labels = [names.index(str(value)) for value in values]
    check_classes_of_images(names, called)
    if not all(isinstance(label, int) and 0 <= label < len(names) for label in labels):
        raise UserError(f"{called} has rows without a class in column {label_column!r}")

    def pictures() -> Iterator[Image.Image]:
        for number, data in enumerate(_read(file, image_column, called)):
            if not isinstance(data, bytes):
                raise UserError(f"{called} has no bytes of an image in row {number}; embed the images in the file")
            yield decode_image(data, name=f"row {number}")

    images = _stacked(pictures, len(values), image_size, called)
    names, numbers = _in_order(names, torch.tensor(labels), classes, called, numbered=numbered)
    return DistilledSet(images, numbers, tuple(names))


def _read(file: Any, column: str, called: str) -> Iterator[Any]:
    with explained(f"{called} cannot be read", Exception, hint="give a Parquet file of images"):
        yield from values_of(file, column)


def _names_in(schema: Any, column: str) -> list[str] | None:
    """Names of the classes as `datasets` stores them in a Parquet file."""
    import json

    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        return [str(name) for name in about["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _stacked(images: Callable[[], Iterable[Image.Image]], count: int, image_size: int | None, called: str) -> Tensor:
    """Images as (n, 3, S, S) in [0, 1]. Decoded one by one; without a size, first for their sizes."""
    if not count or count > _MOST_IMAGES:
        raise UserError(f"{called} has {count:,} images; a distilled set has 1 to {_MOST_IMAGES:,}")
    with explained(f"{called} has an image that cannot be read", UnreadableImageError, hint="take it out"):
        side = image_size
        if side is None:
            sides = Counter(min(image.size) for image in images())
            side = min(sides.most_common(1)[0][0], _LARGEST_SIDE)
        if count * 3 * side**2 * 4 > _MOST_BYTES:
            raise UserError(f"{called} has {count:,} images of {side} pixels; give a smaller {option('image_size')}")
        pixels = np.empty((count, side, side, 3), np.uint8)
        for place, image in zip(pixels, images(), strict=True):
            place[:] = np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _resized(images: Tensor, image_size: int | None) -> Tensor:
    """Centre-crop images (n, 3, H, W) to squares and resize them to ``image_size``, if it is given."""
    side = min(images.shape[-2:])
    top, left = ((length - side) // 2 for length in images.shape[-2:])
    images = images[..., top : top + side, left : left + side]
    if image_size in (None, side):
        return images.contiguous()
    size = (image_size, image_size)
    resized = torch.nn.functional.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)
