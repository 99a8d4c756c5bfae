"""The same picture, byte for byte, in two classes, in training and test images, or everywhere."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..text import counted, one_line
from .contents import UNREADABLE, digest_of_bytes
from .labelled import LabelledImages


def warn_of_duplicates(train: LabelledImages, test: LabelledImages | None = None) -> None:
    """Say in one line each how many pictures are in two classes, and how many test images are training images too.

    Images whose source does not know their contents are not compared.
    """
    if train.contents is None:
        return
    of_two = _in_two_classes(train.contents, train.labels)
    if of_two:
        count, one, other = of_two
        warnings.warn(
            f"images {train.spec!r}: {counted(count, 'image is', 'images are')} in more than one class, such as "
            f"{_name(train, one)} and {_name(train, other)}; no probe can be right on both",
            stacklevel=3,
        )
    if test is None or test.contents is None:
        return
    seen = np.flatnonzero(np.isin(test.contents, train.contents) & _readable(test.contents))
    if len(seen):
        one = int(np.flatnonzero(train.contents == test.contents[seen[0]])[0])
        warnings.warn(
            f"images {test.spec!r}: {counted(len(seen), 'test image is', 'test images are')} also among the training "
            f"images, such as {_name(test, int(seen[0]))} and {_name(train, one)}, so test accuracy is too high",
            stacklevel=3,
        )


def check_not_one_picture(*parts: LabelledImages | None) -> None:
    """Raise `UserError` if all images of a part are known to be the same readable picture, byte for byte."""
    for images in parts:
        contents = None if images is None else images.contents
        if images is None or contents is None or len(contents) < 2:
            continue
        if (contents == contents[0]).all() and _readable(contents).all():
            raise UserError(
                f"images {images.spec!r}: all {len(images)} are the same picture, byte for byte, such as "
                f"{images.names[0]!r}; look at it: images may have become blank when they were converted"
            )


def digest_of_pictures(*parts: LabelledImages | None) -> str | None:
    """A digest of the pictures in all parts, whatever their names and order; ``None`` if a source lacks them."""
    known = [part.contents for part in parts if part is not None and part.contents is not None]
    if len(known) < len(parts):
        return None
    return hashlib.sha256(np.unique(np.concatenate(known)).tobytes()).hexdigest()


def _in_two_classes(contents: NDArray[np.void], labels: NDArray[np.int64]) -> tuple[int, int, int] | None:
    """How many pictures are in more than one class, and two indices of such a picture."""
    places = np.flatnonzero(_readable(contents))
    _, first, picture = np.unique(contents[places], return_index=True, return_inverse=True)
    first_place = places[first][picture]
    other = np.flatnonzero(labels[places] != labels[first_place])
    if not len(other):
        return None
    return len(np.unique(picture[other])), int(first_place[other[0]]), int(places[other[0]])


def _readable(contents: NDArray[np.void]) -> NDArray[np.bool_]:
    return np.asarray((contents != np.void(UNREADABLE)) & (contents != np.void(digest_of_bytes(b""))))


def _name(images: LabelledImages, place: int) -> str:
    name = one_line(images.names[place])
    return repr(name if len(name) <= 80 else "…" + name[-79:])
