"""SIGINT, SIGTERM and SIGHUP: obeyed at once if nothing would be lost, otherwise at the end of the step."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..errors import by_caller

_log = logging.getLogger(__name__)

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # a closed terminal; Windows has no such signal
_ENDING = [number for number in (signal.SIGTERM, _HANGUP) if number is not None]


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run after its state was saved; ``except KeyboardInterrupt`` catches it.

    Attributes:
        signal: Its number.
        folder: The run's folder, or ``None`` for a run that saves nothing.
        way_on: What the user can do to continue.
    """

    def __init__(self, number: int, folder: Path | None, way_on: str | None = None) -> None:
        self.signal, self.folder = number, folder
        self.way_on = way_on or by_caller(
            command="repeat the command with --resume to continue",
            python="repeat the call with resume=True to continue",
        )
        super().__init__(f"stopped by signal {number}" + (f"; {self.way_on}" if folder is not None else ""))

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, Path | None, str]]:
        """Give `pickle` the arguments: a pool of processes waits forever for an error that it cannot load."""
        return type(self), (self.signal, self.folder, self.way_on)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, if it ends the command as Ctrl-C does; its argument is the signal's number."""


class Stop:
    """What the signal handler records. If deferred, a signal waits for the end of the step."""

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
def catch_signals(folder: Path | None = None) -> Iterator[Stop]:
    """Catch SIGINT, SIGTERM and SIGHUP while the block runs.

    Args:
        folder: The run's folder, for the error.

    Raises:
        Interrupted: A signal ended the block.
        KeyboardInterrupt: A callback raised it.
    """
    stop = Stop()
    try:
        with _handled(stop.handle, signal.SIGINT, *_ENDING):
            yield stop
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        if stop.defer and stop.number is None:  # no signal: a callback raised it
            raise
        raise Interrupted(stop.number or number_of(error), folder) from None


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that files under way are removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    with _handled(end, *_ENDING):
        yield


@contextmanager
def raised_as_sent() -> Iterator[None]:
    """Raise the `KeyboardInterrupt` behind another error: Python and libraries wrap one that comes during an import."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def number_of(error: KeyboardInterrupt) -> int:
    """The signal behind an error."""
    if isinstance(error, Interrupted):
        return error.signal
    return error.args[0] if isinstance(error, Terminated) else signal.SIGINT


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals while the block runs, if this is the main thread: only there can handlers be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in numbers:
        if number != _HANGUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
