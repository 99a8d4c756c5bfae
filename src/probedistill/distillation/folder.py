"""The folder of a run while it is under way: may it be used, what does it hold, checkpoints, ``run.json``.

::

    RUN/
      run.json               ``finished: false`` until the very end
      config.yaml            repeats the run: ``probedistill distill --config FILE --out FOLDER``
      preview.png            the images as they are now
      progress.json          how far it is; gone when the run is finished
      evolution/step-*.webp  the images at step 0, at each preview and at the end
      checkpoints/step-*.safetensors
"""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import yaml
from torch import Tensor

from ..config import DistillConfig, EncoderConfig, ImagesConfig, without_none
from ..errors import UserError
from ..machine.processes import Processes
from ..show import previews as evolution
from ..store.distilled import DistilledSet
from ..store.files import (
    cannot_write,
    check_writable,
    leftovers,
    remove_folder,
    remove_leftovers,
    whole_file,
    without_traces,
)
from ..store.layout import RUN
from ..store.records import as_plain, from_plain
from ..store.run_record import (
    PROGRESS,
    EncoderRecord,
    History,
    RunRecord,
    read_run,
    write_progress_file,
    write_run,
)
from ..store.tensors import TornFileError, load_tensors, save_tensors
from .engine import Distiller

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_KEPT_CHECKPOINTS = 2
_PROGRESS_SECONDS = 2.0  # at least, between two writings
_PROGRESS_SHARE = 1 / 300  # of the run's time, at most


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint says beside its tensors.

    Attributes:
        engine: Plain values of `Distiller.state`.
        history: What was recorded so far.
    """

    engine: dict[str, Any]
    history: History


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps."""

    tensors: dict[str, Tensor]
    about: CheckpointRecord


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or holds something that this run would destroy; change nothing."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; give one of them")
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"out {str(folder)!r} is a file; choose another folder")
        empty = not folder.exists() or set(folder.iterdir()) <= set(leftovers(folder))
    except PermissionError as error:
        raise UserError(f"out {str(folder)!r} cannot be read: {error.strerror}; choose another folder") from error
    state = None if empty else _known_run(folder)
    if state is None and not empty:
        if not any((folder / "checkpoints").glob("step-*.safetensors")):
            raise UserError(f"out {str(folder)!r} is not empty and holds no run; choose another folder")
        if not overwrite:
            raise UserError(
                f"out {str(folder)!r} holds checkpoints without a run.json that says whose; add --overwrite"
            )
    if state is not None and not (resume or overwrite):
        if state.finished:
            raise UserError(f"out {str(folder)!r} holds a finished run; choose another folder or add --overwrite")
        raise UserError(f"out {str(folder)!r} holds an unfinished run; add --resume to continue it or --overwrite")
    if not (resume and state is not None and state.finished):  # nothing is written then
        check_writable(folder)


@contextmanager
def claimed(folder: Path | None) -> Iterator[None]:
    """Hold a run's folder, which is made for it, against other processes. It is free again when this process ends.

    Raises:
        UserError: Another process is at work in it, or it cannot be made.
    """
    if folder is None or fcntl is None:
        yield
        return
    with without_traces(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"out {str(folder)!r} is in use by another process; wait for it or choose another folder"
                ) from error
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(handle)


def begun_by_this_launch(folder: Path) -> bool:
    """Whether the run in ``folder`` was written since this process's parent (``torchrun``) was started."""
    try:
        written = (folder / RUN).stat().st_mtime
        return written > psutil.Process(os.getppid()).create_time()
    except (OSError, psutil.Error):
        return False


def check_same_run(folder: Path, about: RunRecord) -> DistilledSet | None:
    """Refuse to resume another run; return the set if this one is finished."""
    before = _known_run(folder)
    if before is None:
        return None
    instead = "choose another folder or add --overwrite instead of --resume"
    if before.images.fingerprint != about.images.fingerprint:
        was, now = (f"{run.images.spec} {run.images.fingerprint[:12]}" for run in (before, about))
        raise UserError(f"out {str(folder)!r} holds a run of other images ({was}, now {now}); {instead}")
    if [e.fingerprint for e in before.encoders] != [e.fingerprint for e in about.encoders]:
        was, now = (" and ".join(map(_label, run.encoders)) for run in (before, about))
        raise UserError(f"out {str(folder)!r} holds a run of other encoders ({was}, now {now}); {instead}")
    for one, other in zip(before.encoders, about.encoders, strict=True):
        if one.precision != other.precision:
            raise UserError(
                f"out {str(folder)!r} holds a run in precision {one.precision!r}, now {other.precision!r}; "
                "repeat its settings, or choose another folder"
            )
    held, wanted = as_plain(before.config), as_plain(about.config)
    for name in wanted:
        if held[name] != wanted[name] and name not in ("micro_batch", "also"):
            raise UserError(
                f"out {str(folder)!r} holds a run with {name} {held[name]!r}, now {wanted[name]!r}; "
                "repeat its settings, or choose another folder"
            )
    return DistilledSet.load(folder) if before.finished else None


