"""Callbacks, which a run calls at its start, after each step, at each preview and at its end.

The progress bar, ``progress.json``, the preview and the pictures of the evolution are callbacks, and so are the
writers for TensorBoard and Weights & Biases (``--log tensorboard``, ``--log wandb``). Your own callback needs no change
to the package::

    class Shout(Callback):
        def on_step(self, step):
            print(step.step, step.loss)

    distill("folder:photos", "efficientnet_lite0", callbacks=[Shout()])

or ``--callback module:mine:make``, where ``make()`` returns a callback. Under torchrun only the first process calls
them.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError, explained, option
from ..machine.progress import ProgressBar, in_notebook, is_live, say
from ..registry import OWN, Registry
from ..show.previews import grid, save_grid, save_sprite
from ..store.layout import PREVIEW
from ..store.run_record import BEGINNINGS, History, RunRecord, write_progress_file
from ..text import counted, duration

LOGGERS = Registry(
    "logger",
    {"tensorboard": ".distillation.loggers:TensorBoard", "wandb": ".distillation.loggers:WeightsAndBiases"},
)
"""Callbacks that `RunConfig.log` names."""


@dataclass(frozen=True)
class Start:
    """A run starts or continues.

    Attributes:
        run: The run's record.
        folder: Its folder; ``None`` for a run that saves nothing.
        step: Steps done so far.
        steps: Total number of steps.
        history: What was recorded so far.
    """

    run: RunRecord
    folder: Path | None
    step: int
    steps: int
    history: History


@dataclass(frozen=True)
class Step:
    """A step is done.

    Attributes:
        step: Steps done so far.
        loss: Its loss.
        tower_losses: The objective's value for each encoder, unweighted.
        lr: Learning rate of the step.
        history: What was recorded so far, this step included.
    """

    step: int
    loss: float
    tower_losses: tuple[float, ...]
    lr: float
    history: History


@dataclass(frozen=True)
class Preview:
    """The images as they are now.

    Attributes:
        step: Steps done so far.
        images: (m, 3, S, S) float32 in [0, 1], on the CPU, as 8-bit files would give them back.
        titles: Class name of each image.
        accuracy: Probe accuracy in [0, 1]; ``None`` without test images, and at step 0.
        history: What was recorded so far.
    """

    step: int
    images: Tensor
    titles: tuple[str, ...]
    accuracy: float | None
    history: History


@dataclass(frozen=True)
class End:
    """The run ends.

    Attributes:
        step: Steps done.
        finished: Whether all steps are done; otherwise it was stopped, or failed, and can be resumed.
        history: What was recorded.
    """

    step: int
    finished: bool
    history: History


class Callback:
    """Listens to a run. A subclass defines the methods that it needs."""

    def on_start(self, start: Start) -> None:
        """Called before the first step, and when a run is resumed."""

    def on_step(self, step: Step) -> None:
        """Called after each step."""

    def on_preview(self, preview: Preview) -> None:
        """Called at step 0, about ten times during the run (`RunConfig.evaluate_every`), and at the end."""

    def on_end(self, end: End) -> None:
        """Called when the run has finished, is stopped, or fails."""


_METHODS = ("on_start", "on_step", "on_preview", "on_end")


def checked_callbacks(given: Iterable[Callback]) -> list[Callback]:
    """The callbacks as a list.

    Raises:
        UserError: One does not listen to a run as a `Callback` does.
    """
    members: list[Any] = list(given) if isinstance(given, Iterable) else [given]
    for one in members:
        if isinstance(one, type) or not all(callable(getattr(one, name, None)) for name in _METHODS):
            shown = f"the class {one.__name__}" if isinstance(one, type) else f"{one!r:.60}"
            raise UserError(f"callbacks has {shown}; give objects of a subclass of probedistill.Callback")
    if not isinstance(given, Iterable):
        raise UserError(f"callbacks is a {type(given).__name__}; give a list of them")
    return members


class Callbacks(Callback):
    """Several callbacks as one, in their order."""

    def __init__(self, members: Sequence[Callback]) -> None:
        self.members = tuple(members)

    def on_start(self, start: Start) -> None:  # noqa: D102
        for member in self.members:
            member.on_start(start)

    def on_step(self, step: Step) -> None:  # noqa: D102
        for member in self.members:
            member.on_step(step)

    def on_preview(self, preview: Preview) -> None:  # noqa: D102
        for member in self.members:
            member.on_preview(preview)

    def on_end(self, end: End) -> None:  # noqa: D102
        for member in self.members:
            member.on_end(end)


def named_callbacks(log: Sequence[str], own: Sequence[str]) -> list[Callback]:
    """Create the callbacks that a run's options name.

    Args:
        log: Names of `LOGGERS`.
        own: ``module:FILE:NAME`` of a function without arguments that returns a `Callback`, or of a class.

    Raises:
        UserError: Unknown name, something other than a callback, or a package that is not installed.
    """
    made = [LOGGERS.load(name)() for name in log]
    for name in own:
        if not name.startswith(OWN):
            raise UserError(f"callback {name!r} must be module:FILE:NAME, such as module:mine:make for mine.py")
        make = LOGGERS.load(name)
        with explained(f"callback {name!r} cannot be made", Exception, hint="it is called without arguments"):
            made.append(make())
    for name, callback in zip([*log, *own], made, strict=True):
        if not isinstance(callback, Callback):
            raise UserError(
                f"callback {name!r} returns {type(callback).__name__}; it must return a probedistill.Callback"
            )
    return made


# ---------------------------------------------------------------------------------------------------
# Callbacks of every run


class Bar(Callback):
    """The progress bar, with loss and accuracy behind it."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled, self.note = enabled, ""
        self.bar: ProgressBar | None = None

    def on_start(self, start: Start) -> None:
        """Show the bar."""
        if start.history.accuracy:
            self.note = f"probe {100 * start.history.accuracy[-1][1]:.1f}%"
        began, title = BEGINNINGS.get(start.run.begun_from, ""), f"distil {start.run.method}"
        if start.run.began_as_photos and not is_live():
            title += f" from {began}"
        elif start.run.began_as_photos and self.enabled and start.step == 0:
            # On a separate line, because a bar of 80 columns only has room for the time left and the loss.
            say(f"the images start from {began}; {option('canvas.init', 'noise')} starts without photos")
        self.bar = ProgressBar(title, start.steps, initial=start.step, enabled=self.enabled).__enter__()

    def on_preview(self, preview: Preview) -> None:
        """Remember the accuracy."""
        if preview.accuracy is not None:
            self.note = f"probe {100 * preview.accuracy:.1f}%"

    def on_step(self, step: Step) -> None:
        """Advance."""
        if self.bar is not None:
            self.bar.advance(note=f"loss {step.loss:.4f}  {self.note}")

    def on_end(self, end: End) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.__exit__(None, None, None)


