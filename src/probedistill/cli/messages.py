"""Messages on standard error: the package's log and all warnings, one line each."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..machine.progress import say
from ..text import printable

_LOGGER = logging.getLogger(__package__.partition(".")[0])
_PACKAGE = str(Path(__file__).parents[1])


class _Lines(logging.Handler):
    """Print each record as a line above the progress bars. Warnings and errors begin with that word and are shown only
    once per command."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        line = printable(" ".join(record.getMessage().split()))
        if record.levelno < logging.WARNING:
            say(line)
        elif line not in self._said:
            self._said.add(line)
            say(f"{record.levelname.lower()}: {line}")


@contextmanager
def shown_messages() -> Iterator[None]:
    """Show the package's messages and warnings within the block."""
    handler, level, before = _Lines(), _LOGGER.level, warnings.showwarning
    warnings.showwarning = _log_warning
    _LOGGER.addHandler(handler)
    only_warnings(False)
    try:
        yield
    finally:
        warnings.showwarning = before
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


def only_warnings(choice: bool) -> None:
    """Set whether only warnings and errors are shown (``--quiet``)."""
    _LOGGER.setLevel(logging.WARNING if choice else logging.INFO)


def _log_warning(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
    if f"{os.sep}PIL{os.sep}" in filename:
        return  # it does not name the image; one that cannot be read is reported by name
    if filename.startswith(_PACKAGE) or issubclass(category, UserWarning):
        _LOGGER.warning("%s", message)