def start_run(
    folder: Path,
    about: RunRecord,
    images: ImagesConfig | None,
    encoder: EncoderConfig | None,
    *,
    anew: bool,
    step: int = 0,
) -> None:
    """Write what says that the folder holds this run. Killed at any point, it holds the old run or the new one.

    Args:
        folder: The run's folder.
        about: What the run is.
        images: For the YAML file that repeats the run; there is none without it.
        encoder: The same.
        anew: Remove the run that is there. Its checkpoints go first: the new run must never see them.
        step: The step that the run goes on from; what shows later ones goes.
    """
    fresh = not (folder / RUN).exists()
    for place in (folder, folder / "checkpoints", folder / evolution.FOLDER):
        remove_leftovers(place)  # they are as large as checkpoints, and restarts may be many
    with without_traces(folder):
        try:
            if anew:
                remove_folder(folder / "checkpoints")
            write_run(folder, about)
            if anew:
                _remove_results(folder)
            evolution.remove_later(folder, step)
            if images is not None and encoder is not None:
                write_config(folder / "config.yaml", images, encoder, about.config)
        except OSError as error:
            raise cannot_write(folder, error) from error
        except UserError:
            if fresh:  # nothing was there: leave nothing, and the same command works once it can write
                (folder / RUN).unlink(missing_ok=True)
            raise


def save_checkpoint(folder: Path, distiller: Distiller, history: History, team: Processes) -> None:
    """Save the engine and the history; keep the newest two checkpoints."""
    tensors, values = distiller.state()
    if not team.is_first:
        return
    path = folder / "checkpoints" / f"step-{distiller.step_count:07d}.safetensors"
    save_tensors(path, tensors, as_plain(CheckpointRecord(engine=values, history=history)))
    others = sorted(path.parent.glob("step-*.safetensors"))
    at = others.index(path)
    for other in others[: max(0, at + 1 - _KEPT_CHECKPOINTS)] + others[at + 1 :]:  # later ones are torn: passed over
        other.unlink(missing_ok=True)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; torn ones are named in a warning and ignored."""
    for path in sorted((folder / "checkpoints").glob("step-*.safetensors"), reverse=True):
        try:
            tensors, about = load_tensors(path)
            return Checkpoint(tensors, from_plain(about, CheckpointRecord))
        except (TornFileError, msgspec.ValidationError) as error:
            warnings.warn(f"{error}; using the checkpoint before it", stacklevel=3)
    return None


class ProgressFile:
    """``progress.json``: how far a run is, for whoever watches. Writing it takes next to none of the run's time.

    Args:
        folder: The run's folder; ``None`` writes nothing.
        steps: Length of the run.
    """

    def __init__(self, folder: Path | None, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self._written, self._pause = -math.inf, 0.0

    def write(self, history: History, *, at_once: bool = False) -> None:
        """Write it when the last time is long enough ago (longer on a slow disk), or at once."""
        began = time.monotonic()
        if self.folder is None or not (at_once or began - self._written > self._pause):
            return
        write_progress_file(self.folder, history, self.steps)
        self._written = time.monotonic()
        self._pause = max(_PROGRESS_SECONDS, (self._written - began) / _PROGRESS_SHARE)


@contextmanager
def resumable(folder: Path | None) -> Iterator[None]:
    """Say of an error within a run that the run can go on."""
    try:
        yield
    except UserError as error:
        if folder is None:
            raise
        raise UserError(f"{error}; repeat the command with --resume to go on from the last checkpoint") from error


def _remove_results(folder: Path) -> None:
    for name in ("images", "images.part", evolution.FOLDER):
        remove_folder(folder / name)
    by_commands = ("evaluation-*.json", "geometry.*", "bias.*")  # evaluate, geometry and bias leave them here
    for name in ("tensors.safetensors", "preview.png", PROGRESS, "config.yaml", *by_commands):
        for path in folder.glob(name):
            path.unlink()


def remove_temporary(folder: Path) -> None:
    """Remove what a finished run has no use for, without complaint where that is not allowed."""
    for name in ("checkpoints", "images.part"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):
        (folder / PROGRESS).unlink(missing_ok=True)
    for place in (folder, folder / evolution.FOLDER):
        remove_leftovers(place)


def _known_run(folder: Path) -> RunRecord | None:
    """The record of the run in the folder, finished or not; ``None`` if there is none that can be read."""
    with suppress(UserError):
        return read_run(folder)
    return None


def _label(encoder: EncoderRecord) -> str:
    return f"{encoder.name} {encoder.fingerprint[:12]}"


def write_config(path: Path, images: ImagesConfig, encoder: EncoderConfig, settings: DistillConfig | None) -> None:
    """Write the YAML file that repeats a run: ``probedistill distill --config FILE --out FOLDER``.

    Args:
        path: The file.
        images: The images.
        encoder: The encoder.
        settings: How they were distilled; ``None`` for images that were not.
    """
    content = {**_plain_values(asdict(images)), **_plain_values(asdict(encoder))}
    if settings is not None:
        content |= settings.to_dict()
    text = yaml.safe_dump(without_none(content), sort_keys=False)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain_values(values: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v not in (None, {})}
