"""The folder of a running distillation; `store/layout.py` says what is in it.

A folder is locked first and then examined, so that nobody changes it in between. After a kill or a power loss at any
point, it contains the old run, the new one so far, or the finished one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
from torch import Tensor

from ..config import DistillConfig, EncoderConfig, ImagesConfig, StatisticsConfig
from ..errors import UserError, option
from ..features.statistics import ClassStatistics, save_in_run
from ..images.entries import is_run
from ..machine.processes import Processes
from ..show.previews import remove_later
from ..store.card import Licence
from ..store.distilled import DamagedImagesError, DistilledSet, rebuilt
from ..store.files import (
    cannot_write,
    check_writable,
    is_empty,
    remove_folder,
    remove_leftovers,
    sync_folder,
    without_traces,
)
from ..store.layout import (
    BY_COMMANDS,
    CARD,
    CHECKPOINTS,
    CONFIG,
    EVOLUTION,
    HELD_OUT,
    IMAGES,
    LOCK,
    PREVIEW,
    PROGRESS,
    RUN,
    SHADOWS,
    STATISTICS,
    SUMS,
    TENSORS,
    checkpoint_file,
)
from ..store.locks import claimed
from ..store.records import as_plain, from_plain
from ..store.run_record import EncoderRecord, History, RunRecord, read_run, write_run
from ..store.tensors import TornFileError, load_tensors, save_tensors
from ..text import and_more
from .config_file import write_config
from .engine import Distiller, EngineState

_log = logging.getLogger(__name__)
_KEPT_CHECKPOINTS = 2


def _either() -> str:
    return f"choose another folder or add {option('overwrite', True)} instead of {option('resume', True)}"


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint contains besides its tensors.

    Attributes:
        run: `identity` of the run that it belongs to.
        engine: Plain values of `Distiller.state`.
        history: What was recorded so far.
    """

    run: str
    engine: EngineState
    history: History


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps."""

    tensors: dict[str, Tensor]
    about: CheckpointRecord

    @property
    def step(self) -> int:
        """Steps done."""
        return self.about.engine["step"]


def identity(run: RunRecord) -> str:
    """A digest of what decides a run's images: settings, encoders and real images."""
    config = {k: v for k, v in as_plain(run.config).items() if k not in ("micro_batch", "also")}
    encoders = [(e.fingerprint, e.precision, e.weight) for e in run.encoders]
    decisive = [config, encoders, run.images.fingerprint, list(run.class_names)]
    if run.base is not None:
        decisive.append(as_plain(run.base))
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


class NoFolder:
    """Replaces the folder of a run that saves nothing: it does nothing."""

    path: Path | None = None

    def claimed(self, team: Processes) -> AbstractContextManager[None]:
        """Hold the folder against other processes."""
        return nullcontext()

    def look(self) -> None:
        """Check the folder before it is held."""

    def check(self) -> None:
        """Refuse a folder that this run must not touch; change nothing."""

    def finished(self, run: RunRecord, team: Processes) -> DistilledSet | None:
        """The set, if this very run is finished already."""

    def checkpoint(self, run: RunRecord) -> Checkpoint | None:
        """Return the state that the run continues from."""

    def start(
        self,
        run: RunRecord,
        images: ImagesConfig | None,
        encoder: EncoderConfig | None,
        step: int,
        statistics: StatisticsConfig | None = None,
    ) -> None:
        """Write what says that the folder holds this run."""

    def save(self, run: RunRecord, distiller: Distiller, history: History) -> None:
        """Save the state of the run."""

    def finish(
        self,
        distilled: DistilledSet,
        statistics: Sequence[ClassStatistics] = (),
        held_out: Sequence[str] = (),
        licence: Licence | None = None,
    ) -> None:
        """Write the set, the statistics that it keeps and the names of the images that were held out.

        Then remove what only an unfinished run needs.
        """

    def resumable(self) -> AbstractContextManager[None]:
        """Say of an error within the block that the run can go on."""
        return nullcontext()


