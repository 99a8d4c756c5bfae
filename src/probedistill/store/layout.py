"""Names of files and folders."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from ..encoders.encoder import Encoder
from ..errors import UserError

SUFFIXES = {"png": "png", "webp": "webp", "jpeg": "jpg"}
"""Image formats that a set is kept in, with the end of a file's name."""

_NAME_BYTES = 200  # of a folder's name; file systems take 255


def file_names(labels: Sequence[int], class_names: Sequence[str], suffix: str) -> Iterator[str]:
    """CLASS/000.png … of each image, below ``images/``: from classes and order alone, never from a file's content."""
    counts, folders = [0] * len(class_names), folder_names(class_names)
    for label in labels:
        yield f"{folders[label]}/{counts[label]:03d}.{suffix}"
        counts[label] += 1


def folder_name(class_name: str) -> str:
    """A class name as the name of one folder: characters with a meaning to file systems are %-escaped.

    >>> folder_name("T-shirt/top"), folder_name(".."), folder_name("café au lait")
    ('T-shirt%2Ftop', '%2E%2E', 'café au lait')
    """
    escaped = "".join(quote(c, safe="") if c in '/\\:*?"<>|%' or ord(c) < 32 else c for c in class_name)
    if escaped.strip(". ") != escaped:
        escaped = "".join(f"%{ord(c):02X}" if c in ". " else c for c in escaped)
    return escaped or "%"


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A folder for each class, all different also where a file system ignores case or the form of accents.

    >>> folder_names(["Cat", "cat", "dog"])
    ['Cat', 'cat~2', 'dog']
    """
    taken: set[str] = set()
    names = []
    for class_name in class_names:
        base = folder_name(class_name).encode()[:_NAME_BYTES].decode(errors="ignore")
        name, number = base, 1
        while _same_file(name) in taken:
            number += 1
            name = f"{base}~{number}"
        taken.add(_same_file(name))
        names.append(name)
    return names


def _same_file(name: str) -> str:
    """What file systems that ignore case and the form of accents see of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def scores_file(encoder: Encoder) -> str:
    """Name of the file that keeps a set's scores on an encoder, in the folder of the set."""
    return f"evaluation-{encoder.name.replace('/', '_')}-{encoder.input_size}px.json"


def check_named_once(folders: Sequence[Path]) -> None:
    """Raise `UserError` for a run that is named twice, in whatever way."""
    resolved = [folder.resolve() for folder in folders]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise UserError(f"run {str(folders[i])!r} is named twice; name each run once")
