"""Tiny image folders and shards for tests."""

from __future__ import annotations

import colorsys
import io
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image


def class_image(label: int, of: int = 2, size: int = 32, rng: np.random.Generator | None = None) -> Image.Image:
    """Return a square RGB image whose colour and stripes show class ``label`` of ``of``."""
    rng = rng or np.random.default_rng(label)
    colour = np.array(colorsys.hsv_to_rgb(label / of, 0.8, 0.8)) * 255
    rows, columns = np.mgrid[:size, :size] + rng.integers(0, size, 2)[:, None, None]
    angle = np.pi * label / of
    stripes = np.sin(2 * np.pi * (label % 3 + 2) / size * (rows * np.cos(angle) + columns * np.sin(angle)))
    pixels = colour + 40 * stripes[..., None] + rng.normal(0, 12, (size, size, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def make_image_folder(
    path: Path,
    classes: Sequence[str] = ("cat", "dog"),
    per_class: int = 4,
    size: int = 32,
    splits: Sequence[str] = ("train", "test"),
    seed: int = 0,
) -> Path:
    """Write ``path/split/class/0000.png`` … (no split level if ``splits`` is empty); return ``path``."""
    rng = np.random.default_rng(seed)
    for split in splits or ("",):
        for label, name in enumerate(classes):
            folder = Path(path) / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                class_image(label, len(classes), size, rng).save(folder / f"{i:04d}.png")
    return Path(path)


CLASSES = ("cat", "dog", "owl")


def encoded(label: int = 0, seed: int = 0, kind: str = "PNG") -> bytes:
    """Return an image of class ``label``, one of three, as the bytes of a file."""
    buffer = io.BytesIO()
    class_image(label, 3, 32, np.random.default_rng(seed)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], **options: object) -> Path:
    """Write a tar file of (name, content); return ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(start: int, count: int, label: str = "number") -> list[tuple[str, bytes]]:
    """Members of samples from ``start`` on, with classes in turn."""
    members = []
    for i in range(start, start + count):
        text = {"number": str(i % 3), "name": CLASSES[i % 3]}[label]
        members += [(f"{i:04d}.png", encoded(i % 3, i)), (f"{i:04d}.cls", text.encode())]
    return members


def found_by_datasets(parts: Mapping[str, Any]) -> Callable[[str], SimpleNamespace]:
    """A stand-in for ``datasets.load_dataset_builder`` that finds these splits under every name."""
    builder = SimpleNamespace(
        name="parquet",
        config=SimpleNamespace(data_files=None),
        download_and_prepare=lambda: None,
        as_dataset=lambda: parts,
    )
    return lambda _: builder
