"""``torchvision:NAME``: the classification sets of torchvision."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import ImagesConfig
from ..errors import UserError, option
from ..machine.places import at_home, checked_cache
from ..methods import check_name
from ..text import one_line
from .contents import digest_of_array
from .decode import UnreadableImageError, decode_image, reason_of
from .labelled import LabelledImages, digest_of
from .sources import WHOLE, Source, described, digests_of

_TRAIN_TEST = ("train", "test")

_TORCHVISION: dict[str, tuple[str, ...]] = {  # classification set → its splits
    "CIFAR10": _TRAIN_TEST,
    "CIFAR100": _TRAIN_TEST,
    "CLEVRClassification": ("train", "val"),
    "Caltech101": (WHOLE,),
    "Caltech256": (WHOLE,),
    "Country211": ("train", "valid", "test"),
    "DTD": ("train", "val", "test"),
    "EuroSAT": (WHOLE,),
    "FER2013": _TRAIN_TEST,
    "FGVCAircraft": ("trainval", "train", "val", "test"),
    "FashionMNIST": _TRAIN_TEST,
    "Flowers102": ("train", "val", "test"),
    "Food101": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "ImageNet": ("train", "val"),
    "Imagenette": ("train", "val"),
    "KMNIST": _TRAIN_TEST,
    "MNIST": _TRAIN_TEST,
    "OxfordIIITPet": ("trainval", "test"),
    "Places365": ("train-standard", "train-challenge", "val"),
    "RenderedSST2": ("train", "val", "test"),
    "SEMEION": (WHOLE,),
    "STL10": _TRAIN_TEST,
    "SUN397": (WHOLE,),
    "SVHN": ("train", "extra", "test"),
    "StanfordCars": _TRAIN_TEST,
    "USPS": _TRAIN_TEST,
}


_UNREADABLE = (OSError, ValueError, SyntaxError)
"""Errors of torchvision's own reading of images, for sets that do not give paths."""


@described("torchvision:NAME", options=("data_dir", "download"))
def torchvision_source(place: str, config: ImagesConfig) -> Source:
    """One of the sets in the table, with the splits that torchvision gives it."""
    check_name("torchvision data set", place, _TORCHVISION)
    data_sets = importlib.import_module("torchvision.datasets")
    make = getattr(data_sets, place, None)
    if make is None:
        raise UserError(f"images {config.images!r}: this torchvision has no {place}; install a newer one")

    def read(split: str) -> LabelledImages:
        data = _make_torchvision(make, split, config)
        class_names, labels = _torchvision_labels(data)
        return LabelledImages(
            class_names=class_names,
            labels=labels,
            names=[f"{split}/{i:06d}" for i in range(len(labels))],
            load=_ItemLoader(data, split),
            spec=config.images,
            split=split,
            fingerprint=digest_of(
                "torchvision", place, split, *class_names, labels.astype("<i8").tobytes(),
                *_contents(data, len(labels), config.images, source.progress),
            ),
        )  # fmt: skip

    source = Source(config.images, {split: partial(read, split) for split in _TORCHVISION[place]})
    return source


def _contents(data: Any, count: int, spec: str, progress: bool) -> list[bytes]:
    """Digests of all pixels or files of a set."""
    pixels = getattr(data, "data", None)
    if pixels is not None and len(pixels) == count and not isinstance(pixels, list):
        return [digest_of_array(pixels)]
    return digests_of([_item_or_none(data, index) for index in range(count)], place=spec, progress=progress)


def _item_or_none(data: Any, index: int) -> Any:
    """As `_item`, but no bytes for an unreadable image; loading it reports the reason."""
    try:
        return _item(data, index)
    except _UNREADABLE:
        return b""


def _item(data: Any, index: int) -> Any:
    """The path of an image if the set keeps paths, else the picture that it makes."""
    for attribute in ("_image_files", "_images", "_samples", "samples"):
        entry = getattr(data, attribute, [None] * (index + 1))[index]
        path = entry[0] if isinstance(entry, tuple) else entry
        if isinstance(path, str | os.PathLike):
            return os.fspath(path)
    picture = data[index][0]
    return getattr(picture, "filename", "") or picture


def _make_torchvision(make: Callable[..., Any], split: str, config: ImagesConfig) -> Any:
    root = at_home(Path(config.data_dir)) if config.data_dir else checked_cache(writes=config.download) / "torchvision"
    accepted = inspect.signature(make).parameters
    options: dict[str, Any] = {}
    if "train" in accepted:
        options["train"] = split == "train"
    elif "split" in accepted:
        options["split"] = split
    if "download" in accepted:
        options["download"] = config.download
    try:
        data = make(str(root), **options)
    except (RuntimeError, OSError, ValueError) as error:
        why = one_line(str(error)) or type(error).__name__
        if options.get("download"):
            hint = f"check the network or put the files into {root} ({option('data_dir')})"
        elif "download" in accepted:
            hint = f"add {option('download', True)} or give the folder with its files in {option('data_dir')}"
        else:
            hint = f"it cannot be downloaded; give the folder with its files in {option('data_dir')}"
        raise UserError(f"images {config.images!r} cannot be read from {root} ({why}); {hint}") from error
    if hasattr(data, "loader"):
        data.loader = str  # return the path: decode_image is more careful than the default loader
    return data


def _torchvision_labels(data: Any) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    for attribute in ("targets", "labels", "_labels", "y"):
        if hasattr(data, attribute):
            values = np.asarray(getattr(data, attribute), dtype=np.int64).reshape(-1)
            break
    else:
        given_labels = [sample[-1] for sample in data._samples]
        if None in given_labels:
            raise UserError(f"torchvision's {type(data).__name__} has no labels in this split; choose another")
        values = np.array(given_labels, dtype=np.int64)
    given = getattr(data, "classes", None) or getattr(data, "categories", None) or ()
    names = tuple(name if isinstance(name, str) else str(name[0]) for name in given)
    if len(set(names)) < len(names):  # ImageNet has two classes called crane; lists of its classes use WordNet ids
        names = tuple(getattr(data, "wnids", ()))
    if values.size and len(names) <= int(values.max()):
        present, values = np.unique(values, return_inverse=True)
        names = tuple(str(value) for value in present)
    return names, values.astype(np.int64)


@dataclass
class _ItemLoader:
    data: Any
    split: str

    def __call__(self, index: int) -> Image.Image:
        name = f"{self.split}/{index:06d}"
        try:
            item = _item(self.data, index)
        except _UNREADABLE as error:
            raise UnreadableImageError(f"{name}: {reason_of(error)}") from error
        return decode_image(item, name=f"{name} ({item})" if isinstance(item, str) else name)
