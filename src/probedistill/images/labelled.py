"""Labelled images that are decoded one by one: what every source gives and every command takes."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import ImagesConfig
from ..errors import UserError, by_caller, option, unknown_name
from ..text import counted, printable

_classes_flag = "--classes"


@contextmanager
def classes_from(flag: str) -> Iterator[None]:
    """Let errors about the option ``classes`` within the block name the flag that gave it."""
    global _classes_flag
    before, _classes_flag = _classes_flag, flag
    try:
        yield
    finally:
        _classes_flag = before


def classes_argument() -> str:
    """How errors call a class that was named by the option ``classes``."""
    return by_caller(command=f"class in {_classes_flag}", python="class in classes")


class LabelledImages:
    """Labelled images that are decoded only when asked for, by `load`.

    Attributes:
        class_names: Names of the C classes; label ``c`` is ``class_names[c]``.
        labels: int64 array of shape (N,), each in 0 … C - 1.
        names: A short name for each image, such as its path relative to the folder.
        spec: The spec string the images came from.
        split: The name of the split.
        fingerprint: Hex SHA-256 of what the images are; the same in every process.
        config: The options with which `load_splits` returns these as training images; ``None`` if there are none.
        contents: A digest of each image's file or pixels, 16 bytes, shape (N,); ``None`` if the source has none.
        for_testing: Whether these are for testing only, so that a class may have no readable image.
        held_out: Names of the images that were held out, if these are what `load_training` left.

    Args:
        load: Decodes image ``i`` to RGB; raises ``UnreadableImageError``.
        indices: int64 array of shape (N,): which image of ``load`` each one is; default 0 … N - 1.
        class_names, labels, names, spec, split, fingerprint, contents: As the attributes; class names are unique.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        labels: Sequence[int] | NDArray[np.int64],
        names: Sequence[str],
        load: Callable[[int], Image.Image],
        spec: str,
        split: str,
        fingerprint: str,
        indices: NDArray[np.int64] | None = None,
        contents: Sequence[bytes] | NDArray[np.void] | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.names = names
        self.spec, self.split, self.fingerprint = spec, split, fingerprint
        self.config: ImagesConfig | None = None
        self.for_testing = False
        self.held_out: Sequence[str] = ()
        self.contents: NDArray[np.void] | None = None if contents is None else np.array(contents, dtype="V16")
        self._load = load
        self._indices = np.arange(len(self.labels)) if indices is None else indices
        if not len(self.names) == len(self.labels) == len(self._indices):
            raise ValueError("labels, names and indices differ in length")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        classes = len(self.class_names)
        sizes = f"{counted(len(self), 'image')}, {counted(classes, 'class', 'classes')}"
        return f"LabelledImages({self.spec!r}, split={self.split!r}, {sizes})"

    def load(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB; may be called from several threads.

        Raises:
            UnreadableImageError: The image cannot be decoded.
            IndexError: There is no such image.
        """
        return self._load(int(self._indices[index]))

    def counts(self) -> NDArray[np.int64]:
        """Return the number of images in each class, int64 of shape (C,)."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> LabelledImages:
        """Return the images at ``indices``, in that order, with the same classes.

        The fingerprint is derived from this one and ``indices``.

        Raises:
            IndexError: An index is out of range.
            TypeError: ``indices`` is a boolean mask, or something else than whole numbers.
        """
        if np.asarray(indices).dtype == np.bool_:
            raise TypeError("indices is a mask; give np.flatnonzero(mask)")
        if len(np.atleast_1d(indices)) and np.asarray(indices).dtype.kind not in "iu":
            raise TypeError(f"indices are {np.asarray(indices).dtype}; give whole numbers")
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        fingerprint = digest_of("select", self.fingerprint, chosen.astype("<i8").tobytes())
        return self._taken(chosen, self.class_names, self.labels[chosen], fingerprint)

    def with_classes(self, class_names: Sequence[str]) -> LabelledImages:
        """Return only the images of ``class_names``; labels are positions in that list.

        Raises:
            UserError: A name is unknown or occurs twice.
        """
        return self.of(class_names, "class")

    def of(self, class_names: Sequence[str], argument: str, absent_ok: bool = False) -> LabelledImages:
        """As `with_classes`; errors call the names ``argument``, and ``absent_ok`` allows unknown ones."""
        if isinstance(class_names, str):
            raise UserError(f"{argument} {class_names!r} must be a list of names; write [{class_names!r}]")
        wanted = tuple(class_names)
        check_classes(wanted, self.class_names, argument, self.spec, absent_ok)
        if wanted == self.class_names:
            return self
        place = {name: new for new, name in enumerate(wanted)}
        new_label = np.array([place.get(name, -1) for name in self.class_names], dtype=np.int64)
        labels = new_label[self.labels] if len(self) else self.labels
        kept = np.flatnonzero(labels >= 0)
        fingerprint = digest_of("classes", self.fingerprint, *wanted)
        return self._taken(kept, wanted, labels[kept], fingerprint)

    def _taken(
        self,
        chosen: NDArray[np.int64],
        class_names: tuple[str, ...],
        labels: NDArray[np.int64],
        fingerprint: str,
    ) -> LabelledImages:
        taken = LabelledImages(
            class_names=class_names,
            labels=labels,
            names=[self.names[i] for i in chosen],
            load=self._load,
            spec=self.spec,
            split=self.split,
            fingerprint=fingerprint,
            indices=self._indices[chosen],
            contents=None if self.contents is None else self.contents[chosen],
        )
        taken.for_testing = self.for_testing
        return taken


def check_labelled(given: object, argument: str = "images") -> None:
    """Raise `UserError` for anything but labelled images, with how to make them."""
    if isinstance(given, LabelledImages):
        return
    if isinstance(given, (str, ImagesConfig)):
        name = given if isinstance(given, str) else given.images
        raise UserError(f"{argument} {name!r} is an image spec; open it first with load_splits or load_images")
    raise UserError(f"{argument} is a {type(given).__name__}; give images from load_splits, or {how_to_label(given)}")


def how_to_label(given: Any) -> str:
    """Return a line of Python that makes labelled images from a program's ``data``."""
    if isinstance(given, Mapping):
        return "labelled_images of one of its parts, such as data['train']"
    if hasattr(given, "column_names"):  # a table of `datasets`
        return "labelled_images(data['image'], data['label'], data.features['label'].names)"
    if hasattr(given, "dataset") and hasattr(given, "batch_size"):
        return "labelled_images(*zip(*(data[i] for i in range(len(data))))), where data is the loader's dataset"
    # A PyTorch Dataset need not raise IndexError at its end: zip(*data) might never stop.
    if not hasattr(given, "shape") and hasattr(given, "__getitem__") and not isinstance(given, Sequence):
        return "labelled_images(*zip(*(data[i] for i in range(len(data)))))"
    if isinstance(given, Sequence) and len(given) and isinstance(given[0], tuple):
        return "labelled_images(*zip(*data))"
    return "labelled_images(pictures, labels)"


def rows_of_labels(labels: NDArray[np.int64], count: int = 0) -> list[NDArray[np.int64]]:
    """The rows of each label, in order. One sort is much faster than a search through all rows for each label.

    Args:
        labels: (n,) from 0.
        count: Number of labels, at least; by default as many as occur, up to the largest.
    """
    return np.split(labels.argsort(kind="stable"), np.bincount(labels, minlength=count).cumsum()[:-1])


def digest_of(*parts: str | bytes) -> str:
    """Return the SHA-256 of the parts, each with its length, so that different lists have different digests."""
    total = hashlib.sha256()
    for part in parts:
        data = os.fsencode(part) if isinstance(part, str) else part
        total.update(b"%d:" % len(data))
        total.update(data)
    return total.hexdigest()


def check_classes(
    wanted: Sequence[str], known: Sequence[str], argument: str, spec: str, absent_ok: bool = False
) -> None:
    """Raise `UserError` for a class that is unknown or named twice."""
    seen: set[str] = set()
    for name in wanted:
        if name in seen:
            raise UserError(f"{argument} {name!r} is named twice; name each class once")
        seen.add(name)
    present = set(known)
    missing = [] if absent_ok else [name for name in wanted if name not in present]
    if missing:
        raise unknown_name(argument, missing[0], known, hint=f"(in {spec})")


_MARKS = "\u061c\u200e\u200f"  # harmless marks in Arabic and Hebrew text
_LONGEST_NAME = 500  # characters; a folder's name has 255 bytes at most


def check_class_names(class_names: Sequence[str], called: str) -> None:
    """Refuse class names that files, tables or terminals cannot represent, before any work is done.

    Args:
        class_names: The names.
        called: Owner of these classes, for the error: ``"images 'folder:photos'"``.

    Raises:
        UserError: A name is empty, very long, or has a line break, a control character, a character that changes the
            direction of text, or half of a character (a lone surrogate).
    """
    for name in class_names:
        if not name.strip():
            fault = "is empty"
        elif len(name) > _LONGEST_NAME:
            name, fault = name[:40] + "…", f"has {len(name):,} characters; the limit is {_LONGEST_NAME}"
        elif any("\ud800" <= c <= "\udfff" for c in name):
            fault = "cannot be written as UTF-8"
        elif any(printable(c) != c for c in name if c not in _MARKS):
            fault = "has a line break or a control character"
        else:
            continue
        raise UserError(f"class {name!a} of {called} {fault}; rename it or leave it out with {option('classes')}")


def plain_name(name: str) -> str:
    """A class name in one form of accents and without spaces around it, in which people do not see a difference."""
    return unicodedata.normalize("NFC", name).strip() or name


def warn_of_alike(groups: Iterable[Sequence[str]]) -> None:
    """Warn if a group adds a class that differs from an earlier one only in capitals, spaces, hyphens or accents' form.

    Args:
        groups: The class names of each set, party or source that is put together.
    """
    known: dict[str, list[str]] = {}
    for names in groups:
        for name in names:
            others = known.get(_in_a_word(name), [name])
            if name not in others and others[0] not in names:
                warnings.warn(
                    f"classes {others[0]!r} and {name!r} are treated as two; if they are one, use one name in all "
                    "that is put together (finished sets: probedistill rename)",
                    stacklevel=3,
                )
        for name in names:
            known.setdefault(_in_a_word(name), []).append(name)


def _in_a_word(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", name).casefold())


def check_classes_of_images(class_names: Sequence[str], called: str) -> None:
    """As `check_class_names`, for labels as people write them: ``cat`` and ``cat`` with a space are one class.

    Raises:
        UserError: As above, or two classes differ in nothing but spaces around them or the form of accents.
    """
    check_class_names(class_names, called)
    seen: dict[str, str] = {}
    for name in class_names:
        other = seen.setdefault(plain_name(name), name)
        if other != name:
            raise UserError(
                f"{called}: the classes {other!a} and {name!a} have the same name except for spaces or the form of "
                "accents; write their labels alike"
            )


def of_classes(images: LabelledImages, class_names: Sequence[str], name: str = "the set") -> LabelledImages:
    """Return the images of a set's classes, labelled by their positions in the set.

    Raises:
        UserError: The images lack a class; the message calls the set ``name``.
    """
    try:
        return images.with_classes(class_names)
    except UserError as error:
        raise UserError(
            f"{name} was made for different classes: {error}; give the images that it was made from, in classes of the "
            "same names (after rename, of the new ones)"
        ) from error
