"""Digests of the contents of images, computed in threads and remembered on disk while the files stay the same.

A fingerprint of images depends only on their contents. Copied images with new time stamps have the same fingerprint,
and different pixels under the same names have a different one. The memory only saves time: digests are the same
without it.

The hash is the standard library's BLAKE2b. With two threads it is faster than a disk. A faster hash such as XXH3 would
be one more dependency, and an attacker could make a file that matches another one.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..machine.places import cache_folder
from ..machine.progress import ProgressBar
from ..machine.threads import Workers
from .entries import is_run

SIZE = 16
"""Bytes of a digest."""
UNREADABLE = bytes(SIZE)
"""Stands for a file that cannot be read."""

_CHUNK = 1 << 20
_YOUNG_NS = 5_000_000_000
"""A file that changed this recently may change again without a new time stamp: its digest is not remembered."""
_BAR_AFTER_SECONDS = 2.0
_BLOCK = 32  # files per task
_STATES = 256  # files between two looks at the clock
_MOST_REMEMBERED = 2_000_000  # digests in one memory file, 32 bytes each


def digest_of_array(array: object) -> bytes:
    """The digest of an array's shape, type and values."""
    values = np.ascontiguousarray(array)
    content = hashlib.blake2b(f"{values.dtype.str}{values.shape}".encode(), digest_size=SIZE)
    content.update(values.reshape(-1).view(np.uint8).data)
    return content.digest()


def digest_of_bytes(data: bytes) -> bytes:
    """The digest of bytes."""
    return hashlib.blake2b(data, digest_size=SIZE).digest()


def digests_of_files(
    paths: Sequence[str | os.PathLike[str]], *, place: str | os.PathLike[str], progress: bool = True
) -> list[bytes]:
    """The digest of each file's bytes.

    Args:
        paths: The files; one that cannot be read has the digest `UNREADABLE`.
        place: What they belong to, such as their folder; each place has its own memory.
        progress: Show a progress bar if it takes more than two seconds.
    """
    names = [os.fspath(path) if os.path.isabs(path) else os.path.abspath(path) for path in paths]
    memory = _Memory(os.path.abspath(place))
    before: list[_State] = []
    with ProgressBar("finding images", len(names), enabled=progress) as bar:  # minutes on a slow network disk
        for start in range(0, len(names), _STATES):
            before += map(_state, names[start : start + _STATES])
            bar.advance(len(before) - bar.done)
    found = [memory.known.get(state.key, b"") for state in before]
    missing = [i for i, digest in enumerate(found) if not digest]
    if not missing:
        return found
    now = time.time_ns()
    fresh = _hashed([names[i] for i in missing], sum(before[i].size for i in missing), progress)
    for i, digest in zip(missing, fresh, strict=True):
        found[i] = digest
        if digest != UNREADABLE and _is_settled(before[i], names[i], now):
            memory.fresh[before[i].key] = digest
    memory.save()
    return found


def remembered(
    files: Sequence[str | os.PathLike[str]],
    what: str,
    place: str | os.PathLike[str],
    count: int,
    make: Callable[[], list[bytes]],
) -> list[bytes]:
    """Return digests that are computed again only if one of ``files``, which they depend on, has changed.

    Args:
        files: The files; if there are none, the digests are computed each time.
        what: Name of this kind of digest.
        place: As for `digests_of_files`.
        count: Number of digests.
        make: Makes the digests, of `SIZE` bytes each.
    """
    names = [os.path.abspath(path) for path in files]
    if not names or count > _MOST_REMEMBERED // 2:
        return make()
    memory = _Memory(os.path.abspath(place))
    before = [_state(name) for name in names]
    key = digest_of_bytes(what.encode() + b"".join(state.key for state in before))
    keys = [digest_of_bytes(key + number.to_bytes(8, "little")) for number in range(count)]
    known = [memory.known.get(one, b"") for one in keys]
    if all(known):
        return known
    now = time.time_ns()
    digests = make()
    if all(_is_settled(state, name, now) for state, name in zip(before, names, strict=True)):
        memory.fresh.update(zip(keys, digests, strict=True))
        memory.save()
    return digests