class RunFolder(NoFolder):
    """The folder of a run.

    Args:
        path: The folder.
        resume: Continue the run in it.
        overwrite: Replace the run in it.
    """

    def __init__(self, path: Path, *, resume: bool, overwrite: bool) -> None:
        if resume and overwrite:
            raise UserError(
                f"{option('resume', True)} and {option('overwrite', True)} cannot be combined; give one of them"
            )
        self.path: Path = path
        self.resume, self.overwrite = resume, overwrite

    def claimed(self, team: Processes) -> AbstractContextManager[None]:
        """Hold the folder against other processes; the first process of a run does so for all of them."""
        return claimed(self.path) if team.is_first else nullcontext()

    def look(self) -> None:
        """Check the folder before it is locked; first of all that no other process is using it."""
        try:
            self.check()
        except UserError:
            if not os.path.exists(self.path / LOCK):
                raise
            with claimed(self.path):
                raise

    def check(self) -> None:
        """Refuse a folder that cannot be written, or has something that this run would destroy; change nothing."""
        out = f"out {str(self.path)!r}"
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UserError(f"{out} is a file; choose another folder")
            empty = not self.path.exists() or is_empty(self.path, claimed=True)
        except PermissionError as error:
            raise UserError(f"{out} cannot be read: {error.strerror}; choose another folder") from error
        run = None if empty else self._known_run()
        if run is None and not empty:
            self._check_remains()
        if run is not None and not (self.resume or self.overwrite):
            if run.finished:
                raise UserError(f"{out} holds a finished run; choose another folder or add {option('overwrite', True)}")
            raise UserError(
                f"{out} holds an unfinished run; add {option('resume', True)} to continue it or "
                f"{option('overwrite', True)}"
            )
        if not (self.resume and run is not None and run.finished):  # otherwise nothing is written
            check_writable(self.path)

    def _check_remains(self) -> None:
        """Refuse a folder that is not empty and has no readable run.json, unless it may be replaced."""
        out = f"out {str(self.path)!r}"
        has_checkpoints = any((self.path / CHECKPOINTS).glob("step-*.safetensors"))
        if not has_checkpoints and not _is_of_a_run(self.path):
            raise UserError(f"{out} is not empty and is not a run; choose another folder")
        if not self.overwrite:
            what = "checkpoints without their run.json" if has_checkpoints else "a run whose run.json is damaged"
            raise UserError(f"{out} holds {what}; add {option('overwrite', True)}")

    def finished(self, run: RunRecord, team: Processes) -> DistilledSet | None:
        """Refuse to resume another run; return the set if this one is finished.

        Image files that are missing or torn are written again from the float images.
        """
        before = self._known_run() if self.resume else None
        if before is None:
            return None
        _check_same(self.path, before, run)
        if not before.finished:
            return None
        try:
            found = DistilledSet.load(self.path)
        except DamagedImagesError as error:
            if not team.is_first:
                raise
            found = rebuilt(self.path)
            _log.warning("%s: wrote its image files again", error.args[0].partition("; ")[0])
        if team.is_first:
            self._remove_temporary()  # a kill may have prevented it
            _log.info("%s is already finished", self.path)
        return found

    def checkpoint(self, run: RunRecord) -> Checkpoint | None:
        """The newest checkpoint of this run that is whole; torn ones are named in a warning and ignored.

        Raises:
            UserError: It belongs to another run.
        """
        found = newest_checkpoint(self.path) if self.resume else None
        if found is not None and found.about.run != identity(run):
            raise UserError(
                f"{str(self.path / CHECKPOINTS)!r} holds checkpoints of a run other than its {RUN}; "
                f"restore its own or add {option('overwrite', True)} instead of {option('resume', True)}"
            )
        return found

    def start(
        self,
        run: RunRecord,
        images: ImagesConfig | None,
        encoder: EncoderConfig | None,
        step: int,
        statistics: StatisticsConfig | None = None,
    ) -> None:
        """Write the files that identify this run. If it is killed, the folder contains the old run or the new one.

        Args:
            run: The run's record.
            images: For the YAML file that repeats the run; ``None`` if no options open these images.
            encoder: For the same file; ``None`` if no options make these encoders.
            step: The step that the run continues from; pictures of later ones are removed.
            statistics: What is distilled from instead of images; then ``images`` are for testing.
        """
        fresh = not (self.path / RUN).exists()
        for place in (self.path, self.path / CHECKPOINTS, self.path / EVOLUTION):
            remove_leftovers(place)  # leftovers may be as large as checkpoints, and there may be many restarts
        with without_traces(self.path):
            try:
                if self.overwrite:
                    remove_folder(self.path / CHECKPOINTS)  # first, because the new run must never see them
                write_run(self.path, run)
                if self.overwrite:
                    _remove_results(self.path)
                remove_later(self.path, step)
                write_config(self.path / CONFIG, images, encoder, run.config, statistics)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            except UserError:
                if fresh:  # the folder had no run: leave none, so that the same command works later
                    (self.path / RUN).unlink(missing_ok=True)
                raise

    def save(self, run: RunRecord, distiller: Distiller, history: History) -> None:
        """Save the engine and the history; keep the newest two checkpoints."""
        tensors, values = distiller.state()
        if not distiller.team.is_first:
            return
        path = self.path / CHECKPOINTS / checkpoint_file(distiller.step_count)
        save_tensors(path, tensors, as_plain(CheckpointRecord(identity(run), values, history)))
        others = sorted(path.parent.glob("step-*.safetensors"))
        at = others.index(path)
        for other in others[: max(0, at + 1 - _KEPT_CHECKPOINTS)] + others[at + 1 :]:  # later ones are torn
            other.unlink(missing_ok=True)

    def finish(
        self,
        distilled: DistilledSet,
        statistics: Sequence[ClassStatistics] = (),
        held_out: Sequence[str] = (),
        licence: Licence | None = None,
    ) -> None:
        """Write the set and its other files; only then remove what an unfinished run needs."""
        save_in_run(self.path, statistics)
        distilled.save(self.path, licence=licence, held_out=held_out)
        self._remove_temporary()

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Say of an error within the block that the run can go on."""
        try:
            yield
        except UserError as error:
            again = f"repeat it with {option('resume', True)} to continue from the last checkpoint"
            raise UserError(f"{error}; {again}") from error

    def _known_run(self) -> RunRecord | None:
        """The record of the run in the folder, finished or not; ``None`` if there is no readable one."""
        with suppress(UserError):
            return read_run(self.path)
        return None

    def _remove_temporary(self) -> None:
        """Remove what a finished run does not need; ignore missing permissions."""
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
        with suppress(OSError):
            (self.path / PROGRESS).unlink(missing_ok=True)
        for place in (self.path, self.path / EVOLUTION):
            remove_leftovers(place)
        sync_folder(self.path)


def begun_by_this_launch(folder: Path) -> bool:
    """Whether the run in ``folder`` was written since this process's parent (``torchrun``) was started."""
    try:
        written = (folder / RUN).stat().st_mtime
        return written > psutil.Process(os.getppid()).create_time()
    except (OSError, psutil.Error):
        return False


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; torn ones are named in a warning and ignored."""
    for path in sorted((folder / CHECKPOINTS).glob("step-*.safetensors"), reverse=True):
        try:
            tensors, about = load_tensors(path)
            found = Checkpoint(tensors, from_plain(about, CheckpointRecord))
            if len(found.about.history.losses) != found.step:
                raise TornFileError(f"{path} has the history of another step")
            return found
        except (TornFileError, msgspec.ValidationError) as error:
            warnings.warn(f"{error}; using the previous checkpoint", stacklevel=3)
    return None


def _check_same(folder: Path, before: RunRecord, now: RunRecord) -> None:
    """Refuse to resume another run."""
    out = f"out {str(folder)!r}"
    if before.images.fingerprint != now.images.fingerprint:
        ours, others = (f"{run.images.spec} {run.images.fingerprint[:12]}" for run in (now, before))
        raise UserError(f"{out} holds a run of other images ({others}, now {ours}); {_either()}")
    if [e.fingerprint for e in before.encoders] != [e.fingerprint for e in now.encoders]:
        ours, others = (" and ".join(map(_label, run.encoders)) for run in (now, before))
        raise UserError(f"{out} holds a run of other encoders ({others}, now {ours}); {_either()}")
    for one, other in zip(before.encoders, now.encoders, strict=True):
        if one.precision != other.precision:
            raise UserError(
                f"{out} holds a run with precision {one.precision!r}, now {other.precision!r}; "
                "repeat its settings, or choose another folder"
            )
    if before.base != now.base:
        raise UserError(f"{out} holds a run that continues from other images; {_either()}")
    check_settings(folder, before.config, now.config)
    for name in before.code.keys() & now.code.keys():
        if before.code[name] != now.code[name]:
            value = now.config.method if name == "method" else now.config.canvas.kind
            since = "was finished" if before.finished else "began"
            warnings.warn(
                f"{out}: the code of {name} {value!r} has changed since this run {since}; {option('overwrite', True)} "
                f"instead of {option('resume', True)} distils again",
                stacklevel=2,
            )


def check_settings(folder: Path, before: DistillConfig, now: DistillConfig) -> None:
    """Refuse to continue the run in ``folder`` with different settings."""
    # asdict, because a record of an older version lacks options, which had their defaults.
    held, wanted = (as_plain(asdict(config)) for config in (before, now))
    others = [line for line in _others(held, wanted) if not line.startswith(("micro_batch ", "also "))]
    if others:
        raise UserError(
            f"out {str(folder)!r} holds a run with {', with '.join(others[:3])}{and_more(len(others), 3)}; "
            "repeat its settings, or choose another folder"
        )


def _others(held: Mapping[str, Any], wanted: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Yield the settings that differ, nested ones with dots."""
    for name, now in wanted.items():
        before = held.get(name)
        if isinstance(now, dict) and isinstance(before, dict):
            yield from _others(before, now, f"{at}{name}.")
        elif before != now:
            yield f"{at}{name} {before!r}, now {now!r}"


def _is_of_a_run(folder: Path) -> bool:
    """Whether a folder whose run.json cannot be read nevertheless contains a run."""
    return is_run(folder) or ((folder / TENSORS).is_file() and (folder / SUMS).is_file())


def _remove_results(folder: Path) -> None:
    for name in (IMAGES, EVOLUTION, SHADOWS, "tensorboard"):
        remove_folder(folder / name)
    for name in (TENSORS, SUMS, PREVIEW, PROGRESS, CONFIG, CARD, HELD_OUT, STATISTICS, *BY_COMMANDS):
        for path in folder.glob(name):
            path.unlink()
    sync_folder(folder)


def _label(encoder: EncoderRecord) -> str:
    return f"{encoder.name} {encoder.fingerprint[:12]}"
