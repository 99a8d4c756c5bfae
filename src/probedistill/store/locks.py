"""One process at a time in a folder: claim it, then look at it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import UserError
from .files import behind_link, cannot_write, make_folder, without_traces
from .layout import LOCK

PATIENCE = 60.0
"""Seconds to wait for another command that is writing a result into the folder."""


@contextmanager
def claimed(folder: Path, *, called: str = "out", wait: float = 0.0) -> Iterator[None]:
    """Lock a folder, created if necessary, against other processes; the system unlocks it if this process dies.

    A folder that this process may not write to is not locked, because nothing is changed there.

    Args:
        folder: The folder.
        called: The argument that errors name.
        wait: Seconds to wait for another process.

    Raises:
        UserError: Another process is using it, or it cannot be created.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{called} {str(folder)!r} is a file; choose another folder")
    with without_traces(folder):
        lock = _acquired(folder, called, wait)
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):  # removed before release: a waiting process notices, and makes a new lock file
                    (folder / LOCK).unlink(missing_ok=True)
                lock.release()


@contextmanager
def sole_maker(path: Path) -> Iterator[None]:
    """Be the only process that makes a new folder, which is written under another name until it is complete.

    Raises:
        UserError: Another process is making it, or nothing can be written beside it.
    """
    real = behind_link(path)
    beside = real.with_name(f".{real.name}.new.part")
    with without_traces(beside):
        lock = _acquired(beside, "out", 0.0, path)
        try:
            yield
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            if lock is not None:
                lock.release()


def is_left_over(folder: Path) -> bool:
    """Whether the lock of a folder is left over from a process that was killed: nothing on this machine holds it.

    Nothing is written. Always ``False`` on Windows and on file systems without locks, where this cannot be known.
    """
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        with open(folder / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until the file is closed
    except OSError:
        return False
    return True


def _acquired(folder: Path, called: str, wait: float, shown: Path | None = None) -> FileLock | None:
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        make_folder(folder)
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise UserError(
            f"{called} {str(shown or folder)!r} is in use by another process; wait for it or choose another folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        if folder.is_dir():  # a read-only folder, or a file system without locks
            return None
        if isinstance(error, PermissionError):
            error = PermissionError(13, "no permission to create the folder")
        raise cannot_write(shown or folder, error) from error
    return lock
