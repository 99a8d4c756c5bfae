"""Follow a running distillation in the terminal; only ever reads the run's folder.

What is shown comes from ``RUN/progress.json``, and from ``RUN/run.json`` when the run is finished.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from ..errors import UserError, option
from ..store.layout import LOCK, PREVIEW, PROGRESS, RUN
from ..store.locks import is_left_over
from ..store.named import run_folder
from ..store.run_record import RunRecord, read_progress_file, read_run
from ..text import duration, encodable, printable

_LOOK_EVERY_SECONDS = 1.0
_LOG_EVERY_SECONDS = 15.0
_QUIET_SECONDS = 30.0  # a run that is silent for longer may have been killed
_STOPPED_SECONDS = 3.0  # a run whose folder nobody has for longer was stopped
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.:-=+*#"


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        state: waiting (nothing there yet), starting (real features are being computed), running, finished.
        step: Steps done.
        steps: Total number of steps; 0 while it is unknown.
        losses: Loss of each step done.
        accuracy: (step, accuracy in [0, 1]) of each preview.
        seconds: Spent on the steps so far.
        quiet: Seconds since the run last reported progress.
        written: Time stamp of the file with that report, in seconds since 1970; 0 if there is none.
        ahead: Seconds by which that time stamp is in the future: the clock was changed, or is another machine's.
        held: Whether the run's folder is locked, or was when the run was killed.
        killed: Whether a silent run was killed, as far as can be seen: nothing on this machine locks its folder.
    """

    state: Literal["waiting", "starting", "running", "finished"]
    step: int = 0
    steps: int = 0
    losses: tuple[float, ...] = ()
    accuracy: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    quiet: float = 0.0
    written: float = 0.0
    ahead: float = 0.0
    held: bool = True
    killed: bool = False

    @property
    def stopped(self) -> bool:
        """Whether the run ended before it was finished: no process has its folder."""
        return self.state in ("starting", "running") and not self.held and self.quiet > _STOPPED_SECONDS

    @property
    def remaining(self) -> float | None:
        """Seconds left at the average speed so far; ``None`` before the first step."""
        return self.seconds / self.step * (self.steps - self.step) if self.step else None

    def reached(self) -> str:
        """How far the run is, in a line of text."""
        if self.state == "waiting":
            return "waiting for the run to start"
        if self.state == "starting":
            return "starting: images, encoder and real features"
        parts = [f"step {self.step} of {self.steps}"]
        if self.losses:
            parts.append(f"loss {self.losses[-1]:.4f}")
        if self.accuracy:
            parts.append(f"probe {100 * self.accuracy[-1][1]:.1f}% at step {self.accuracy[-1][0]}")
        return ", ".join(parts)

    def line(self) -> str:
        """How far the run is, and how long it will take."""
        if self.state == "finished":
            return f"finished: {self.reached()}, {duration(self.seconds)}"
        if self.stopped:
            return f"stopped: {self.reached()}"
        if self.quiet > _QUIET_SECONDS:
            silent = f"no progress for {duration(self.quiet)}"
            if self.killed:
                again = f"repeat its command with {option('resume', True)}"
                return f"{self.reached()} ({silent}, and no process on this machine has its folder; {again})"
            return f"{self.reached()} ({silent}: was it killed?)"
        if self.ahead > _QUIET_SECONDS:
            ahead = f"its files are dated {duration(self.ahead)} ahead of the clock"
            return f"{self.reached()} ({ahead}: is it still running?)"
        return self.reached() + (f", about {duration(self.remaining)} left" if self.remaining is not None else "")


