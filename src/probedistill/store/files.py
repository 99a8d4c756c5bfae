"""Files and folders that are complete or absent, even after a kill or a power loss.

A file is written under a temporary name, synced and renamed, and then its folder is synced. Otherwise a file system
may keep the name and lose the content, or the reverse.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ..errors import UserError, explained, first_line
from ..images.entries import is_of_a_system
from ..machine.places import hindrance
from ..machine.threads import Workers
from .layout import LOCK, check_beside_images
from .named import check_own, check_path

_FIRST = 64  # bytes that tell the kind of a file


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` when the block ends without an error.

    Raises:
        UserError: It cannot be written, or is a device or a pipe, which renaming would replace.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f"cannot write {str(path)!r}: it is a device or a pipe, not a file; choose another name")
    try:
        with without_traces(path.parent):
            make_folder(path.parent)
            _remove_orphans(path)
            prefix = f".{path.name}.{_machine()}-{os.getpid()}-"
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
            os.close(handle)
            with _renamed_when_whole(Path(name), path) as temporary:
                yield temporary
    except OSError as error:
        raise cannot_write(path, error) from error


def _remove_orphans(path: Path) -> None:
    """Remove a file's temporary files that dead processes of this machine have left."""
    begin = f".{path.name}.{_machine()}-"
    for entry in list(os.scandir(path.parent)):
        if entry.name.startswith(begin) and entry.name.endswith(".part"):
            process = entry.name.removeprefix(begin).partition("-")[0]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                with suppress(OSError):
                    os.unlink(entry.path)


@functools.cache
def _machine() -> str:
    """A short name for this machine: another machine may write into the same folder."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; they are on the disk before anything in them is."""
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(new):
        sync_folder(path.parent)


@contextmanager
def without_traces(folder: Path) -> Iterator[None]:
    """If the block ends with an error, remove ``folder`` and its parents if they are new and empty."""
    # os.path.exists, because Path.exists raises if access is denied
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
        _sync(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder next to ``path``; when the block ends without an error, it replaces ``path``.

    If it is killed at any point, ``path`` is the old folder, the new one, or, for a moment, absent.

    Raises:
        OSError: It cannot be written. Nothing is left behind.
    """
    path = behind_link(path)  # a link to another disk stays one
    partial = path.with_name(f".{path.name}.part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        found = [(Path(folder), files) for folder, _, files in os.walk(partial)]
        with Workers(16) as workers:  # a disk can combine writes that are waited for at the same time
            for _ in workers.map(_sync, [folder / name for folder, files in found for name in files]):
                pass
            for _ in workers.map(sync_folder, [folder for folder, _ in found]):
                pass
        remove_folder(path)
        partial.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if the system can do that."""
    with suppress(OSError):  # Windows cannot sync folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_folder(path: Path) -> None:
    """Remove a folder, if it exists. If this is killed, the folder is complete or under a temporary name."""
    doomed = path.with_name(f".{path.name}.old.part")
    shutil.rmtree(doomed, ignore_errors=True)
    if path.exists():
        path.rename(doomed)
        sync_folder(path.parent)
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


def is_empty(folder: Path, *, claimed: bool = False) -> bool:
    """Whether a folder contains nothing but what systems add, such as ``.DS_Store``.

    Args:
        folder: The folder.
        claimed: Whether this process has claimed it: what processes of ours leave does not count then.
    """
    ours = {folder / LOCK, *leftovers(folder)} if claimed else set()
    return all(path in ours or is_of_a_system(path.name) for path in folder.iterdir())


def check_writable(folder: Path) -> None:
    """Raise `UserError` if ``folder`` cannot be written to or created; change nothing."""
    check_path(folder)
    check_own(folder)
    check_beside_images(folder)
    why = hindrance(folder)
    if why is not None:
        raise UserError(f"cannot write {str(folder)!r}: {why}; choose another folder")


def check_file(path: Path, if_folder: str = "", *, begins: bytes = b"") -> None:
    """Raise `UserError` when a file of this name cannot be written, or would replace one of another kind.

    Args:
        path: The file.
        if_folder: The error when it is a folder.
        begins: Regular expression for the first bytes of such files. ``--csv *.jpg`` must not overwrite a photo.
    """
    if path.is_dir():
        raise UserError(if_folder or f"cannot write {str(path)!r}: it is a folder; give the name of a file")
    check_writable(path.parent)
    if path.is_file():
        with explained(f"{str(path)!r} cannot be opened", OSError, hint="choose another name"), path.open("rb") as file:
            first = file.read(_FIRST)
        if first and not re.match(begins, first, re.DOTALL):
            raise of_another_kind(path)


def behind_link(path: Path) -> Path:
    """What a symbolic link leads to, which need not be there; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def of_another_kind(path: Path) -> UserError:
    """The error for a file that must not be replaced, because it is not what would replace it."""
    return UserError(
        f"{str(path)!r} is a file of another kind, which would be replaced; choose another name or remove it"
    )


def cannot_write(path: Path, error: Exception) -> UserError:
    """The error for a file or folder that could not be written, with what to do about it."""
    no_place = (
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG,
        errno.ENOENT,
    )  # fmt: skip
    other = isinstance(error, OSError) and error.errno in no_place
    fix = "choose another folder" if other else "free some space or choose another folder"
    return UserError(f"cannot write {str(path)!r}: {first_line(error)}; {fix}")
