"""A run by name: ``hub:USER/NAME[@REVISION]`` and ``set:NAME``, wherever the folder of a run is taken."""

from __future__ import annotations

from pathlib import Path

from ..registry import Registry

RUN_SOURCES = Registry("run source", {"hub": ".ship.hub:fetch", "set": ".ship.released:unpack"})
"""The word before the colon → a function that takes what is behind it and gives a folder of this machine."""


def run_folder(run: Path | str) -> Path:
    """The folder of a run that is named by its path, or by a source.

    >>> run_folder("runs/photos").as_posix()
    'runs/photos'

    Args:
        run: The path of a folder, ``hub:USER/NAME[@REVISION]``, or ``set:NAME``. What comes from elsewhere is in the
            cache afterwards.

    Raises:
        UserError: There is no such run in the source, or it cannot be had.
    """
    text = run.as_posix() if isinstance(run, Path) else run
    name, colon, place = text.partition(":")
    if colon and name.isidentifier() and len(name) > 1 and not Path(run).exists() and name in RUN_SOURCES:
        return Path(RUN_SOURCES.load(name)(place))
    return Path(run)