def read_progress(folder: Path | str) -> Progress:
    """Return the progress of the run in ``folder``.

    Raises:
        UserError: The folder is a file, or contains something that is not a run.
    """
    folder = run_folder(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run {str(folder)!r} is a file; give the folder of a run")
    if not (folder / RUN).exists():
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise _no_run(folder)
        return Progress("waiting")
    return progress_of(read_run(folder), folder)


def progress_of(run: RunRecord, folder: Path) -> Progress:
    """The progress of the run in ``folder`` whose record has been read.

    Raises:
        UserError: Its progress.json is damaged.
    """
    if run.finished:
        # A set may lack its losses, and a set that was not distilled has no steps.
        steps = len(run.losses) or (run.config.steps if run.optimised and not run.parts else 0)
        return Progress("finished", steps, steps, tuple(run.losses), tuple(run.accuracy), run.seconds)
    so_far = read_progress_file(folder)
    if so_far is None:
        return _with_age(Progress("starting", steps=run.config.steps), folder / RUN)
    found = Progress(
        "running", so_far.step, so_far.steps, tuple(so_far.losses), tuple(so_far.accuracy), so_far.seconds
    )  # fmt: skip
    return _with_age(found, folder / PROGRESS)


def read_run_in(folder: Path) -> RunRecord:
    """The record of the run in a folder, finished or not.

    Raises:
        UserError: No such folder, one that holds no run, or a damaged run.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder {str(folder)!r}; give the folder of a run")
    if not (folder / RUN).exists():
        raise _no_run(folder)
    return read_run(folder)


def _no_run(folder: Path) -> UserError:
    """The error for a folder that is not a run, with the newest run inside it."""
    inside = sorted(folder.glob(f"*/{RUN}"), key=os.path.getmtime)
    such = f", such as {str(inside[-1].parent)!r}" if inside else ""
    return UserError(f"{str(folder)!r} holds no run; give the folder of a run{such}")


def _with_age(progress: Progress, path: Path) -> Progress:
    """Add the age of the file from which the progress was read."""
    now = time.time()
    try:
        written = path.stat().st_mtime
    except OSError:  # removed meanwhile: the run has just finished
        written = now
    return replace(
        progress, quiet=max(0.0, now - written), written=written, ahead=max(0.0, written - now),
        held=os.path.exists(path.with_name(LOCK)),
        killed=abs(now - written) > _QUIET_SECONDS and is_left_over(path.parent),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------
# The terminal


def watch(folder: Path | str, *, console: Console | None = None) -> None:
    """Show a run in the terminal until it ends; wait for it if it has not started yet.

    The view is live in a terminal; in a log file, a line is added every 15 seconds. Ctrl-C ends it and leaves the run
    alone.

    Args:
        folder: The run's folder; nothing is written to it.
        console: Where to show it. Default: standard output.

    Raises:
        UserError: ``folder`` contains something else, or the run was stopped before it was finished.
    """
    folder = run_folder(folder)
    progress = read_progress(folder)
    console = console or Console()
    if progress.state == "waiting":
        _say(console, _not_there_yet(folder))
    if console.is_terminal:
        with Live(_view(folder, progress, console.encoding), console=console, auto_refresh=False) as live:
            for now in _until_ended(folder, progress):
                progress = now
                live.update(_view(folder, now, console.encoding), refresh=True)
    else:
        progress = _log(folder, progress, console)
    if progress.stopped:
        again = f"repeat its command with {option('resume', True)} to continue it"
        raise UserError(f"run {str(folder)!r} was stopped: {progress.reached()}; {again}")
    for line in (progress.line(), f"images: {folder / PREVIEW}"):
        _say(console, line)


def _not_there_yet(folder: Path) -> str:
    """Say which run is awaited, and which runs have similar names: the user may have misspelt it."""
    place = Path(os.path.abspath(folder))
    beside = [run.parent.name for run in place.parent.glob(f"*/{RUN}")]
    near = [repr(str(folder.parent / name)) for name in difflib.get_close_matches(place.name, beside, n=2, cutoff=0.5)]
    meant = f"; did you mean {' or '.join(near)}?" if near else "."
    return f"Waiting for a run in {str(place)!r}, which has none yet{meant} Press Ctrl-C to stop waiting."


def _until_ended(folder: Path, progress: Progress) -> Iterator[Progress]:
    """Yield the run's progress again and again. Its time stamps may use another clock, so only changes count."""
    yield progress
    seen, since, has_changed = progress, time.monotonic(), False
    while progress.state != "finished" and not progress.stopped:
        time.sleep(_LOOK_EVERY_SECONDS)
        progress = read_progress(folder)
        if (progress.state, progress.step, progress.written) != (seen.state, seen.step, seen.written):
            seen, since, has_changed = progress, time.monotonic(), True
        quiet = time.monotonic() - since
        progress = replace(progress, quiet=quiet, ahead=0.0) if has_changed else _silent_for(progress, quiet)
        yield progress


def _silent_for(progress: Progress, seconds: float) -> Progress:
    """The progress of a run that has been silent for at least this long, or longer if its files are older."""
    return progress if progress.state == "waiting" else replace(progress, quiet=max(progress.quiet, seconds))


def _log(folder: Path, progress: Progress, console: Console) -> Progress:
    """Print a line when the state changes, else every 15 seconds; return the last progress."""
    state, logged = "", 0.0
    for now in _until_ended(folder, progress):
        progress, ended = now, now.state == "finished" or now.stopped
        if not ended and (now.state != state or time.monotonic() - logged >= _LOG_EVERY_SECONDS):
            state, logged = now.state, time.monotonic()
            _say(console, now.line())
    return progress


def _view(folder: Path, progress: Progress, encoding: str = "utf-8") -> Group:
    def row(name: str, text: str) -> None:
        table.add_row(name, _text(text, encoding))

    table = Table.grid(padding=(0, 2))
    if progress.steps:
        table.add_row("steps", Bar(total=progress.steps, completed=progress.step, width=40))
    if progress.losses:
        drawn = sparkline(progress.losses, blocks=BLOCKS if encoding.lower().startswith("utf") else ASCII_BLOCKS)
        row("loss", f"{drawn}  {progress.losses[0]:.4f} → {progress.losses[-1]:.4f}")
    if progress.accuracy:
        row("probe", ", ".join(f"step {k}: {100 * v:.1f}%" for k, v in progress.accuracy[-4:]))
    if (folder / PREVIEW).exists():
        row("images", str(folder / PREVIEW))
    return Group(_text(f"{folder.name or folder}: {progress.line()}", encoding), table)


def _say(console: Console, line: str) -> None:
    console.print(_text(line, console.encoding), soft_wrap=True, highlight=False)


def _text(text: str, encoding: str) -> Text:
    """Text to be shown literally, with names escaped."""
    return Text(encodable(printable(text), encoding))


def sparkline(values: Sequence[float], width: int = 40, blocks: str = BLOCKS) -> str:
    """Numbers as a line of blocks, each the mean of an equal share of them.

    >>> sparkline([4, 3, 2, 1, 0])
    '█▆▄▂▁'
    """
    means = bucket_means(values, width)
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(blocks[int((mean - low) / span * (len(blocks) - 1))] for mean in means)


def bucket_means(values: Sequence[float], most: int) -> list[float]:
    """At most ``most`` means of consecutive, equal shares (±1) of the values."""
    count = min(most, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