class Forecast(Callback):
    """One line about a run that takes long, once its first steps have been timed."""

    FROM = 600.0
    """A run takes long if at least this many seconds are left."""
    STEPS, SECONDS = 3, 20.0
    """The forecast is made after this many timed steps, or after this many seconds, whichever comes first."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._start: Start | None = None
        self._first: tuple[int, float] | None = None

    def on_start(self, start: Start) -> None:
        """Remember the run; one that was resumed has had its forecast."""
        self._start = start
        self.enabled = self.enabled and start.step == 0

    def on_step(self, step: Step) -> None:
        """Time the steps after the first one, which also finds the micro-batch and may compile."""
        if not self.enabled or self._start is None:
            return
        if self._first is None:
            self._first = step.step, step.history.seconds
            return
        count, seconds = step.step - self._first[0], step.history.seconds - self._first[1]
        if count < self.STEPS and seconds < self.SECONDS:
            return
        self.enabled = False
        left = seconds / count * (self._start.steps - step.step)
        if left >= self.FROM:
            say(takes_long(left, self._start.run, kept=self._start.folder is not None))


def takes_long(seconds: float, run: RunRecord, *, kept: bool) -> str:
    """Return a line that says how long a run takes, and how to shorten it.

    Args:
        seconds: Seconds left.
        run: The run's record.
        kept: Whether it has a folder, from which it can be resumed.
    """
    config, ways = run.config, []
    assert config.views != "auto", "a resolved config"
    many_views = config.views >= 4
    if config.steps >= 6:
        ways.append(f"{option('steps', config.steps // 3)} takes a third of the time")
    if many_views:
        ways.append(f"{option('views', config.views // 2)} half")
    if any(encoder.precision == "fp32" for encoder in run.encoders):
        ways.append(f"{option('precision', 'bf16')} perhaps half, on hardware that supports it")
    steps, views = counted(config.steps, "step"), counted(config.views, "view")
    line = f"about {duration(seconds)} left: {steps}, {views} of each image."
    if ways:
        again = f"stop the run and add {option('overwrite', True)}; " if kept else ""
        line += f" To shorten it: {again}{', '.join(ways)}. Fewer steps or views give weaker images"
        # Measured on vision transformers, whose default is many views (docs/recipes.md).
        line += ": reduce steps before views." if many_views else "."
    return line + (f" To stop and continue later, use {option('resume', True)}." if kept else "")


class Growing(Callback):
    """Show the images in a notebook, updated in place; elsewhere show nothing."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled and in_notebook()
        self._shown: Any = None

    def on_preview(self, preview: Preview) -> None:
        """Show the images as they are now."""
        if not self.enabled:
            return
        try:
            from IPython.display import Image, display

            stream = io.BytesIO()
            grid(preview.images, list(preview.titles)).save(stream, format="PNG")
            picture = Image(stream.getvalue(), format="png")
            if self._shown is None:
                self._shown = display(picture, display_id=True)
            else:
                self._shown.update(picture)
        except Exception:  # a run must not stop because a notebook cannot show its images
            self.enabled = False


class Pictures(Callback):
    """``preview.png`` and ``evolution/``: what the images look like during the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_preview(self, preview: Preview) -> None:
        """Write the preview and the step's picture."""
        if preview.step:
            save_grid(self.folder / PREVIEW, preview.images, list(preview.titles))
        save_sprite(self.folder, preview.step, preview.images)


class ProgressFile(Callback):
    """``progress.json``: how far a run is, for `watch`. Writing it takes at most `SHARE` of the run's time."""

    LEAST_PAUSE = 2.0
    """Least number of seconds between two writes."""
    SHARE = 1 / 300
    """Largest share of the run's time that writing may take."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.steps = folder, 0
        self._written, self._pause = -math.inf, 0.0

    def on_start(self, start: Start) -> None:
        """Write the step that the run starts from."""
        self.steps = start.steps
        self.write(start.history)

    def on_step(self, step: Step) -> None:
        """Write the file if the last write is long enough ago; the pause is longer on a slow disk."""
        if time.monotonic() - self._written > self._pause:
            self.write(step.history)

    def on_preview(self, preview: Preview) -> None:
        """Write the file at once."""
        if preview.step:
            self.write(preview.history)

    def on_end(self, end: End) -> None:
        """Write the step that a run stopped at, if there is room for it."""
        if not end.finished:
            with suppress(UserError):
                self.write(end.history)

    def write(self, history: History) -> None:
        """Write the file."""
        began = time.monotonic()
        write_progress_file(self.folder, history, self.steps)
        self._written = time.monotonic()
        self._pause = max(self.LEAST_PAUSE, (self._written - began) / self.SHARE)
