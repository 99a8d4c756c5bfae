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

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from torch import Tensor

from ..config import NO_EXTRAS, EncoderConfig, ImagesConfig, without_none
from ..errors import UserError
from ..machine.processes import Processes
from ..show import previews as evolution
from ..store.distilled import FORMAT, DistilledSet
from ..store.files import (
    cannot_write,
    check_writable,
    leftovers,
    remove_folder,
    remove_leftovers,
    whole_file,
    without_traces,
    write_json,
)
from ..store.tensors import TornFileError, load_tensors, save_tensors
from .engine import Distiller

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_KEPT_CHECKPOINTS = 2
_PROGRESS = "progress.json"
_PROGRESS_SECONDS = 2.0  # at least, between two writings
_PROGRESS_SHARE = 1 / 300  # of the run's time, at most


@dataclass
class History:
    """What is recorded along the way; part of every checkpoint.

    Attributes:
        losses: The loss of each step.
        accuracy: (step, probe accuracy) of each preview.
        seconds: Time in steps.
        losses_by_encoder: For each encoder the value of its objective, unweighted; empty for one encoder.
    """

    losses: list[float] = field(default_factory=list)
    accuracy: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    losses_by_encoder: list[list[float]] = field(default_factory=list)


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
    state = None if empty else _read_run(folder)
    if state is not None and "config" not in state and not overwrite:
        raise UserError(f"out {str(folder)!r} holds checkpoints without a run.json that says whose; add --overwrite")
    if state is None and not empty:
        raise UserError(f"out {str(folder)!r} is not empty and holds no run; choose another folder")
    if state is not None and not (resume or overwrite):
        if state.get("finished"):
            raise UserError(f"out {str(folder)!r} holds a finished run; choose another folder or add --overwrite")
        raise UserError(f"out {str(folder)!r} holds an unfinished run; add --resume to continue it or --overwrite")
    if not (resume and state is not None and state.get("finished")):  # nothing is written then
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
        written = (folder / "run.json").stat().st_mtime
        return written > psutil.Process(os.getppid()).create_time()
    except (OSError, psutil.Error):
        return False


def check_same_run(folder: Path, about: dict[str, Any]) -> DistilledSet | None:
    """Refuse to resume another run; return the set if this one is finished."""
    state = _read_run(folder)
    if state is None:
        return None
    for what in ("encoder", "images"):
        if state[what]["fingerprint"] != about[what]["fingerprint"]:
            raise UserError(
                f"out {str(folder)!r} holds a run of other {what} ({_label(state[what])}, now {_label(about[what])}); "
                "choose another folder or add --overwrite instead of --resume"
            )
    before, now = state.get("also", []), about.get("also", [])
    if [e["fingerprint"] for e in before] != [e["fingerprint"] for e in now]:
        names = [" and ".join(_label(e) for e in also) or "none" for also in (before, now)]
        raise UserError(
            f"out {str(folder)!r} holds a run of other further encoders ({names[0]}, now {names[1]}); "
            "choose another folder or add --overwrite instead of --resume"
        )
    for one, other in zip([state["encoder"], *before], [about["encoder"], *now], strict=True):
        if one.get("precision") != other["precision"]:
            raise UserError(
                f"out {str(folder)!r} holds a run in precision {one.get('precision')!r}, now {other['precision']!r}; "
                "repeat its settings, or choose another folder"
            )
    was, wanted = {**NO_EXTRAS, **state["config"]}, {**NO_EXTRAS, **about["config"]}
    differing = [k for k, v in wanted.items() if was.get(k) != v and k not in ("micro_batch", "also")]
    if differing:
        k = differing[0]
        raise UserError(
            f"out {str(folder)!r} holds a run with {k} {was.get(k)!r}, now {wanted[k]!r}; "
            "repeat its settings, or choose another folder"
        )
    return DistilledSet.load(folder) if state.get("finished") else None


