"""Where things go that can be computed again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import explained

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
    chosen = cache or os.environ.get(VARIABLE)
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
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return os.access(existing, os.W_OK | os.X_OK)
