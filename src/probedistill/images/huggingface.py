"""``hf:REPO``: Hugging Face datasets, from the hub or a local folder."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import ImagesConfig
from ..errors import UserError, unknown_name
from .decode import UnreadableImageError, decode_image, one_line
from .labelled import LabelledImages, digest_of
from .sources import Source


def hf_source(place: str, config: ImagesConfig) -> Source:
    """A data set of the Hugging Face hub, or of a local folder that `datasets` reads."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            f'images {config.images!r} need the package datasets; install it with: pip install "probedistill[hf]"'
        ) from error
    local = Path(place).expanduser()
    try:
        splits = datasets.load_dataset(str(local) if local.is_dir() else place)
    except Exception as error:  # the hub client raises many kinds
        why = one_line(str(error).strip().split("\n")[0]) or type(error).__name__
        raise UserError(
            f"images {config.images!r} cannot be loaded ({why}); "
            "check the name and the network, or give a folder that holds the data set"
        ) from error
    bare = {name: data.with_format(None) for name, data in splits.items()}
    columns = sorted({column for data in bare.values() for column in data.column_names})
    for argument, column in (("image_column", config.image_column), ("label_column", config.label_column)):
        if column not in columns:
            raise unknown_name(argument, column, columns, hint=f"(in {config.images})")

    def has_labels(data: Any) -> bool:
        """Tell whether a split has labels; published test splits often have none, or only -1."""
        if not len(data) or not {config.image_column, config.label_column} <= set(data.column_names):
            return False
        first = data.select_columns([config.label_column])[0][config.label_column]
        return first is not None and first != -1

    labelled = [name for name, data in bare.items() if has_labels(data)]

    def read(split: str) -> LabelledImages:
        class_names, labels = _hf_labels(bare[split], split, config)
        try:
            encoded = bare[split].cast_column(config.image_column, datasets.Image(decode=False))
        except Exception as error:  # Arrow's own errors
            raise UserError(
                f"image_column {config.image_column!r} of {config.images} holds no images; "
                f"name another of its columns: {', '.join(bare[split].column_names)}"
            ) from error
        return LabelledImages(
            class_names=class_names,
            labels=labels,
            names=[f"{split}/{i:06d}" for i in range(len(labels))],
            load=_HfLoader(encoded.select_columns([config.image_column]), config.image_column, split),
            spec=config.images,
            split=split,
            fingerprint=digest_of(
                "hf",
                place,
                split,
                str(bare[split]._fingerprint),
                config.image_column,
                config.label_column,
                *class_names,
                labels.astype("<i8").tobytes(),
            ),
        )

    if not labelled:
        raise UserError(
            f"label_column {config.label_column!r} of {config.images} holds no labels; "
            f"name another of its columns: {', '.join(columns)}"
        )
    return Source(config.images, labelled, read)


def _hf_labels(data: Any, split: str, config: ImagesConfig) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    column = config.label_column
    values = list(data.select_columns([column])[:][column])
    if any(value is None or value == -1 for value in values):
        raise UserError(
            f"label_column {column!r} of {config.images} has images without a label in split {split!r}; "
            "name another split or another column"
        )
    names = getattr(data.features[column], "names", None)  # ClassLabel
    if names is not None:
        return tuple(names), np.asarray(values, dtype=np.int64)
    if not all(isinstance(value, str | int) for value in values):
        raise UserError(
            f"label_column {column!r} of {config.images} holds neither names nor whole numbers; "
            f"name another of its columns: {', '.join(data.column_names)}"
        )
    present = sorted(set(values))
    place = {value: label for label, value in enumerate(present)}
    return tuple(str(value) for value in present), np.array([place[value] for value in values], dtype=np.int64)


@dataclass
class _HfLoader:
    data: Any
    column: str
    split: str

    def __call__(self, index: int) -> Image.Image:
        name = f"{self.split}/{index:06d}"
        item = self.data[index][self.column]
        if item is None or (item["bytes"] is None and not item["path"]):
            raise UnreadableImageError(f"{name}: there is no image in this row")
        return decode_image(item["path"] if item["bytes"] is None else item["bytes"], name=name)
