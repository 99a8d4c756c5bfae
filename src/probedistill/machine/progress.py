"""Progress bars with ETA on standard error; silent when told so or when nobody watches."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

_LOG_EVERY_SECONDS = 15.0


class ProgressBar:
    """Show ``description  [bar]  n/total  elapsed  remaining  note`` while a loop runs.

    On a terminal it is a live bar; in a log file it is a line every 15 seconds, so that long
    work is visible there too.

    Args:
        description: What is being done, in a few words.
        total: Number of units.
        initial: Units already done (a resumed run).
        enabled: ``False`` prints nothing.
    """

    def __init__(self, description: str, total: int, *, initial: int = 0, enabled: bool = True) -> None:
        self.description, self.total, self.done = description, total, initial
        self._initial, self._enabled, self._live = initial, enabled, sys.stderr.isatty()
        self._started = self._logged = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        self._started = self._logged = time.monotonic()
        if self._enabled and self._live:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                Remaining(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
            self._task = self._progress.add_task(self.description, total=self.total, completed=self._initial, note="")
        return self

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count ``units`` as done and show ``note`` (loss, accuracy …) behind the bar."""
        self.done += units
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=units, note=note)
        elif self._enabled:
            now = time.monotonic()
            if now - self._logged >= _LOG_EVERY_SECONDS:
                self._logged = now
                fresh = max(self.done - self._initial, 1)
                left = (now - self._started) / fresh * (self.total - self.done)
                print(
                    f"{self.description}: {self.done}/{self.total}, about {left:.0f} s left  {note}".rstrip(),
                    file=sys.stderr,
                    flush=True,
                )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
