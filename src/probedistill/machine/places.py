"""The cache folder, for everything that can be computed again."""

from __future__ import annotations

import getpass
import os
import tempfile
from contextlib import suppress
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
    if home is not None and hindrance(home / ".cache" / "probedistill") is None:
        return home / ".cache" / "probedistill"
    with explained("there is no place for the cache: neither the home folder nor a folder for temporary files can be "
                   "written to", OSError, hint=f"set {VARIABLE} or TMPDIR to a writable folder"):  # fmt: skip
        return _among_temporary_files()


def checked_cache(cache: Path | str | None = None, *, writes: bool = False) -> Path:
    """The folder of the cache, if it can be one.

    Args:
        cache: As for `cache_folder`.
        writes: Whether something is about to be written to it.

    Raises:
        UserError: It is a file, is below one, or is not writable. The error says which setting chose it.
    """
    folder = cache_folder(cache)
    why = hindrance(folder, writes=writes)
    if why is None:
        return folder
    if cache:
        who, way_out = "cache", f"give another folder with {option('cache')}"
    elif os.environ.get(VARIABLE):
        who, way_out = VARIABLE, "set it to another folder, or unset it"
    else:
        who, way_out = "cache", f"set {VARIABLE} to another folder"
    raise UserError(f"{who} {str(folder)!r} cannot be used: {why}; {way_out}")


def hindrance(folder: Path, *, writes: bool = True) -> str | None:
    """Why a folder cannot be used, in a few words; ``None`` if it can. Nothing is changed.

    Args:
        folder: The folder, which need not exist.
        writes: Whether it must also be possible to create it if it does not exist, and to write to it.
    """
    # os.path.exists, because Path.exists raises where it may not look. The last parent of a relative path is ".".
    nearest = next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path())
    called = "the current folder" if nearest == Path() else repr(str(nearest))
    if not nearest.is_dir():
        return f"{called} is not a folder"
    if writes and not os.access(nearest, os.W_OK | os.X_OK):
        return f"no permission to write in {called}"
    return None


def check_plain_file(path: Path, called: str) -> None:
    """Refuse a pipe or a device: reading it could block, or never end.

    Args:
        path: The file, which need not exist. What a shell gives for ``<(…)`` and ``< file`` is accepted.
        called: Its name in errors.

    Raises:
        UserError: It is a pipe or a device.
    """
    if str(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
        return
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f"{called} is a pipe or a device; give a file")


def at_home(path: Path) -> Path:
    """Replace a leading ``~`` by the home folder, which no shell does in a file of options.

    A ``~`` whose home is unknown is not changed.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def settle_user() -> None:
    """Give a user without a name or a home folder the variables that other libraries need.

    In a container with an arbitrary user id, neither a variable nor an entry may define them. PyTorch's compiler needs
    the name when it is imported, and fails. Caches below ``~`` would go to a folder called ``~`` in the current folder,
    and matplotlib would complain.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # ImportError: Windows has no such entries
        os.environ["LOGNAME"] = _number_of_user()
    home = at_home(Path("~/.cache"))
    if not os.path.exists(home) and (home.parent == Path("~") or hindrance(home)):
        with suppress(OSError):  # nowhere to write: reported when a folder is needed
            os.environ.setdefault("XDG_CACHE_HOME", str(_among_temporary_files()))
            os.environ.setdefault("MPLCONFIGDIR", str(_among_temporary_files() / "matplotlib"))


def _number_of_user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _among_temporary_files() -> Path:
    return Path(tempfile.gettempdir()) / f"probedistill-{_number_of_user()}"
