"""Images that a program already has: arrays, pictures, bytes or paths, with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..text import counted
from .labelled import LabelledImages, check_classes_of_images, how_to_label
from .sources import WHOLE, Items, as_array, as_bytes, channels_last, labelled


def labelled_images(
    images: Any,
    labels: Sequence[int] | Sequence[str] | NDArray[Any] | Any,
    class_names: Sequence[str] | None = None,
    *,
    name: str = "own",
    split: str = WHOLE,
    names: Sequence[str] | None = None,
    progress: bool = True,
) -> LabelledImages:
    """Wrap your own images for `distill`, `evaluate` and the other functions.

    >>> pictures = np.zeros((4, 32, 32, 3), np.uint8)
    >>> labelled_images(pictures, ["cat", "dog", "cat", "dog"])
    LabelledImages('own', split='all', 4 images, 2 classes)

    Args:
        images: N paths, encoded images (bytes), PIL images, or arrays or tensors (H, W), (H, W, 3) or (3, H, W), uint8
            or floats in [0, 1]; or all of them in one such array (N, …).
        labels: N names of classes, or numbers in 0 … C - 1.
        class_names: C names. Default: the names among the labels in alphabetical order, or the numbers.
        name: Name of the images in records and errors.
        split: Name of this part of them, such as ``"train"``.
        names: N short names; default: the paths, else numbers.
        progress: Show a progress bar if reading the images takes more than two seconds.

    Returns:
        The images. Their fingerprint depends only on their contents, so cached features of the same images are reused.

    Raises:
        UserError: The numbers of images and labels differ, a label is not a class, or pixels are neither uint8 nor in
            [0, 1].
    """
    called = f"images {name!r}"
    pictures = _pictures(images, called)
    labels = _one_each(labels, called)
    numbers, found = _numbered(labels, _named(class_names, called), called)
    check_classes_of_images(found, called)
    return labelled(Items(pictures, numbers, found, None if names is None else list(names)), name, split, progress)


def _one_each(labels: Any, called: str) -> NDArray[Any]:
    """The labels as an array (N,), which may be a tensor on any device, a column (N, 1) or an iterator."""
    if isinstance(labels, Iterable) and not hasattr(labels, "__len__"):
        labels = list(labels)
    found = as_array(labels)
    if found.ndim > 1 and found.size != len(found):
        raise UserError(f"{called} have labels of the shape {found.shape}; give one for each image")
    return found.reshape(-1) if found.size else np.zeros(0, dtype=np.int64)


def _named(class_names: Sequence[str] | None, called: str) -> tuple[str, ...] | None:
    """The names of the classes as a tuple, if they are given."""
    if class_names is None:
        return None
    if not isinstance(class_names, (str, bytes, Mapping)) and isinstance(class_names, Iterable):
        found = tuple(class_names)
        if all(isinstance(one, str) for one in found):
            return tuple(map(str, found))
    raise UserError(f"{called}: class_names {class_names!r} must be a list of names, in the order of the numbers")


def _pictures(images: Any, called: str) -> Sequence[Any]:
    """A sequence with one item per image."""
    if isinstance(images, Mapping) or hasattr(images, "column_names") or hasattr(images, "batch_size"):
        raise UserError(f"{called} are a {type(images).__name__}; give {how_to_label(images)}")
    if isinstance(images, (str, bytes)) or not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        raise UserError(f"{called} are {type(images).__name__}; give a list of images, or one array of all of them")
    if not hasattr(images, "shape"):
        if len(images) and isinstance(images[0], (tuple, Mapping)):
            first = f"image 0 of {called.removeprefix('images ')} is a {type(images[0]).__name__}"
            raise UserError(f"{first}; give a path, bytes, an array or a PIL image, or {how_to_label(images)}")
        # A PyTorch Dataset need not raise IndexError at its end, so it cannot be iterated over.
        return images if isinstance(images, Sequence) else [images[i] for i in range(len(images))]
    if len(images.shape) == 1:  # a column of a table
        return list(images)
    batch = as_array(images)
    pixels = channels_last(batch) if batch.ndim == 4 else batch
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] != 3):
        what = f"a {type(images).__name__} of the shape {batch.shape}"
        raise UserError(f"{called} are {what}; give (N, H, W, 3), (N, 3, H, W) or (N, H, W), or a list of images")
    return list(as_bytes(pixels, f"{called} have"))


def _numbered(
    labels: NDArray[Any], class_names: tuple[str, ...] | None, called: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as numbers, and the names of the classes."""
    if labels.dtype.kind == "O" and all(isinstance(one, str) for one in labels):  # as pandas stores them
        labels = labels.astype(str)
    if class_names is not None and len(set(class_names)) < len(class_names):
        twice = next(one for one in class_names if class_names.count(one) > 1)
        raise UserError(f"{called}: class_names name {twice!r} twice; name each class once")
    if labels.dtype.kind == "U":
        found = class_names if class_names is not None else tuple(sorted(set(map(str, labels))))
        place = {one: number for number, one in enumerate(found)}
        unknown = next((str(one) for one in labels if str(one) not in place), None)
        if unknown is not None:
            raise UserError(f"{called} have the label {unknown!r}, which class_names does not name")
        return np.array([place[str(one)] for one in labels], dtype=np.int64), found
    if labels.dtype.kind not in "iu":
        raise UserError(f"{called} have labels of {labels.dtype}; give class names, or whole numbers from 0")
    count = int(labels.max(initial=-1)) + 1
    if class_names is None and count > len(labels):
        known = f"the label {count - 1} among {counted(len(labels), 'label')}"
        raise UserError(f"{called} have {known}; number the classes from 0, or name them")
    return labels.astype(np.int64), class_names if class_names is not None else tuple(map(str, range(count)))
