"""Runs by name: ``hub:USER/NAME[@REVISION]`` and ``set:NAME``, accepted wherever a run's folder is.

Sets from elsewhere are kept in the cache and never changed. Results about them go next to them, into the folder that
`results_folder` returns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UserError, explained
from ..machine.places import cache_folder
from ..registry import Registry

RUN_SOURCES = Registry("run source", {"hub": ".ship.hub:fetch", "set": ".ship.released:unpack"})
"""The word before the colon → a function from the part after it to a folder on this machine."""


def run_folder(run: Path | str) -> Path:
    """The folder of a run that is named by its path, or by a source.

    >>> run_folder("runs/photos").as_posix()
    'runs/photos'

    Args:
        run: The path of a folder, ``hub:USER/NAME[@REVISION]``, or ``set:NAME``. A set from elsewhere is in the cache
            afterwards.

    Raises:
        UserError: The source has no such run, or it cannot be fetched; or the path is not possible.
    """
    if not isinstance(run, (str, Path)):
        raise UserError(f"run is a {type(run).__name__}; give the folder of a run, or a name such as set:digits-lite0")
    text = run.as_posix() if isinstance(run, Path) else run
    name, colon, place = text.partition(":")
    if colon and name.isidentifier() and len(name) > 1 and not os.path.exists(run) and name in RUN_SOURCES:
        return Path(RUN_SOURCES.load(name)(place))
    check_path(Path(run))
    return Path(run)


def several_runs(given: Any) -> list[Any]:
    """One run or several, by their folders or loaded, as a list."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, (str, Path)) else [given]


def check_path(path: Path) -> None:
    """Raise `UserError` for an impossible path or one that may not be read; it need not exist."""
    with (
        explained(f"{str(path)!r} cannot be opened", OSError, ValueError, hint="check the path"),
        suppress(FileNotFoundError, NotADirectoryError),
    ):
        os.stat(path)


HUB, SETS = "hub", "sets"
"""Folders of the cache for sets from elsewhere."""
_RESULTS = ".results"


def is_from_elsewhere(folder: Path) -> bool:
    """Whether a folder is, or is inside, a set that was fetched or came with the package."""
    path = Path(os.path.realpath(folder))  # Path.resolve raises for a link to itself
    roots = [Path(os.path.realpath(cache_folder() / name)) for name in (HUB, SETS)]
    if not any(root in path.parents for root in roots):
        return False
    return not any(part.endswith(_RESULTS) for part in path.parts)


def results_folder(run: Path) -> Path:
    """Return where commands write and read results about a run: its own folder, if it was made here.

    For a set from elsewhere, it is ``NAME.results`` next to the copy in the cache.
    """
    return run.with_name(run.name + _RESULTS) if is_from_elsewhere(run) else run


def check_own(folder: Path) -> None:
    """Raise `UserError` for a set from elsewhere: only a copy may be changed."""
    if is_from_elsewhere(folder):
        raise UserError(
            f"{str(folder)!r} is a set from elsewhere and is read-only; copy it first: "
            "probedistill export RUN --out FOLDER"
        )
