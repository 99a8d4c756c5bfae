"""SIGINT and SIGTERM: at once where nothing would be lost, else at the end of the step."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_log = logging.getLogger(__name__)


class Interrupted(BaseException):
    """A signal stopped the run after its state was saved.

    Attributes:
        signal: Its number.
        folder: The run's folder, or ``None`` for a run that keeps nothing.
        way_on: What the user can do to go on.
    """

    def __init__(
        self, number: int, folder: Path | None, way_on: str = "repeat the command with --resume to go on"
    ) -> None:
        super().__init__(f"stopped by signal {number}")
        self.signal, self.folder, self.way_on = number, folder, way_on


class Stop:
    """What the signal handler leaves behind. Deferred, a signal waits for the end of the step."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.defer = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; raise at once when not deferred, and for the second one."""
        again, self.number = self.number is not None, number
        if again or not self.defer:
            raise KeyboardInterrupt
        _log.warning("stopping after this step …")


@contextmanager
def catch_signals() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM while the block runs."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
