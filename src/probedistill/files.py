"""Files that are either whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import UserError, first_line

_DIGEST = "sha256"


class TornFileError(Exception):
    """A file is cut short or altered: it is not what was written."""


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


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors and JSON-able metadata with a digest of both, whole or not at all."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"metadata": json.dumps(dict(metadata or {}), sort_keys=True)}
    header[_DIGEST] = _digest(plain, header["metadata"])
    with whole_file(path) as temporary:
        save_file(plain, temporary, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        TornFileError: The file is cut short, altered or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # A copy: the library maps the file into memory, and what is checked below must not change later.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = header["metadata"]
        if header[_DIGEST] != _digest(tensors, metadata):
            raise TornFileError(f"{path} does not match its own digest")
        return tensors, json.loads(metadata)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TornFileError(f"{path} is cut short or not a file of probedistill: {error}") from error


def map_tensors(path: Path, names: Iterable[str]) -> list[Tensor]:
    """The named tensors of a file of `save_tensors`, mapped into memory: what is not touched is not read.

    Nothing is checked but the header: check the file once with `load_tensors` first. Memory goes back when the
    tensors do.

    Raises:
        TornFileError: The file is not there any more or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(name) for name in names]
    except (SafetensorError, OSError) as error:
        raise TornFileError(f"{path} is cut short, gone or not a file of probedistill: {error}") from error


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)  # NumPy has no bfloat16
    return digest.hexdigest()
