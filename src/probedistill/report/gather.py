"""Run folders and result files → plain data. Nothing in them is trusted: no path from a file is followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..analysis.base import Analysis
from ..analysis.kinds import read_in
from ..errors import UserError
from ..evaluation.result import Evaluation, load_evaluation
from ..show.previews import read_evolution
from ..store.distilled import DistilledSet
from ..store.layout import CONFIG, EVALUATIONS, check_named_once
from ..store.named import results_folder
from ..store.pixels import to_8_bits
from ..store.run_record import RunRecord
from .watch import Progress, progress_of, read_run_in


@dataclass(frozen=True)
class RealImage:
    """A real image near a distilled one: its name in the source, and its centre crop, made small."""

    name: str
    picture: Image.Image


@dataclass(frozen=True)
class ShownRun:
    """What a report shows of a run.

    Attributes:
        folder: The run's folder.
        name: Its name, different from those of the other runs.
        progress: Steps, losses, accuracy; whether it is finished.
        about: The record of what made it.
        class_names: C names.
        pixels: (m, S, S, 3) uint8, the images that are shipped; ``None`` while the run is not finished.
        labels: (m,) int64.
        config: The content of config.yaml; ``None`` if there is no such file.
        evolution: (step, sprite) of the snapshots.
        evaluations: Scores in the evaluation-*.json files, by file name.
        results: Results of analyses in the folder, by kind.
        near: Real images near each image; ``None`` until `nearest.with_real_images` finds them.
    """

    folder: Path
    name: str
    progress: Progress
    about: RunRecord
    class_names: tuple[str, ...]
    pixels: NDArray[np.uint8] | None
    labels: NDArray[np.int64]
    config: str | None
    evolution: tuple[tuple[int, Path], ...]
    evaluations: tuple[Evaluation, ...]
    results: dict[str, list[Analysis]] = field(default_factory=dict)
    near: tuple[tuple[RealImage, ...], ...] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.progress.state == "finished"


def gather(folders: Sequence[Path], kinds: Mapping[str, type[Analysis]]) -> list[ShownRun]:
    """Read the folders of runs of the same classes.

    Args:
        folders: Run folders, finished or not.
        kinds: Analyses whose results are looked for in them.

    Raises:
        UserError: No run, a run named twice, a damaged one, runs of different classes, or a result file that
            cannot be read.
    """
    if not folders:
        raise UserError("runs is empty; give the folder of at least one run")
    names = _names(folders)
    runs = [_read_run(folder, name, kinds) for folder, name in zip(folders, names, strict=True)]
    for run in runs[1:]:
        if set(run.class_names) != set(runs[0].class_names):
            raise UserError(
                f"runs of different classes: {str(runs[0].folder)!r} has {_listed(runs[0].class_names)}, "
                f"{str(run.folder)!r} has {_listed(run.class_names)}; give runs of the same classes"
            )
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path if the last parts are not unique."""
    check_named_once(folders)
    last = [folder.resolve().name for folder in folders]
    return [name if last.count(name) == 1 else str(folder) for name, folder in zip(last, folders, strict=True)]


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _read_run(folder: Path, name: str, kinds: Mapping[str, type[Analysis]]) -> ShownRun:
    about = read_run_in(folder)
    now = progress_of(about, folder)
    pixels, labels = None, np.zeros(0, dtype=np.int64)
    if now.state == "finished":
        distilled = DistilledSet.load(folder)
        pixels, labels = to_8_bits(distilled.images).permute(0, 2, 3, 1).numpy(), distilled.labels.numpy()
    config, results = folder / CONFIG, results_folder(folder)
    return ShownRun(
        folder=folder,
        name=name,
        progress=now,
        about=about,
        class_names=about.class_names,
        pixels=pixels,
        labels=labels,
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None,
        evolution=tuple(read_evolution(folder)),
        evaluations=tuple(load_evaluation(path) for path in sorted(results.glob(EVALUATIONS))),
        results={name: read_in(results, kind) for name, kind in kinds.items()},
    )