class _State(NamedTuple):
    """A file's key, which changes when the file is written to; its size; and the time of its last change in ns."""

    key: bytes
    size: int
    changed: int


def _state(path: str) -> _State:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return _State(UNREADABLE, 0, sys.maxsize)
    # ctime, too: it reveals a file that was rewritten and then given its old time stamp.
    marks = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = digest_of_bytes(os.fsencode(path) + repr(marks).encode())
    return _State(key, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns))


def _is_settled(state: _State, path: str, now: int) -> bool:
    """Whether a file has not changed since it was examined, nor shortly before that."""
    return state.changed < now - _YOUNG_NS and _state(path) == state


def _hashed(paths: Sequence[str], size: int, progress: bool) -> list[bytes]:
    """Digests of files, read in threads; Ctrl-C stops the threads between two chunks."""
    blocks, digests, bar = range(0, len(paths), _BLOCK), list[bytes](), None
    read, due = [0] * len(blocks), time.monotonic() + _BAR_AFTER_SECONDS
    with ExitStack() as stack:
        workers = stack.enter_context(Workers())

        def work(start: int) -> list[bytes]:
            def count(more: int) -> None:
                read[start // _BLOCK] += more

            return [_hash(path, count, workers) for path in paths[start : start + _BLOCK]]

        def tell() -> None:
            nonlocal bar, due
            if time.monotonic() >= due:
                if bar is None:
                    bar = stack.enter_context(ProgressBar("reading images (MB)", size // 10**6, enabled=progress))
                bar.advance(sum(read) // 10**6 - bar.done)
                due = time.monotonic() + 0.25

        for some in workers.map(work, blocks, while_waiting=tell):
            digests += some
            tell()
    return digests


def _hash(path: str, count: Callable[[int], None], workers: Workers) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return UNREADABLE  # opening a pipe could block for ever
        total = hashlib.blake2b(digest_size=SIZE)
        with open(path, "rb", buffering=0) as file:
            while (chunk := file.read(_CHUNK)) and not workers.stopped:
                total.update(chunk)
                count(len(chunk))
    except (OSError, ValueError):
        return UNREADABLE
    return total.digest()


class _Memory:
    """Digests of one place's files from earlier calls: a file of keys and digests in the cache folder.

    A lost or damaged file does no harm: its content is checked, and can be computed again.
    """

    def __init__(self, place: str) -> None:
        folder = _folder(place)
        name = re.sub(r"[^\w.-]", "_", os.path.basename(place))[:40]
        self.path = folder and folder / f"{name}-{digest_of_bytes(os.fsencode(place)).hex()}.bin"
        self.known, self.fresh = self._read(), dict[bytes, bytes]()

    def _read(self) -> dict[bytes, bytes]:
        if self.path is None:
            return {}
        try:
            check, rows = (content := self.path.read_bytes())[:SIZE], content[SIZE:]
        except OSError:
            return {}
        if check != digest_of_bytes(rows) or len(rows) % (2 * SIZE):
            return {}
        return {rows[i : i + SIZE]: rows[i + SIZE : i + 2 * SIZE] for i in range(0, len(rows), 2 * SIZE)}

    def save(self) -> None:
        """Add new digests; keep those that another process has added since."""
        if not self.fresh or self.path is None:
            return
        rows = {**self._read(), **self.fresh}
        newest = list(rows.items())[-_MOST_REMEMBERED:]
        content = b"".join(key + digest for key, digest in newest)
        with suppress(OSError):  # without a saved memory, later calls only take longer
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent)
            try:
                with open(handle, "wb") as file:
                    file.write(digest_of_bytes(content) + content)
                os.replace(name, self.path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name)
                raise


def _folder(place: str) -> Path | None:
    """Where digests are kept; ``None`` if that is among the images, or in a run, where it could count as a class."""
    folder = Path(os.path.realpath(cache_folder() / "digests"))
    root = Path(os.path.realpath(place))
    above = next((path for path in folder.parents if path == root or is_run(path)), None)
    if above is not None and not any(name.startswith(".") for name in folder.relative_to(above).parts):
        return None
    return folder
