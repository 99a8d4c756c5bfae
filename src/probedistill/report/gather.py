"""Run folders and result files → plain data. Nothing in them is trusted: no path from a file is followed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..analysis.base import Analysis
from ..analysis.kinds import read_in
from ..config import ImagesConfig
from ..encoders.load import load_encoder
from ..encoders.named import encoder_config
from ..encoders.trust import check_file_options, read_yaml
from ..errors import UserError, explained, option
from ..evaluation.result import Evaluation, load_evaluation
from ..features.classes import neighbours
from ..features.encode import encode
from ..features.extract import extract_features
from ..images.decode import UnreadableImageError
from ..images.splits import load_splits
from ..show.previews import read_evolution
from ..store import run_record as store
from ..store.distilled import DistilledSet
from ..store.layout import CONFIG, EVALUATIONS, check_named_once
from ..store.named import results_folder
from ..store.pixels import to_8_bits
from .watch import Progress, read_progress

NEIGHBOURS = 3
"""Number of real images shown beside a distilled one."""

REAL_PIXELS = 160
"""Side in pixels of a real image."""


@dataclass(frozen=True)
class RealImage:
    """A real image near a distilled one: its name in the source, and the middle of it, made small."""

    name: str
    picture: Image.Image


@dataclass(frozen=True)
class ShownRun:
    """What a report shows of a run.

    Attributes:
        folder: The run's folder.
        name: What tells it from the other runs.
        progress: Steps, losses, accuracy; whether it is finished.
        about: What made it.
        class_names: C names.
        pixels: (m, S, S, 3) uint8, the images that are shipped; ``None`` while the run is not finished.
        labels: (m,) int64.
        config: The content of config.yaml; ``None`` if there is no such file.
        evolution: (step, sprite) of the snapshots.
        evaluations: Scores in the evaluation-*.json files, by file name.
        results: Results of analyses in the folder, by kind.
        near: `NEIGHBOURS` real images for each image; ``None`` if real images were not asked for.
    """

    folder: Path
    name: str
    progress: Progress
    about: store.RunRecord
    class_names: tuple[str, ...]
    pixels: NDArray[np.uint8] | None
    labels: NDArray[np.int64]
    config: str | None
    evolution: tuple[tuple[int, Path], ...]
    evaluations: tuple[Evaluation, ...]
    results: dict[str, list[Analysis]] = field(default_factory=dict)
    near: tuple[tuple[RealImage, ...], ...] | None = None

    @property
    def repeatable(self) -> bool:
        """Whether config.yaml names all that the run was made of; images made in Python have no name."""
        return {"images", "encoder"} <= set(re.findall(r"^(\w+):", self.config or "", flags=re.MULTILINE))

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.progress.state == "finished"


def gather(
    folders: Sequence[Path],
    kinds: Mapping[str, type[Analysis]],
    *,
    real_images: bool = False,
    cache: Path | None = None,
    progress: bool = True,
) -> list[ShownRun]:
    """Read the folders of runs of the same classes.

    Args:
        folders: Run folders, finished or not.
        kinds: Analyses whose results are looked for in them.
        real_images: Find the nearest real images of every distilled one, with the images and the encoder that
            the run's config.yaml names.
        cache: Folder of feature banks.
        progress: Show progress bars.

    Raises:
        UserError: No run, a run named twice, a damaged one, runs of different classes, or a result file that
            cannot be read.
    """
    if not folders:
        raise UserError("no run given; name at least one run's folder")
    names = _names(folders)
    runs = [
        _read_run(folder, name, kinds, real_images, cache, progress)
        for folder, name in zip(folders, names, strict=True)
    ]
    for run in runs[1:]:
        if set(run.class_names) != set(runs[0].class_names):
            raise UserError(
                f"runs of different classes: {str(runs[0].folder)!r} has {_listed(runs[0].class_names)}, "
                f"{str(run.folder)!r} has {_listed(run.class_names)}; give runs of the same classes"
            )
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path if the last part does not tell runs apart."""
    check_named_once(folders)
    last = [folder.resolve().name for folder in folders]
    return [name if last.count(name) == 1 else str(folder) for name, folder in zip(last, folders, strict=True)]


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _read_run(
    folder: Path,
    name: str,
    kinds: Mapping[str, type[Analysis]],
    real_images: bool,
    cache: Path | None,
    progress: bool,
) -> ShownRun:
    if not folder.is_dir():
        raise UserError(f"no such folder {str(folder)!r}; give the folder of a run")
    now = read_progress(folder)
    if now.state == "waiting":
        raise UserError(f"{str(folder)!r} holds no run; give the folder of a run")
    about = store.read_run(folder)
    pixels, labels, near = None, np.zeros(0, dtype=np.int64), None
    if now.state == "finished":
        distilled = DistilledSet.load(folder)
        pixels, labels = to_8_bits(distilled.images).permute(0, 2, 3, 1).numpy(), distilled.labels.numpy()
        if real_images:
            near = _nearest(folder, distilled, cache, progress)
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
        near=near,
    )


