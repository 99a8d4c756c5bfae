"""``run.json``, the typed record of what made a set of synthetic images, and ``progress.json``, a run's progress."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from ..config import AugmentConfig, DistillConfig, Precision
from ..errors import UserError
from ..images.entries import own_files
from ..images.labelled import LabelledImages
from ..methods import FROM_PHOTOS, METHODS, flattened
from .layout import PROGRESS, RUN
from .records import Count, Share, as_plain, read_record, record_bytes, write_record

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder

_HINT = "make it again or restore it"
_UNKNOWN = "unknown"
_MERGED = "merged"
BEGINNINGS = {"real": "photos", "blend": "blends of photos", "average": "averages of photos", "noise": "noise"}
"""What the images of a run began as → the same in words, ordered by how much of a photo they may show."""


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """An encoder that the images were distilled with.

    Attributes:
        name: Its name.
        fingerprint: SHA-256 of its weights and settings.
        input_size: Side of its input in pixels.
        dim: Number of features.
        precision: Arithmetic inside the encoder.
        weight: Factor of its objective in the loss.
        mean, std: Normalisation of its input, per channel, for images in [0, 1]; ``None`` in older records.
    """

    name: str
    fingerprint: str
    input_size: Annotated[int, Meta(ge=1)]
    dim: Annotated[int, Meta(ge=1)]
    precision: Precision = "fp32"
    weight: float = 1.0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @classmethod
    def of(cls, encoder: Encoder, weight: float = 1.0) -> EncoderRecord:
        """The record of ``encoder``."""
        mean, std = encoder.normalisation
        return cls(
            name=encoder.name, fingerprint=encoder.fingerprint, input_size=encoder.input_size, dim=encoder.dim,
            precision=encoder.precision, weight=weight, mean=mean, std=std,
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.name} at {self.input_size} px"


@dataclass(frozen=True)
class ImagesRecord:
    """Real images, as records name them.

    Attributes:
        spec: Where they are, as on the command line.
        split: Which part of them.
        count: Number of images.
        fingerprint: SHA-256 that changes with the images.
    """

    spec: str
    split: str
    count: Count
    fingerprint: str

    @classmethod
    def of(cls, images: LabelledImages, count: int | None = None) -> ImagesRecord:
        """The record of ``images``; of ``count`` of them, if some were unreadable."""
        return cls(images.spec, images.split, len(images) if count is None else count, images.fingerprint)


@dataclass(frozen=True)
class PartRecord:
    """Whose images are in the sums.

    Attributes:
        name: The party's name for them.
        images: Fingerprint of the images: the same images are not counted twice.
        count: Number of images.
        made_by: Version of probedistill.
        removed: Whether they were taken out of sums that did not name them.
    """

    name: str
    images: str
    count: Count
    made_by: str
    removed: bool = False


@dataclass(frozen=True, kw_only=True)
class PrivacyRecord:
    """The privacy promise of statistics with noise, and of everything computed from them.

    Attributes:
        epsilon: ε of (ε, δ)-differential privacy; ``None`` for noise that anyone can repeat.
        delta: δ.
        deviation: Standard deviation of the noise in each number of a class's sum.
        count_deviation: Standard deviation of the noise in a class's count.
        adjacency: Which two data sets cannot be distinguished.
        clipping: What bounds an image's contribution to the sums.
        library: The library that did the accounting and drew the noise.
    """

    epsilon: Annotated[float, Meta(gt=0)] | None
    delta: Annotated[float, Meta(gt=0, le=1)]
    deviation: Annotated[float, Meta(gt=0)]
    count_deviation: Annotated[float, Meta(gt=0)]
    adjacency: str
    clipping: str
    library: str

    def __str__(self) -> str:
        if self.epsilon is None:
            return f"no privacy: {self.library}"
        return f"({self.epsilon:g}, {self.delta:g})-differentially private ({self.adjacency})"

    def with_disjoint(self, other: PrivacyRecord) -> PrivacyRecord:
        """The promise of both together if each image is in only one of them (parallel composition)."""
        return self._composed(other, max)

    def with_same(self, other: PrivacyRecord) -> PrivacyRecord:
        """The promise of both together if they are of the same images (basic composition)."""
        return self._composed(other, lambda one, two: one + two)

    def _composed(self, other: PrivacyRecord, of_both: Callable[[float, float], float]) -> PrivacyRecord:
        known = self.epsilon is not None and other.epsilon is not None
        return replace(
            self,
            epsilon=of_both(self.epsilon or 0.0, other.epsilon or 0.0) if known else None,
            delta=min(of_both(self.delta, other.delta), 1.0),
            deviation=math.hypot(self.deviation, other.deviation),
            count_deviation=math.hypot(self.count_deviation, other.count_deviation),
            library=self.library if self.library == other.library else f"{self.library}; {other.library}",
        )


@dataclass(frozen=True, kw_only=True)
class StatisticsRecord:
    """The encoder, views, classes and images of sums. Files can be merged if all but `class_names` and `parts` are
    equal.

    Attributes:
        encoder: The encoder of the features.
        views: Augmented views of each image, whose mean is the image's feature; 0: the centre crop.
        augment: How the views were drawn; ``None`` without views.
        class_names: C names.
        parts: Whose images are in the sums.
        privacy: The promise for the images, if counts and sums have noise. An image's feature then has length 1, and
            the recorded number and fingerprint of the images are not the true ones.
        dropped: Classes that were dropped from the sums; the correlations between features still contain them.
    """

    encoder: EncoderRecord
    views: Count
    augment: AugmentConfig | None
    class_names: tuple[str, ...]
    parts: tuple[PartRecord, ...]
    dropped: tuple[str, ...] = ()
    privacy: PrivacyRecord | None = None


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """How the image files of an exported set were made.

    Attributes:
        format: File format.
        quality: 1 to 100 for WebP and JPEG, ``None`` for PNG.
        image_size: Side of the images in pixels.
        bytes: Size of all image files.
        total_bytes: Size of image files, ``metadata.parquet`` and ``tensors.safetensors``.
    """

    format: Literal["png", "webp", "jpeg"]
    quality: Annotated[int, Meta(ge=1, le=100)] | None
    image_size: Annotated[int, Meta(ge=1)]
    bytes: Count = 0
    total_bytes: Count = 0


@dataclass(frozen=True, kw_only=True)
class SoftLabelsRecord:
    """How the soft labels of a set were made.

    Attributes:
        kind: ``"source"`` or ``"learned"``.
        temperature: Divisor of the logits.
        views: Augmented views of each synthetic image that they were computed on.
        seed: Seed of the views.
    """

    kind: str
    temperature: float | None = None
    views: Count | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class HeadRecord:
    """The encoder that a stored head takes the features of."""

    encoder: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class PartOfSet:
    """A set that another one was put together from.

    Attributes:
        name: Name of its folder.
        class_names: Its classes.
        images: The real images that it was distilled from.
        method: What distilled it.
        steps: Optimisation steps; 0 if it was not distilled here.
        seed: Its seed.
        pictures: As in `RunRecord`.
    """

    name: str
    class_names: tuple[str, ...]
    images: ImagesRecord
    method: str
    steps: int
    seed: int
    pictures: str | None = None


@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """A finished set that a run continues from.

    Attributes:
        name: Name of its folder.
        fingerprint: SHA-256 of its images and of which of them are fixed, refined or replaced.
        fixed: How many of its images are not changed.
        refined: How many of its images are optimised further.
        dropped: How many of its images are replaced.
    """

    name: str
    fingerprint: str
    fixed: Count
    refined: Count
    dropped: Count


@dataclass(kw_only=True)
class History:
    """What is recorded at each step of a run.

    Attributes:
        losses: The loss of each step.
        tower_losses: For each encoder the value of its objective at each step, unweighted.
        accuracy: (step, probe accuracy in [0, 1]) of each preview.
        seconds: Time spent in steps.
    """

    losses: list[float] = field(default_factory=list, repr=False)
    tower_losses: list[list[float]] = field(default_factory=list, repr=False)
    accuracy: list[tuple[Count, Share]] = field(default_factory=list, repr=False)
    seconds: Annotated[float, Meta(ge=0)] = 0.0


@dataclass(kw_only=True)
class RunRecord(History):
    """What made a set of synthetic images.

    Attributes:
        finished: Whether the set is complete.
        config: The settings.
        encoders: The encoders that it was distilled with. The first made the head and the soft labels, and measures the
            probe accuracy during the run. Empty for a set that was not distilled; for an imported one, as stated by the
            user.
        images: The real images.
        test: The real images that were held out; ``None`` if there were none, or in records of earlier versions.
        class_names: C names.
        versions: Version of each library that results depend on.
        device: Where the steps ran.
        micro_batch: Views per forward and backward pass for each encoder; ``None`` for all at once.
        skipped: Real images that could not be read, each with the reason.
        begun_from: What the synthetic images were at step 0: ``"noise"``, ``"average"`` (of a class, in few pixels),
            ``"blend"`` (each a mean of some real images) or ``"real"`` (real images).
        statistics: For each encoder whose statistics the set was distilled from, without any image.
        export: How the image files were made, for an exported set.
        soft_labels: How the soft labels were made, if the set has them.
        head: The encoder of the stored head, if the set has one.
        parts: The sets that a merged set was made from.
        base: The finished set that the run continued from, if any.
        forgotten: Classes that were removed.
        renamed: A former and the present name of each class that was renamed, in the order in which that was done.
        pictures: `digest_of_pictures` of the real images; ``None`` if it is not known.
        code: Digest of the code of the user's own method and canvas, by option; not in records of earlier versions.
    """

    finished: bool
    config: DistillConfig
    encoders: tuple[EncoderRecord, ...]
    images: ImagesRecord
    class_names: tuple[str, ...]
    versions: dict[str, str]
    device: str
    test: ImagesRecord | None = None
    micro_batch: tuple[int | None, ...] = ()
    skipped: tuple[str, ...] = ()
    begun_from: str = _UNKNOWN
    statistics: tuple[StatisticsRecord, ...] = ()
    export: ExportRecord | None = None
    soft_labels: SoftLabelsRecord | None = None
    head: HeadRecord | None = None
    parts: tuple[PartOfSet, ...] = ()
    base: BaseRecord | None = None
    forgotten: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    pictures: str | None = None
    code: dict[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> str | None:
        """The name of the baseline that chose the images, for real ones; ``None`` for a set that was distilled."""
        return self.method if self.config.steps == 0 else None

    @property
    def baselines(self) -> str:
        """The names of all baselines that chose the images: sets of several may have been merged."""
        return " and ".join(dict.fromkeys(part.method for part in self.parts)) or self.method

    def __post_init__(self) -> None:
        """Refuse views that cannot be drawn, and give sets that earlier versions merged the method of a part."""
        self.config.augment.check()
        if self.config.method == _MERGED:  # earlier versions wrote this, and lost the options of an own method
            known = (part.method for part in self.parts if part.method in METHODS.built_in)
            self.config = replace(self.config, method=next(known, _MERGED))

    @property
    def began_as_photos(self) -> bool:
        """Whether the images began as real ones, each by itself or many together."""
        return self.begun_from in FROM_PHOTOS

    def once_called(self, name: str) -> list[str]:
        """The classes that had this name before they were renamed."""
        return [now for old, now in self.renamed if old == name and now in self.class_names]

    def settings(self) -> dict[str, Any]:
        """Options that made the images, flat (``clp.ridge`` → 10.0), if they are known.

        ``canvas.init`` is what the images started from, even if the run continues from other images.
        """
        options = flattened(as_plain(replace(self.config, method=self.method).to_dict()))
        if not self.optimised:
            return {name: options[name] for name in ("method", "images_per_class")}
        if "canvas.init" in options and self.begun_from != _UNKNOWN:
            options["canvas.init"] = self.begun_from
        if set(self.config.encoder_weights) <= {1.0}:  # what a run with fewer encoders has, too
            options.pop("encoder_weights", None)
        return options

    @property
    def method(self) -> str:
        """What distilled the set; ``"merged"``: several methods; ``"unknown"`` for images from elsewhere."""
        if not self.encoders:
            return _UNKNOWN
        methods = {part.method for part in self.parts} or {self.config.method}
        return methods.pop() if len(methods) == 1 else _MERGED

    @property
    def made_elsewhere(self) -> bool:
        """Whether there is no record of what distilled the set: another program made it, or somebody by hand."""
        return self.method == _UNKNOWN

    @property
    def optimised(self) -> bool:
        """Whether the images were optimised here: they are neither real nor from another program."""
        return not self.made_elsewhere and self.baseline is None

    @property
    def derived(self) -> bool:
        """Whether finished sets became this one without a step: merged, with fewer or renamed classes, or exported.

        A set that continues one with fewer or renamed classes counts, too: the record cannot tell which came first.
        """
        return bool(self.parts or self.export or self.forgotten or self.renamed)

    @property
    def source(self) -> EncoderRecord | None:
        """The first encoder; ``None`` for a set that was not distilled."""
        return self.encoders[0] if self.encoders else None

    @property
    def privacy(self) -> PrivacyRecord | None:
        """The privacy promise for the images behind the set; ``None`` without one."""
        promises = [one.privacy for one in self.statistics if one.privacy is not None]
        if not promises or len(promises) < len(self.statistics):
            return None
        return reduce(PrivacyRecord.with_same, promises)  # the statistics of each encoder are a separate release

    @property
    def image_count(self) -> int:
        """How many synthetic images the run makes."""
        return len(self.class_names) * self.config.images_per_class

    def made_with(self, fingerprint: str) -> bool:
        """Whether the encoder of this fingerprint is among `encoders`."""
        return any(encoder.fingerprint == fingerprint for encoder in self.encoders)


def differs(key: str, settings: Sequence[dict[str, str]]) -> bool:
    """Whether a setting distinguishes some of the runs.

    A run lacks the options of other methods, but the method itself already shows that. It also lacks unused options:
    then one run of a method has the option and another run of the same method does not.

    Args:
        key: The setting.
        settings: `RunRecord.settings` of each run, as text.
    """
    having = [one for one in settings if key in one]
    methods = {one["method"] for one in having}
    return len({one[key] for one in having}) > 1 or any(one["method"] in methods for one in settings if key not in one)


def unrecorded() -> RunRecord:
    """The record of images whose origin is not known: a set that was put together by hand."""
    nowhere = ImagesRecord(spec=_UNKNOWN, split=_UNKNOWN, count=0, fingerprint=_UNKNOWN)
    return RunRecord(
        finished=True, config=DistillConfig(), encoders=(), images=nowhere, class_names=(), versions={}, device=_UNKNOWN
    )


def read_run(folder: Path) -> RunRecord:
    """Read ``run.json`` in a run's folder, finished or not.

    Raises:
        UserError: It is not there or damaged; the line names the file and the place.
    """
    check_plain_files(folder)
    return read_record(folder / RUN, RunRecord, kind="run", what="run", hint=_HINT)


def check_plain_files(folder: Path) -> None:
    """Raise `UserError` for a pipe or a device in a run's folder: reading it could block or never end."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if not (entry.is_file() or entry.is_dir()) and _exists(entry)]
    except OSError:
        return  # `read_record` says what is wrong
    if found:
        raise UserError(f"{str(folder)!r} has {found[0]!r}, which is a pipe or a device; remove it")


