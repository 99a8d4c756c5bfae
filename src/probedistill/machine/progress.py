"""Progress bars on standard error: live in a terminal and in a notebook, lines in a log file."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

from ..text import duration, encodable, printable

LOG_EVERY = 15.0
"""Seconds between two lines in a log file."""
DELAY = 1.0
"""Seconds before a live bar appears, even if no unit is done by then: shorter work needs none."""
_TELL_EVERY = 0.5
_open: list[ProgressBar] = []


class ProgressBar:
    """Show how far a loop is, how long it has run, how long it will take, and a note.

    In a terminal and in a notebook it is a live bar of ``tqdm``. In a log file it is a line every 15 seconds, so
    that long work is visible there, too.

    Args:
        description: What is being done, in a few words.
        total: Number of units.
        initial: Units already done (a resumed run).
        enabled: ``False`` prints nothing.
    """

    def __init__(self, description: str, total: int, *, initial: int = 0, enabled: bool = True) -> None:
        self.description, self.total, self.done = printable(description), total, initial
        self._initial, self._enabled = initial, enabled and sys.stderr is not None
        self._started = self._logged = time.monotonic()
        self._first: tuple[float, int] | None = None  # time of the first advance, and units done by then
        self._told = 0.0
        self._bar: Any = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> ProgressBar:
        self._started = self._logged = time.monotonic()
        if self._enabled and is_live():
            self._bar = _live_bar(_writable(self.description), self.total, self._initial)
            if is_terminal(sys.stderr):  # in a notebook, output of another thread may appear under another cell
                self._timer = threading.Timer(DELAY, _show_without_a_unit, [self._bar])
                self._timer.daemon = True
                self._timer.start()
        _open.append(self)
        return self

    def tell(self, note: str) -> None:
        """Show ``note`` while a unit takes long: how far it is. In a log file it stands in place of the time left."""
        now = time.monotonic()
        if self._bar is not None and now - self._told >= _TELL_EVERY:
            self._told = now
            self._bar.set_postfix_str(_writable(printable(note)), refresh=now - self._started >= DELAY)
        elif self._bar is None and self._enabled and now - self._logged >= LOG_EVERY:
            self._logged = now
            say(f"{self.description}: {self.done}/{self.total}  {printable(note)}")

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count ``units`` as done and show ``note`` (loss, accuracy …) behind the bar."""
        self.done += units
        if self._first is None:
            self._first = (time.monotonic(), self.done)
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(_writable(printable(note)), refresh=False)
            self._bar.update(units)
        elif self._enabled and time.monotonic() - self._logged >= LOG_EVERY:
            self._logged = time.monotonic()
            say(self.line(note))

    def line(self, note: str = "") -> str:
        """How far it is, as in a log file."""
        since, before = self._started, self._initial
        if self._first is not None and self.done > self._first[1]:
            since, before = self._first  # leave out the first advance: on a GPU its set-up takes as long as many units
        left = (time.monotonic() - since) / max(self.done - before, 1) * max(self.total - self.done, 0)
        return f"{self.description}: {self.done}/{self.total}, about {duration(left)} left  {printable(note)}".rstrip()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in _open:
            _open.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        if self._bar is not None:
            self._bar.close()


def tell(note: str) -> None:
    """Show a note on the innermost bar, if there is one: how far a long unit of its work is."""
    if _open:
        _open[-1].tell(note)


def say(line: str) -> None:
    """Print a line on standard error, above live bars if there are any.

    A full disk, a closed pipe or a closed stream does not stop the work: from then on lines are dropped.
    """
    if sys.stderr is None:
        return
    bars: Any = sys.modules.get("tqdm.auto")
    try:
        if bars is not None and len(getattr(bars.tqdm, "_instances", [])):
            bars.tqdm.write(_writable(line), file=sys.stderr)
        else:
            print(_writable(line), file=sys.stderr, flush=hasattr(sys.stderr, "flush"))
    except (OSError, ValueError):  # a stream that is closed raises ValueError
        to_nowhere(sys.stderr)


def to_nowhere(stream: TextIO) -> None:
    """Drop unwritten output of a failing stream; otherwise Python complains again when it exits."""
    with suppress(OSError, ValueError, AttributeError):  # not every stream has a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_live() -> bool:
    """Whether bars move: in a terminal and in a notebook, not in a log file."""
    return sys.stderr is not None and (is_terminal(sys.stderr) or in_notebook())


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal. What programs put in its place may be closed, or have no ``isatty``."""
    with suppress(AttributeError, ValueError):
        return stream is not None and stream.isatty()
    return False


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def _live_bar(description: str, total: int, initial: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm warns if ipywidgets is missing; the text bar will do
        from tqdm.auto import tqdm
    # miniters=1 shows every step, however long it takes, so tqdm's monitoring thread is not needed.
    tqdm.monitor_interval = 0
    return tqdm(
        total=total, initial=initial, desc=description, file=sys.stderr, delay=DELAY, miniters=1, mininterval=0.2,
        dynamic_ncols=True,
    )  # fmt: skip


def _show_without_a_unit(bar: Any) -> None:
    """Show a bar that has not advanced yet: ``tqdm`` looks at its delay only when a unit is done."""
    with suppress(OSError, ValueError), bar.get_lock():  # a stream that is closed raises ValueError
        if bar.last_print_t == bar.start_t:
            # This tells its close() that there is a line to end. Its clock and its count of units stay as they are, so
            # that the units so far do not count as done since now, nor the time so far as none.
            bar.delay = 0
            bar.refresh(nolock=True)


def _writable(text: str) -> str:
    return encodable(text, getattr(sys.stderr, "encoding", None))
