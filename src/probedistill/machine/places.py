"""Where things go that can be computed again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import UserError, explained, option

VARIABLE = "PROBEDISTILL_CACHE"


def cache_folder(cache: Path | str | None = None) -> Path:
    """The folder of the cache; it need not exist yet.

    Args:
        cache: The user's choice. Default: ``$PROBEDISTILL_CACHE``, else ``~/.cache/probedistill``, else, for a user
            without a home that can be written to (a container with an arbitrary user id), a folder of this user among
            the temporary files.

    Raises:
        UserError: No choice, no home, and no folder for temporary files that can be written to.
    """
    chosen = cache or os.environ.get(VARIABLE, "").strip()
    if chosen:
        return at_home(Path(chosen))
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry for this user id
        home = None
    if home is not None and _can_hold(home / ".cache" / "probedistill"):
        return home / ".cache" / "probedistill"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    with explained("there is no place for the cache: neither the home folder nor one for temporary files can be "
                   "written to", OSError, hint=f"set {VARIABLE} or TMPDIR to a folder that can"):  # fmt: skip
        return Path(tempfile.gettempdir()) / f"probedistill-{user}"


def checked_cache(cache: Path | str | None = None, *, writes: bool = False) -> Path:
    """The folder of the cache, if it can be one.

    Args:
        cache: As for `cache_folder`.
        writes: Something is about to be kept in it.

    Raises:
        UserError: It is a file, or lies below one, or it may not be written to. The error names who chose it.
    """
    folder = cache_folder(cache)
    existing = _existing(folder)
    if not existing.is_dir():
        where = "is a file" if existing == folder else f"is in {str(existing)!r}, which is a file"
        raise _no_cache(folder, cache, where)
    if writes and not _can_hold(folder):
        raise _no_cache(folder, cache, f"cannot be written to (no permission to write in {str(existing)!r})")
    return folder


def _no_cache(folder: Path, cache: Path | str | None, why: str) -> UserError:
    if cache:
        return UserError(f"cache {str(folder)!r} {why}; give another folder with {option('cache')}")
    if os.environ.get(VARIABLE):
        return UserError(f"{VARIABLE} {str(folder)!r} {why}; set it to another folder, or unset it")
    return UserError(f"cache {str(folder)!r} {why}; set {VARIABLE} to another folder")


def at_home(path: Path) -> Path:
    """The path with the home folder in place of a leading ``~``, which no shell has looked at in a file of options.

    A ``~`` of no known home stays as it is.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _can_hold(folder: Path) -> bool:
    """Whether the folder can be written to, or made."""
    return os.access(_existing(folder), os.W_OK | os.X_OK)


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    here = Path(os.curdir)
    return next((path for path in (folder, *folder.parents) if os.path.exists(path)), here)