def start_run(
    folder: Path,
    about: dict[str, Any],
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
    fresh = not (folder / "run.json").exists()
    for place in (folder, folder / "checkpoints", folder / evolution.FOLDER):
        remove_leftovers(place)  # they are as large as checkpoints, and restarts may be many
    with without_traces(folder):
        try:
            if anew:
                remove_folder(folder / "checkpoints")
            write_json(folder / "run.json", {"format": FORMAT, "finished": False, **about})
            if anew:
                _remove_results(folder)
            evolution.remove_later(folder, step)
            if images is not None and encoder is not None:
                _write_config(folder / "config.yaml", images, encoder, about["config"])
        except OSError as error:
            raise cannot_write(folder, error) from error
        except UserError:
            if fresh:  # nothing was there: leave nothing, and the same command works once it can write
                (folder / "run.json").unlink(missing_ok=True)
            raise


def save_checkpoint(folder: Path, distiller: Distiller, history: History, team: Processes) -> None:
    """Save the engine and the history; keep the newest two checkpoints."""
    tensors, values = distiller.state()
    if not team.is_first:
        return
    path = folder / "checkpoints" / f"step-{distiller.step_count:07d}.safetensors"
    save_tensors(path, tensors, {"engine": values, **asdict(history)})
    others = sorted(path.parent.glob("step-*.safetensors"))
    at = others.index(path)
    for other in others[: max(0, at + 1 - _KEPT_CHECKPOINTS)] + others[at + 1 :]:  # later ones are torn: passed over
        other.unlink(missing_ok=True)


def newest_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole; torn ones are named and passed over."""
    for path in sorted((folder / "checkpoints").glob("step-*.safetensors"), reverse=True):
        try:
            return load_tensors(path)
        except TornFileError as error:
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
        content = {
            "step": len(history.losses),
            "steps": self.steps,
            "losses": history.losses,
            "accuracy": history.accuracy,
            "seconds": round(history.seconds, 3),
        }
        with whole_file(self.folder / _PROGRESS) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
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
    for name in ("tensors.safetensors", "preview.png", _PROGRESS, "config.yaml", *by_commands):
        for path in folder.glob(name):
            path.unlink()


def remove_temporary(folder: Path) -> None:
    """Remove what a finished run has no use for, without complaint where that is not allowed."""
    for name in ("checkpoints", "images.part"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):
        (folder / _PROGRESS).unlink(missing_ok=True)
    for place in (folder, folder / evolution.FOLDER):
        remove_leftovers(place)


def _read_run(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if any((folder / "checkpoints").glob("step-*.safetensors")):
            return {"finished": False}  # a run without its run.json
        return None
    return content if _is_run(content) else None


def _is_run(content: Any) -> bool:
    """Whether this is what ``run.json`` holds, as far as it is looked at here."""
    if not isinstance(content, dict) or not {"format", "class_names", "versions"} <= content.keys():
        return False
    parts = {
        "config": ("method", "preset", "steps", "seed"),
        "encoder": ("name", "fingerprint", "input_size"),
        "images": ("spec", "split", "count", "fingerprint"),
    }
    return all(
        isinstance(content.get(part), dict) and content[part].keys() >= set(keys) for part, keys in parts.items()
    )


def _label(entry: dict[str, Any]) -> str:
    return f"{entry.get('name') or entry.get('spec')} {entry['fingerprint'][:12]}"


def _encoder_lines(state: dict[str, Any]) -> list[str]:
    encoders = [state["encoder"], *state.get("also", [])]
    lines = [f"{e['name']} at {e['input_size']} px ({_label(e)})" for e in encoders]
    weights = state["config"].get("encoder_weights", []) if len(encoders) > 1 else []
    return [f"{line}, weight {weight:g}" for line, weight in zip(lines, weights, strict=True)] if weights else lines


def read_info(folder: Path) -> dict[str, str]:
    """What a run's folder holds, as (name, text) pairs for a person."""
    if not Path(folder).is_dir():
        raise UserError(f"no such folder {str(folder)!r}; give the folder of a run")
    state = _read_run(Path(folder))
    if state is None or "config" not in state:
        raise UserError(f"{str(folder)!r} holds no run; give the folder of a run")
    config = state["config"]
    lines = {
        "method": f"{config['method']}, preset {config['preset']}, {config['steps']} steps, seed {config['seed']}",
        "encoder": "\n".join(_encoder_lines(state)),
        "images": f"{state['images']['spec']} ({state['images']['split']}), {state['images']['count']:,} images",
        "classes": f"{len(state['class_names'])}: " + ", ".join(state["class_names"][:12]),
        "versions": ", ".join(f"{k} {v}" for k, v in state["versions"].items()),
    }
    if state.get("skipped"):
        lines["images"] += f", {len(state['skipped'])} of them left out as unreadable"
    if state.get("finished"):
        distilled = DistilledSet.load(folder)
        files = list((Path(folder) / "images").glob("*/*"))
        size, kind = sum(f.stat().st_size for f in files), files[0].suffix[1:].upper()
        lines["state"] = f"finished in {state['seconds']:.0f} s on {state['device']}"
        lines["result"] = (
            f"{len(distilled)} images of {distilled.float_images.shape[-1]} px, {size / 1024:.0f} KiB as {kind}"
        )
        if "export" in state:
            about = state["export"]
            lines["export"] = ", ".join(f"{k} {about[k]}" for k in ("format", "quality", "image_size") if about.get(k))
        if distilled.soft_labels is not None:
            lines["soft labels"] = str(distilled.run.get("soft_labels", {}).get("kind", "of unknown origin"))
        if distilled.head is not None:
            lines["head"] = f"of {distilled.head.encoder}, {distilled.head.num_bytes:,} bytes"
        lines["loss"] = f"{state['losses'][0]:.4f} → {state['losses'][-1]:.4f}"
        if state["accuracy"]:
            lines["probe accuracy"] = ", ".join(f"step {k}: {100 * v:.1f} %" for k, v in state["accuracy"][-3:])
    else:
        checkpoint = newest_checkpoint(Path(folder))
        done = checkpoint[1]["engine"]["step"] if checkpoint else 0
        lines["state"] = f"not finished: {done} of {config['steps']} steps saved; repeat its command with --resume"
    return lines


def _write_config(path: Path, images: ImagesConfig, encoder: EncoderConfig, settings: dict[str, Any]) -> None:
    """Write the YAML file that repeats a run: ``probedistill distill --config FILE --out FOLDER``."""
    content = {**_plain_values(asdict(images)), **_plain_values(asdict(encoder)), **settings}
    text = yaml.safe_dump(without_none(content), sort_keys=False)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain_values(values: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v not in (None, {})}
