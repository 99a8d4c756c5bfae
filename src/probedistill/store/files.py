"""Files that are either whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import UserError, first_line


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it there when the block ends without an error."""
    try:
        with without_traces(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
            os.close(handle)
            with _renamed_when_whole(Path(name), path) as temporary:
                yield temporary
    except OSError as error:
        raise cannot_write(path, error) from error
    except SafetensorError as error:  # the library's own wrapping of a full disk
        raise cannot_write(path, error) from error


@contextmanager
def without_traces(folder: Path) -> Iterator[None]:
    """When the block ends with an error, remove ``folder`` and its parents where they are new and empty."""
    # os.path.exists, because Path.exists raises where it may not look
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        raise


@contextmanager
def _renamed_when_whole(temporary: Path, path: Path) -> Iterator[Path]:
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there: whole or, when killed meanwhile, under a temporary name."""
    doomed = path.with_name(f".{path.name}.part")
    shutil.rmtree(doomed, ignore_errors=True)
    if path.exists():
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """What is left in ``folder`` under temporary names by processes that were killed."""
    return sorted(folder.glob(".*.part"))


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Remove them, or those that are older (in seconds), without complaint where that is not allowed."""
    for path in leftovers(folder):
        with suppress(OSError):
            if older_than and time.time() - path.stat().st_mtime < older_than:
                continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def check_writable(folder: Path) -> None:
    """Raise `UserError` when ``folder`` cannot be written to, or made where it is not there; change nothing."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not existing.is_dir():
        raise cannot_write(folder, OSError(errno.ENOTDIR, f"{str(existing)!r} is not a folder"))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise cannot_write(folder, OSError(errno.EACCES, f"no permission to write in {str(existing)!r}"))


def cannot_write(path: Path, error: Exception) -> UserError:
    """The error for a file or folder that could not be written, with what to do about it."""
    reason = getattr(error, "strerror", None) or first_line(error)
    no_place = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
    other = isinstance(error, OSError) and error.errno in no_place
    mend = "choose another folder" if other else "free some space or choose another folder"
    return UserError(f"cannot write {str(path)!r}: {reason}; {mend}")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """The value with ``None`` for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