def _exists(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError:  # a broken link is a missing file
        return False
    return True


def write_run(folder: Path, run: RunRecord) -> None:
    """Write ``run.json`` into a run's folder, whole or not at all."""
    write_record(folder / RUN, run, kind="run")


def run_bytes(run: RunRecord) -> bytes:
    """What `write_run` writes."""
    return record_bytes(run, kind="run")


@dataclass(kw_only=True)
class ProgressRecord(History):
    """``progress.json``: how far a run is.

    Attributes:
        step: Steps done.
        steps: Steps in all.
    """

    step: Count
    steps: Count


def read_progress_file(folder: Path) -> ProgressRecord | None:
    """Read ``progress.json`` in a run's folder; ``None`` if it is not there.

    Raises:
        UserError: It is damaged.
    """
    path = folder / PROGRESS
    if not path.exists():
        return None
    return read_record(path, ProgressRecord, kind="progress", what="progress", hint="remove it")


def write_progress_file(folder: Path, history: History, steps: int) -> None:
    """Write ``progress.json``, whole or not at all."""
    record = ProgressRecord(
        step=len(history.losses), steps=steps, losses=history.losses, accuracy=history.accuracy,
        seconds=round(history.seconds, 3),
    )  # fmt: skip
    write_record(folder / PROGRESS, record, kind="progress")


def with_history(run: RunRecord, history: History) -> RunRecord:
    """The record with what was recorded at each step."""
    return replace(
        run, losses=history.losses, tower_losses=history.tower_losses, accuracy=history.accuracy,
        seconds=round(history.seconds, 3),
    )  # fmt: skip


def runs_below(folder: Path) -> list[Path]:
    """Folders of runs in a folder, linked ones too, without those in the bin of a system and without its copies."""
    found = [path.parent for path in own_files(folder) if path.name == RUN]
    known = {os.path.realpath(one) for one in found}
    linked = [one for one in sorted(folder.iterdir()) if one.is_symlink() and os.path.exists(one / RUN)]
    return sorted(found + [one for one in linked if os.path.realpath(one) not in known])