# ---------------------------------------------------------------------------------------------------
# Real images


def _nearest(
    folder: Path, distilled: DistilledSet, cache: Path | None, progress: bool
) -> tuple[tuple[RealImage, ...], ...]:
    """The nearest real training images of the same class, in the features of the encoder that made the set."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} has no config.yaml that names its images; leave {option('real_images', True)} out"
        )
    images = _images_config(path)
    train, _ = load_splits(images, progress=progress)
    encoder = load_encoder(encoder_config(str(path)))
    for what, here in (("images", train.fingerprint), ("encoder", encoder.fingerprint)):
        before = distilled.run.source if what == "encoder" else distilled.run.images
        if before is None or before.fingerprint != here:
            raise UserError(
                f"the {what} that {str(path)!r} names are not those the run was made with; "
                f"restore them or leave {option('real_images', True)} out"
            )
    config = distilled.run.config
    bank = extract_features(  # as for the run, so that its features are found in the cache
        encoder, train, views=config.real_view_count, augment=config.augment,
        seed=config.seed, cache=cache, strict=images.strict, progress=progress,
    )  # fmt: skip
    features = encode(encoder, distilled.images)
    # `neighbours` takes no real image twice: an image that comes three times gets its three nearest. Images of
    # the same class go in one after the other, so that they may share a neighbour.
    rows = torch.empty(len(distilled), min(NEIGHBOURS, int(torch.bincount(bank.labels).min())), dtype=torch.int64)
    turn = _occurrence(distilled.labels)
    for t in turn.unique().tolist():
        here = (turn == t).nonzero().squeeze(1)
        repeated = here.repeat_interleave(rows.shape[1])
        found = neighbours(bank, features[repeated], distilled.labels[repeated])
        rows[here] = found.view(len(here), -1)

    def real(row: int) -> RealImage:
        index = int(bank.indices[row])
        try:
            return RealImage(train.names[index], ImageOps.fit(train.load(index), (REAL_PIXELS, REAL_PIXELS)))
        except UnreadableImageError as error:
            raise UserError(f"{error}; it could be read when its features were computed: restore it") from error

    return tuple(tuple(real(row) for row in line) for line in rows.tolist())


def _images_config(path: Path) -> ImagesConfig:
    called = f"config {str(path)!r}"
    known = {k: v for k, v in read_yaml(path, called).items() if k in ImagesConfig.__dataclass_fields__}
    check_file_options(known, called)
    if "data_dir" in known:
        known["data_dir"] = Path(str(known["data_dir"]))
    hint = f"leave {option('real_images', True)} out"
    with explained(f"{called} does not say which images the run used", TypeError, ValueError, hint=hint):
        return ImagesConfig(**known)


def _occurrence(labels: torch.Tensor) -> torch.Tensor:
    """For each label, how many equal ones come before it, int64 (m,)."""
    seen: dict[int, int] = {}
    turns = []
    for label in labels.tolist():
        turns.append(seen.get(label, 0))
        seen[label] = turns[-1] + 1
    return torch.tensor(turns)
