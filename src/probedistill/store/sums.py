"""``SHA256SUMS``: which files make one set. ``sha256sum -c SHA256SUMS`` checks it without probedistill.

While a command replaces a file, it has two lines: the old checksum and the new one. If the command is killed, every
file then has one of the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from .files import whole_file
from .layout import SUMS


class MixedFilesError(ValueError):
    """A file was not written together with the others."""


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; of JSON with the line ends that were written.

    Git on Windows checks text files out with other line ends (``core.autocrlf``).
    """
    if path.suffix == ".json":
        return digest(path.read_bytes().replace(b"\r\n", b"\n"))
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def write_sums(folder: Path, digests: Mapping[str, Iterable[str]]) -> None:
    """Write ``SHA256SUMS``.

    Args:
        folder: The folder of the set.
        digests: Name below the folder, with /, → all digests that the file may have.
    """
    lines = [f"{one}  {name}\n" for name, known in digests.items() for one in dict.fromkeys(known)]
    with whole_file(folder / SUMS) as temporary:
        # The name of a foreign file may be any bytes.
        temporary.write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="\n")


def read_sums(folder: Path) -> dict[str, tuple[str, ...]]:
    """The digests of each file.

    Raises:
        MixedFilesError: There is no ``SHA256SUMS``, or it is damaged.
    """
    found: dict[str, dict[str, None]] = {}
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise MixedFilesError(f"{SUMS} is missing or cannot be read") from error
    for line in filter(None, lines):
        known, _, name = line.partition("  ")
        if len(known) != 64 or not name:
            raise MixedFilesError(f"{SUMS} is damaged at {line[:80]!r}")
        found.setdefault(name, {})[known] = None
    return {name: tuple(known) for name, known in found.items()}


def check_digest(sums: Mapping[str, tuple[str, ...]], name: str, found: str) -> None:
    """Refuse a file that is not among the files of the set.

    Raises:
        MixedFilesError: It is another file than the one that was written.
    """
    if found not in sums.get(name, ()):
        raise MixedFilesError(
            f"{name} has changed since it was written" if name in sums else f"{name} is not in {SUMS}"
        )
